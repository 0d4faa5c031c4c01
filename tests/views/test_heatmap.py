"""Head maps: symmetric colours, layers from the bottom up, the planted heads outlined, sizes that stay bounded."""

import json
import math
import time
import warnings

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

from ivlens.errors import ArgumentError
from ivlens.records import HeadEffects, UniversalEffects
from ivlens.views import head_heatmap, head_heatmaps

PLANTED = [(20, 5), (3, 8), (29, 0)]


def effects(layers=30, heads=9, n=4, planted=PLANTED, metric="probability", task="country-capital", scale=1.0):
    """Small noise everywhere, one strong negative head, and the planted heads in falling order."""
    values = 0.01 * torch.randn(n, layers, heads, generator=torch.Generator().manual_seed(0))
    values[:, 0, 0] = -0.9
    for rank, head in enumerate(planted):
        values[:, head[0], head[1]] = 0.6 - 0.1 * rank
    return HeadEffects(values * scale, torch.zeros(n), metric, "exact", task)


def maps(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


def outlined(figure: go.Figure) -> list[tuple[float, float]]:
    """The centres of the outlines as (layer, head)."""
    trace = next(trace for trace in figure.data if trace.name == "outlines")
    x, y = (np.array([math.nan if value is None else value for value in axis]) for axis in (trace.x, trace.y))
    corners = zip(y.reshape(-1, 6)[:, :4], x.reshape(-1, 6)[:, :4], strict=True)
    return [(round(up.mean(), 6), round(across.mean(), 6)) for up, across in corners]


def test_colours_are_symmetric_about_zero_and_reach_the_strongest_head() -> None:
    [cells] = maps(head_heatmap(effects()))
    assert (cells.zmin, cells.zmid, cells.zmax) == pytest.approx((-0.9, 0, 0.9))


def test_a_map_of_zeros_has_a_scale() -> None:
    record = HeadEffects(torch.zeros(2, 3, 4), torch.zeros(2), "probability", "exact")
    [cells] = maps(head_heatmap(record))
    assert (cells.zmin, cells.zmax) == (-1, 1)


def test_layer_0_is_at_the_bottom_and_rows_are_layers() -> None:
    figure = head_heatmap(effects())
    [cells] = maps(figure)
    assert np.asarray(cells.z).shape == (30, 9)
    assert cells.z[20][5] == pytest.approx(0.6)
    assert tuple(figure.layout.yaxis.range) == (-0.5, 29.5)
    assert tuple(figure.layout.xaxis.range) == (-0.5, 8.5)
    assert (figure.layout.yaxis.title.text, figure.layout.xaxis.title.text) == ("layer", "head")


def test_the_planted_heads_are_outlined_and_named() -> None:
    figure = head_heatmap(effects(), k=3)
    assert outlined(figure) == PLANTED
    names = next(trace for trace in figure.data if trace.name == "names")
    assert list(zip(names.y, names.x, names.text, strict=True)) == [(20, 5, "20.5"), (3, 8, "3.8"), (29, 0, "29.0")]


@pytest.mark.parametrize(("shape", "width"), [((30, 9), 2), ((80, 64), 1)])
def test_outlines_leave_small_cells_to_be_seen(shape: tuple[int, int], width: int) -> None:
    record = HeadEffects(torch.rand(2, *shape), torch.zeros(2), "probability", "exact")
    figure = head_heatmaps([record, record])
    assert {trace.line.width for trace in figure.data if trace.name == "outlines"} == {width}


def test_no_outlines_when_none_are_asked_for() -> None:
    figure = head_heatmap(effects(), k=0)
    assert [trace.type for trace in figure.data] == ["heatmap"]
    assert "outlined" not in figure.layout.title.text


def test_hover_says_head_value_error_and_rank() -> None:
    record = effects(metric="log-probability", n=4)
    [cells] = maps(head_heatmap(record))
    assert list(cells.customdata[20][5]) == ["20.5", "0", 1]
    name, error, rank = cells.customdata[1][1]
    assert (name, float(error)) == ("1.1", pytest.approx(record.stderr[1, 1].item(), rel=0.1))
    assert 4 <= rank < 270
    assert cells.customdata[0][0][2] == 270
    for part in ("%{customdata[0]}", "%{z:.3g} nats", "standard error %{customdata[1]}", "of 270"):
        assert part in cells.hovertemplate


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("probability", "effect on probability"),
        ("log-probability", "effect on log-probability (nats)"),
        ("logit-difference", "effect on logit-difference (logits)"),
    ],
)
def test_the_colour_bar_names_the_unit(metric: str, unit: str) -> None:
    [cells] = maps(head_heatmap(effects(metric=metric)))
    assert cells.colorbar.title.text == unit


def test_one_prompt_has_no_standard_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = head_heatmap(effects(n=1))
    assert maps(figure)[0].customdata[20][5][1] == "n/a"
    assert "n = 1 prompt<" in figure.layout.title.text


def test_the_title_says_task_metric_and_prompts() -> None:
    text = head_heatmap(effects()).layout.title.text
    assert text.startswith("country-capital<br>")
    assert "average indirect effect on the probability, n = 4 prompts" in text
    assert "outlined: the 10 strongest" in text


def test_titles_are_escaped_and_wrapped() -> None:
    text = head_heatmap(effects(), title="<a href='x'>&</a> " + 20 * "long ").layout.title.text
    assert text.startswith("&lt;a href='x'&gt;&amp;&lt;/a&gt; long")
    assert max(map(len, text.split("<span")[0].split("<br>"))) < 60
    assert "&lt;i&gt;" in head_heatmap(effects(task="<i>")).layout.title.text
    assert "&lt;i&gt;" in head_heatmaps([effects(task="<i>")]).layout.annotations[0].text


def test_universal_effects_name_their_tasks() -> None:
    tasks = ("antonym", "country-capital")
    record = UniversalEffects(effects().aie, effects().stderr, "probability", tasks, 8)
    assert head_heatmap(record).layout.title.text.startswith("antonym, country-capital<br>")
    many = UniversalEffects(effects().aie, effects().stderr, "probability", tasks * 3, 24)
    assert head_heatmap(many).layout.title.text.startswith("6 tasks<br>")


@pytest.mark.parametrize("shape", [(1, 1), (30, 9), (12, 12), (80, 64), (126, 128)])
def test_sizes_stay_bounded_and_ticks_apart(shape: tuple[int, int]) -> None:
    layers, heads = shape
    figure = head_heatmap(effects(layers, heads, planted=[]))
    layout = figure.layout
    assert 500 <= layout.width <= 1000
    assert 250 <= layout.height <= 1100
    across = layout.width - layout.margin.l - layout.margin.r
    up = layout.height - layout.margin.t - layout.margin.b
    assert layout.xaxis.dtick * across / heads >= 24
    assert layout.yaxis.dtick * up / layers >= 14


def test_a_large_map_is_quick_and_unlabelled() -> None:
    record = effects(80, 64)
    start = time.perf_counter()
    figure = head_heatmap(record)
    text = figure.to_json()
    assert time.perf_counter() - start < 2
    assert len(text) < 1_000_000
    assert "names" not in [trace.name for trace in figure.data]
    assert outlined(figure)[:3] == PLANTED


def test_several_tasks_side_by_side_have_their_own_scales() -> None:
    records = [effects(task=f"task-{i}", scale=i + 1) for i in range(4)]
    figure = head_heatmaps(records, k=3)
    assert [cells.zmax for cells in maps(figure)] == pytest.approx([0.9, 1.8, 2.7, 3.6])
    assert len({cells.colorbar.x for cells in maps(figure)}) == 4
    assert [f"task-{i}" in note.text for i, note in enumerate(figure.layout.annotations)] == [True] * 4
    assert figure.layout.width <= 1080
    assert tuple(figure.layout.yaxis4.range) == (-0.5, 29.5)


def test_a_shared_scale_has_one_colour_bar() -> None:
    figure = head_heatmaps([effects(scale=i + 1) for i in range(3)], shared_scale=True)
    assert [cells.zmax for cells in maps(figure)] == pytest.approx([2.7] * 3)
    assert [cells.showscale for cells in maps(figure)].count(False) == 2


@pytest.mark.parametrize("count", [1, 2, 5, 6])
@pytest.mark.parametrize("shape", [(30, 9), (80, 64)])
def test_any_number_of_maps_fits_a_page(count: int, shape: tuple[int, int]) -> None:
    figure = head_heatmaps([effects(*shape, planted=[])] * count, k=5)
    assert len(maps(figure)) == count == len(figure.layout.annotations)
    assert figure.layout.width <= 1080


def test_maps_that_cannot_be_shown_together_are_refused() -> None:
    with pytest.raises(ArgumentError, match="one head map or more"):
        head_heatmaps([])
    with pytest.raises(ArgumentError, match="one metric"):
        head_heatmaps([effects(), effects(metric="log-probability")], shared_scale=True)
    with pytest.raises(ArgumentError, match="k to be"):
        head_heatmap(effects(), k=-1)


def test_the_template_is_not_the_default_and_sends_nothing_to_a_cloud() -> None:
    assert pio.templates.default != "ivlens"
    layout = json.loads(head_heatmap(effects()).to_json())["layout"]["template"]["layout"]
    assert "sendcharttocloud" in layout["modebar"]["remove"]
