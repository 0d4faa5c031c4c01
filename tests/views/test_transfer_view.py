"""Transfer matrices: source tasks down, target tasks across, values in the cells, the row without a vector."""

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from ivlens.records import TransferMatrix
from ivlens.views import transfer_heatmaps


def matrix(count=3, n=10, names=None):
    """Own vectors answer all prompts; task 0's vector answers half of task 2's; bare prompts of task 1 one in ten."""
    names = names or tuple(f"task-{index}" for index in range(count))
    overlap, cosine = torch.eye(count), torch.eye(count)
    overlap[0, 1] = overlap[1, 0] = 0.25
    cosine[0, 1] = cosine[1, 0] = -0.5
    correct = torch.eye(count, dtype=torch.bool)[..., None].repeat(1, 1, n)
    correct[0, count - 1, : n // 2] = True
    bare = torch.zeros(count, n, dtype=torch.bool)
    bare[1, 0] = True
    return TransferMatrix(overlap, cosine, correct, bare, names)


def heading(figure: go.Figure) -> str:
    return figure.layout.title.text.replace("<br>", " ")


def maps(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_rows_are_sources_and_columns_are_targets() -> None:
    figure = transfer_heatmaps(matrix())
    overlap, cosine, accuracy, _ = maps(figure)
    assert np.asarray(overlap.z).tolist() == [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1]]
    assert cosine.z[0][1] == -0.5
    assert (accuracy.z[0][2], accuracy.z[2][0]) == (0.5, 0)
    assert list(accuracy.customdata[0][2][:2]) == ["task-0", "task-2"]
    assert (figure.layout.yaxis.title.text, figure.layout.xaxis.title.text) == ("source task", "target task")
    assert "rows: source task, columns: target task" in figure.layout.title.text
    assert tuple(figure.layout.yaxis.range) == (2.5, -0.5)
    assert tuple(figure.layout.yaxis.ticktext) == tuple(figure.layout.xaxis3.ticktext) == matrix().tasks


def test_scales_are_those_of_fractions_and_cosines() -> None:
    overlap, cosine, accuracy, bare = maps(transfer_heatmaps(matrix()))
    assert [(each.zmin, each.zmax) for each in (overlap, cosine, accuracy, bare)] == [(0, 1), (-1, 1), (0, 1), (0, 1)]
    assert cosine.colorscale[2][0] == 0.5
    assert overlap.colorscale == accuracy.colorscale == bare.colorscale != cosine.colorscale


def test_values_are_written_in_the_cells() -> None:
    record = matrix()
    record.cosine[0, 2] = -0.001
    overlap, cosine, accuracy, bare = maps(transfer_heatmaps(record))
    assert list(overlap.text[0]) == ["1.00", "0.25", "0.00"]
    assert list(cosine.text[0]) == ["1.00", "-0.50", "0.00"]
    assert list(accuracy.text[0]) == ["1.00", "0.00", "0.50"]
    assert list(bare.text[0]) == ["0.00", "0.10", "0.00"]
    assert list(maps(transfer_heatmaps(matrix(10)))[1].text[0][:3]) == ["1.00", "-.50", ".00"]


def test_the_row_without_a_vector_lies_under_the_accuracies_only() -> None:
    figure = transfer_heatmaps(matrix())
    bare = maps(figure)[3]
    assert (bare.xaxis, bare.yaxis) == ("x3", "y3")
    assert 2.5 < bare.y[0] < bare.y[1] == figure.layout.yaxis3.range[0]
    assert figure.layout.annotations[-1].text == "no vector"
    heights = [axis.domain[1] - axis.domain[0] for axis in (figure.layout.yaxis, figure.layout.yaxis3)]
    spans = [axis.range[0] - axis.range[1] for axis in (figure.layout.yaxis, figure.layout.yaxis3)]
    assert heights[0] / spans[0] == pytest.approx(heights[1] / spans[1])  # cells of one height
    assert figure.layout.yaxis2.domain == figure.layout.yaxis.domain


def test_it_says_that_layer_and_scale_are_shared() -> None:
    assert "added at one shared layer and scale, not at each task's best" in heading(transfer_heatmaps(matrix()))
    steering = {"settings": {"steering": {"layer": 12, "scale": 4.0, "k": 20}}}
    figure = transfer_heatmaps(replace(matrix(), provenance=steering))
    assert "shared layer and scale: layer 12, scale 4, 20 heads" in heading(figure)


def test_hover_says_interval_and_n() -> None:
    accuracy = maps(transfer_heatmaps(matrix()))[2]
    low, high, n = accuracy.customdata[0][2][2:]
    assert (low, high, n) == (pytest.approx(0.2366, abs=1e-3), pytest.approx(0.7634, abs=1e-3), 10)
    assert "95% interval" in accuracy.hovertemplate
    assert "interval" not in maps(transfer_heatmaps(matrix()))[0].hovertemplate


@pytest.mark.parametrize("count", [2, 6, 10])
def test_long_names_are_shortened_escaped_and_fit_a_page(count: int) -> None:
    names = ("<b>", *(f"{index}: a-task-with-a-name-far-too-long-for-an-axis" for index in range(1, count)))
    figure = transfer_heatmaps(matrix(count, names=names), title="<i>")
    texts = figure.layout.yaxis.ticktext
    assert texts[0] == "&lt;b&gt;"
    assert texts[1] == "1: a-task-with-a-name-far…"
    assert names[1] in maps(figure)[0].customdata[1][1][0].replace("<br>", "")
    assert figure.layout.title.text.startswith("&lt;i&gt;")
    assert figure.layout.width <= 1080
    assert (figure.layout.width - figure.layout.margin.l - figure.layout.margin.r) / 3 / count > 20
