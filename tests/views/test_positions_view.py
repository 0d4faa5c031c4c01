"""The map of heads at places: the strongest heads from the top, a column a place, colours symmetric about zero."""

import pytest
import torch

from ivlens.errors import ArgumentError
from ivlens.records import PositionEffects, PositionPartEffects
from ivlens.views import position_heatmap

VALUES = torch.tensor([[[[0.0, 1.0], [5.0, 0.0]], [[-8.0, 0.5], [0.0, 0.0]]]]).expand(3, 2, 2, 2)
EFFECTS = PositionEffects(VALUES, torch.zeros(3), "log-probability", "loop", ("query <input>", "last"), "a <task>")


def test_rows_are_the_strongest_heads_and_columns_the_places() -> None:
    figure = position_heatmap(EFFECTS, k=3)
    (cells,) = figure.data
    assert cells.z.tolist() == [[5, 0], [0, 1], [-8, 0.5]]
    assert list(figure.layout.yaxis.ticktext) == ["0.1", "0.0", "1.0"]
    assert list(figure.layout.xaxis.ticktext) == ["query &lt;input&gt;", "last"]
    assert figure.layout.yaxis.autorange == "reversed"
    assert (cells.zmin, cells.zmax) == (-8, 8)
    assert list(cells.customdata[0][0]) == ["0.1", "query &lt;input&gt;", "0"]


def test_the_title_says_what_is_shown() -> None:
    text = position_heatmap(EFFECTS).layout.title.text
    assert text.startswith("a &lt;task&gt;<br>")
    assert "loop, n = 3" in text
    assert "all heads" in text
    assert "the 2 heads of highest effect" in position_heatmap(EFFECTS, k=2, title="own").layout.title.text


def test_one_prompt_and_no_effect_are_shown() -> None:
    nothing = PositionEffects(torch.zeros(1, 2, 2, 1), torch.zeros(1), "probability", "loop", ("last",))
    (cells,) = position_heatmap(nothing).data
    assert (cells.zmin, cells.zmax) == (-1, 1)
    assert cells.customdata[0][0][2] == "n/a"
    with pytest.raises(ArgumentError, match="k to be a whole number of 1 or more"):
        position_heatmap(nothing, k=0)


def test_parts_are_rows_among_the_heads() -> None:
    mlp = torch.tensor([[[3.0, 0.0], [-1.0, -2.0]]]).expand(3, 2, 2)
    effects = PositionPartEffects(VALUES, None, mlp, None, torch.zeros(3), "probability", "loop", ("query", "last"))
    figure = position_heatmap(effects, k=3)
    assert list(figure.layout.yaxis.ticktext) == ["0.1", "mlp 0", "0.0"]
    assert figure.data[0].z.tolist() == [[5, 0], [3, 0], [0, 1]]
    assert figure.layout.yaxis.title.text == "part"
    assert "the 3 parts of highest effect" in figure.layout.title.text
