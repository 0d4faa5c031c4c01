"""Comparisons as bars: rows and colours that mean the same condition in each panel, Wilson intervals, n."""

from dataclasses import replace

import pytest
import torch

from ivlens.errors import ArgumentError
from ivlens.records import ConditionComparison
from ivlens.views import comparison_bars
from ivlens.views.style import GREY

CONDITIONS = ("bare", "instruction vector", "random vector, seed 0")


def comparison(task="antonym", conditions=CONDITIONS, n=20):
    """Of ``n`` prompts, the condition at place i has 4 i correct."""
    correct = torch.stack([torch.arange(n) < 4 * index for index in range(len(conditions))])
    return ConditionComparison(correct, 0.5 * correct.float(), tuple(conditions), task)


def bars(figure):
    return [trace for trace in figure.data if trace.type == "bar"]


def test_bars_are_accuracies_with_wilson_intervals() -> None:
    record = comparison()
    [trace] = bars(comparison_bars([record]))
    frame = record.to_frame()
    assert trace.orientation == "h"
    assert list(trace.x) == pytest.approx([0, 0.2, 0.4])
    assert list(trace.x + trace.error_x.array) == pytest.approx(frame["high"].tolist())
    assert list(trace.x - trace.error_x.arrayminus) == pytest.approx(frame["low"].tolist())
    assert list(trace.customdata[1]) == [
        "instruction vector",
        frame["low"][1],
        frame["high"][1],
        pytest.approx(0.1),
        20,
    ]


def test_the_first_condition_is_the_top_row_and_named_at_the_left() -> None:
    figure = comparison_bars([comparison(), comparison("synonym")])
    assert tuple(figure.layout.yaxis.range) == tuple(figure.layout.yaxis2.range) == (2.5, -0.5)
    assert tuple(figure.layout.yaxis.ticktext) == CONDITIONS
    assert not figure.layout.yaxis2.ticktext
    assert [note.text for note in figure.layout.annotations] == ["<b>antonym</b>", "<b>synonym</b>"]
    values = [trace.text for trace in figure.data if trace.name == "values"]
    assert values == [("0.00", "0.20", "0.40")] * 2


@pytest.mark.parametrize(
    "settings", [{"layer": 12, "scale": 4.0}, {"steering": {"layer": 12, "scale": 4.0, "k": None}}]
)
def test_a_panel_names_its_layer_and_scale(settings: dict) -> None:
    told = replace(comparison(), provenance={"settings": settings})
    notes = [note.text for note in comparison_bars([told, comparison("synonym")]).layout.annotations]
    assert notes == ["<b>antonym</b><br>layer 12, scale 4", "<b>synonym</b><br>"]


def test_a_condition_keeps_its_row_and_colour_where_others_are_missing() -> None:
    fewer = comparison("synonym", ("random heads", "instruction vector"))
    one, two = bars(comparison_bars([comparison(), fewer]))
    assert list(one.y) == [0, 1, 2]
    assert list(two.y) == [3, 1]
    assert two.marker.color == (GREY, one.marker.color[1])


def test_controls_that_are_zero_everywhere_share_a_row() -> None:
    random = [f"bare + random vector {seed}" for seed in range(4)]
    names = ("bare", "bare + vector", *random, "bare + vector of synonym")
    correct = torch.zeros(len(names), 10, dtype=torch.bool)
    correct[1], correct[5, 0] = True, True
    record = ConditionComparison(correct, torch.linspace(0, 0.6, 7)[:, None].expand(7, 10), names, "antonym")
    figure = comparison_bars([record])
    shared = "bare + random vector (3, each 0)"
    assert list(figure.layout.yaxis.ticktext) == ["bare", "bare + vector", shared, names[5], names[6]]
    [trace] = bars(figure)
    assert list(trace.x) == pytest.approx([0, 1, 0, 0.1, 0])
    assert trace.customdata[2][3] == pytest.approx(0.3)
    assert trace.marker.color[2] == GREY
    other = ConditionComparison(~correct, torch.zeros(7, 10), names, "synonym")
    assert list(comparison_bars([record, other]).layout.yaxis.ticktext) == list(names)


def test_random_controls_are_grey_and_the_others_differ() -> None:
    names = tuple(f"condition {index}" for index in range(9))
    [trace] = bars(comparison_bars([comparison(conditions=(*names, "random vector", "random heads"), n=60)]))
    assert len({*trace.marker.color[:9]}) == 9
    assert GREY not in trace.marker.color[:9]
    assert trace.marker.color[9:] == (GREY, GREY)


def test_the_subtitle_says_how_many_prompts() -> None:
    text = comparison_bars([comparison(), comparison("synonym")]).layout.title.text
    assert "n = 20 prompts for each task, grey: random controls" in text
    assert "n = 20 to 30 prompts" in comparison_bars([comparison(), comparison(n=30)]).layout.title.text
    assert "grey" not in comparison_bars([comparison(conditions=["bare"])]).layout.title.text


def test_names_are_escaped_wrapped_and_have_room() -> None:
    figure = comparison_bars([comparison("<b>", ("<i> of " + 10 * "many words ", "bare"))], title="<u>")
    assert figure.layout.yaxis.ticktext[0].startswith("&lt;i&gt; of many words many words many<br>")
    height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert height / 2 > 12 * (1 + figure.layout.yaxis.ticktext[0].count("<br>"))
    assert figure.layout.margin.l > 200
    assert "&lt;b&gt;" in figure.layout.annotations[0].text
    assert figure.layout.title.text.startswith("&lt;u&gt;")
    assert bars(figure)[0].customdata[0][0].startswith("&lt;i&gt;")


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_any_number_of_tasks_fits_a_page(count: int) -> None:
    names = tuple(f"a condition with a long name, number {index}" for index in range(10))
    figure = comparison_bars([comparison(f"task-{index}", names, n=60) for index in range(count)])
    assert len(bars(figure)) == count
    assert figure.layout.width <= 1080
    assert figure.layout.xaxis.range[1] > 1


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ArgumentError, match="one comparison or more; got none"):
        comparison_bars([])
