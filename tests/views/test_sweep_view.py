"""Sweeps as figures: layers from the bottom up, colours from 0 to 1, the best cell outlined in its panel."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from ivlens.records import SteeringSweep
from ivlens.views import sweep_heatmap
from ivlens.views.style import SEQUENTIAL

BEST = (8, 2.0, 10)


def sweep(layers=(0, 4, 8, 12), scales=(0.5, 1.0, 2.0), ks=(5, 10), n=20, best=BEST, task="<antonym>"):
    """Hits rise with the layer's place, by one prompt; at ``best`` all prompts but one are hit."""
    correct = torch.zeros(len(layers), len(scales), len(ks), n, dtype=torch.bool)
    for index in range(len(layers)):
        correct[index, ..., :index] = True
    correct[layers.index(best[0]), scales.index(best[1]), ks.index(best[2]), : n - 1] = True
    return SteeringSweep(correct, 0.25 + 0.5 * correct.float(), layers, scales, ks, task)


def maps(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_a_panel_holds_the_accuracies_of_one_number_of_heads() -> None:
    figure = sweep_heatmap(sweep())
    five, ten = maps(figure)
    assert np.asarray(five.z) == pytest.approx(np.array([[0] * 3, [0.05] * 3, [0.1] * 3, [0.15] * 3]))
    assert ten.z[2][2] == 0.95
    assert [note.text for note in figure.layout.annotations] == ["<b>5 heads</b>", "<b>10 heads</b>"]


def test_layers_rise_and_scales_go_right_whatever_their_order() -> None:
    shuffled = sweep_heatmap(sweep(layers=(12, 0, 8, 4), scales=(2.0, 0.5, 1.0), ks=(10, 5)))
    for figure in (sweep_heatmap(sweep()), shuffled):
        for axis in (figure.layout.yaxis, figure.layout.yaxis2):
            assert tuple(axis.range) == (-0.5, 3.5)
            assert tuple(axis.ticktext) == ("0", "4", "8", "12")
        assert tuple(figure.layout.xaxis.ticktext) == ("0.5", "1", "2")
        assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("scale", "layer")
        assert maps(figure)[1].z[2][2] == 0.95


def test_colours_span_0_to_1_and_darken_all_the_way() -> None:
    assert [(cells.zmin, cells.zmax, cells.showscale) for cells in maps(sweep_heatmap(sweep()))] == [
        (0, 1, True), (0, 1, False),
    ]  # fmt: skip
    rgb = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for _, colour in SEQUENTIAL])
    assert (np.diff(rgb @ [0.2126, 0.7152, 0.0722]) < 0).all()


def test_the_best_cell_alone_is_outlined_in_its_own_panel() -> None:
    figure = sweep_heatmap(sweep())
    [outline] = [trace for trace in figure.data if trace.type == "scatter"]
    assert (outline.xaxis, outline.yaxis) == ("x2", "y2")
    assert (np.mean(outline.x[:4]), np.mean(outline.y[:4])) == pytest.approx((2, 2))
    assert max(outline.x[:5]) - min(outline.x[:5]) < 1
    assert outline.x[5:] == (None,)  # one square only


def test_hover_and_subtitle_say_accuracy_interval_probability_and_n() -> None:
    figure = sweep_heatmap(sweep())
    layer, scale, low, high, probability, n = maps(figure)[1].customdata[2][2]
    row = sweep().to_frame().query("layer == 8 and scale == 2 and k == 10").iloc[0]
    assert (layer, scale, low, high) == (8, 2, row["low"], row["high"])
    assert (probability, n) == (pytest.approx(0.725), 20)
    text = figure.layout.title.text
    assert text.startswith("&lt;antonym&gt;<br>")
    assert "n = 20 prompts" in text
    assert "layer 8, scale 2, 10 heads: 0.95 (95% interval 0.76 to 0.99)" in text
    assert sweep_heatmap(sweep(), title="mine").layout.title.text.startswith("mine<br>")


@pytest.mark.parametrize("ks", [(1,), (1, 2, 3, 4), tuple(range(1, 8))])
@pytest.mark.parametrize("layers", [1, 40])
@pytest.mark.parametrize("scales", [1, 5, 20])
def test_any_sweep_fits_a_page(layers: int, scales: int, ks: tuple[int, ...]) -> None:
    figure = sweep_heatmap(sweep(tuple(range(layers)), tuple(0.5 * at for at in range(scales)), ks, best=(0, 0.0, 1)))
    assert len(maps(figure)) == len(ks)
    assert figure.layout.width <= 1080
    across = (figure.layout.width - 140) / scales
    assert maps(figure)[0].texttemplate is None or across >= 28
