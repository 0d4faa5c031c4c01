"""Differences from a baseline: their values, intervals and rows."""

import math

import pandas as pd
import pytest

from ivlens.errors import ArgumentError
from ivlens.views import difference_intervals

FRAME = pd.DataFrame({
    "panel": ["one", "one", "one", "two"], "name": ["<plain>", "<plain>", "guided", "guided"],
    "measure": ["learned", "kept", "kept", "kept"], "value": [-0.1, -0.2, 0.05, 0.3],
    "low": [-0.2, -0.3, math.nan, 0.1], "high": [0.1, -0.1, math.nan, 0.5],
})  # fmt: skip


def test_each_measure_is_a_mark_in_its_row_with_its_interval() -> None:
    figure = difference_intervals(FRAME, title="Title", facts="facts")
    learned, kept, _, other = figure.data
    assert (list(learned.x), list(kept.x), list(other.x)) == ([-0.1], [-0.2, 0.05], [0.3])
    assert learned.x[0] - learned.error_x.arrayminus[0] == pytest.approx(-0.2)
    assert learned.x[0] + learned.error_x.array[0] == pytest.approx(0.1)
    assert learned.y[0] < kept.y[0] < kept.y[1] == other.y[0]
    assert "[-0.200, +0.100]" in learned.hovertext[0]
    assert "[" not in kept.hovertext[1]
    assert list(figure.layout.yaxis.ticktext) == ["&lt;plain&gt;", "guided"]
    low, high = figure.layout.xaxis.range
    assert (low, high) == figure.layout.xaxis2.range
    assert low == -high < -0.5
    assert len(figure.layout.shapes) == 2


def test_intervals_and_panels_may_be_unknown() -> None:
    figure = difference_intervals(FRAME[["name", "measure", "value"]], title="Title")
    assert [trace.name for trace in figure.data] == ["learned", "kept"]
    with pytest.raises(ArgumentError, match="without value"):
        difference_intervals(FRAME.drop(columns="value"), title="Title")
