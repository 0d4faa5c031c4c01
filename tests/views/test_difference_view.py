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
    learned, kept, other = figure.data
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


def test_the_legend_names_measures_that_some_panels_lack() -> None:
    figure = difference_intervals(FRAME.iloc[[0, 3]], title="Title")
    assert [trace.name for trace in figure.data if trace.showlegend] == ["learned", "kept"]


def test_marks_of_many_measures_stay_within_their_row() -> None:
    rows = [(name, f"m{number}", 1e-6) for name in (1, None) for number in range(8)]
    figure = difference_intervals(pd.DataFrame(rows, columns=["name", "measure", "value"]), title="Title")
    heights = [y for trace in figure.data for y in trace.y]
    assert {round(y) for y in heights} == {0, 1}
    assert len(set(heights)) == 16
    assert figure.layout.xaxis.range[1] < 2e-6


def test_intervals_and_panels_may_be_unknown() -> None:
    figure = difference_intervals(FRAME[["name", "measure", "value"]].iloc[:3], title="Title")
    assert [trace.name for trace in figure.data] == ["learned", "kept"]
    partly = difference_intervals(FRAME.assign(panel=[None, "1", 1, "1"]).iloc[:3], title="Title")
    assert sum(len(trace.x) for trace in partly.data) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "much"}, "finite value"), ({"low": math.inf}, "finite value"), ({"high": math.nan}, "finite value"),
        ({"low": 0.9, "high": 1.0}, "finite value"), ({"value": math.nan}, "finite value"),
        ({"panel": "one", "name": "plain", "measure": "kept"}, "two of plain, kept"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(change: dict[str, object], message: str) -> None:
    frame = FRAME.assign(low=-1.0, high=1.0).astype(object)
    with pytest.raises(ArgumentError, match=message):
        difference_intervals(frame.assign(**change), title="Title")


def test_a_missing_column_or_row_is_refused() -> None:
    with pytest.raises(ArgumentError, match="without value"):
        difference_intervals(FRAME.drop(columns="value"), title="Title")
    with pytest.raises(ArgumentError, match="no row"):
        difference_intervals(FRAME.iloc[:0], title="Title")
