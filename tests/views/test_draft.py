"""A draft is the figure that plotly's own subplots would be, checked once."""

from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.basedatatypes import BaseFigure
from plotly.subplots import make_subplots

from ivlens.views.draft import Domain, merged
from ivlens.views.layout import Margins, Size, legend_around, panel_grid

NAMES, SIZE, GAPS = ["a", "b", "c"], Size(200, 100), Size(40, 30)


def drafted() -> go.Figure:
    draft, panels = panel_grid(NAMES, SIZE, 2, GAPS, Margins(50, 20, 30), "Title", "facts")
    for number, panel in enumerate(panels):
        draft.add_traces([go.Scatter(x=[0, 1], y=[number, 2], legendgroup="g", name="line")], **panel)
        draft.update_yaxes({"title": {"text": f"y {number}"}}, **panel)
    draft.update_xaxes({"title": {"text": "x"}, "zeroline": False})
    draft.update_xaxes({"title": {"font": {"size": 9}}}, row=2)
    draft.update_yaxes({"dtick": 1}, col=2)
    draft.layout |= legend_around(draft.traces, ["g"])
    return draft.figure()


def test_panels_are_where_plotly_would_put_them() -> None:
    ours = drafted()
    layout = ours.layout
    inner = layout.width - layout.margin.l - layout.margin.r, layout.height - layout.margin.t - layout.margin.b
    row_gap = inner[1] - 2 * SIZE.height
    theirs = make_subplots(
        2, 2, specs=[[{}, {}], [{}, None]], subplot_titles=[f"<b>{name}</b>" for name in NAMES],
        horizontal_spacing=GAPS.width / inner[0], vertical_spacing=row_gap / inner[1],
    )  # fmt: skip
    for number, panel in enumerate([(1, 1), (1, 2), (2, 1)]):
        theirs.add_trace(go.Scatter(x=[0, 1], y=[number, 2], legendgroup="g", name="line"), *panel)
        theirs.update_yaxes(title_text=f"y {number}", row=panel[0], col=panel[1])
        drawn, expected = (figure.get_subplot(*panel) for figure in (ours, theirs))
        for axis in ("xaxis", "yaxis"):
            assert drawn[axis == "yaxis"].domain == pytest.approx(expected[axis == "yaxis"].domain)
            assert drawn[axis == "yaxis"].anchor == expected[axis == "yaxis"].anchor
    assert [(each.xaxis, each.yaxis) for each in ours.data] == [(each.xaxis, each.yaxis) for each in theirs.data]
    for drawn, expected in zip(layout.annotations, theirs.layout.annotations, strict=True):
        assert drawn.text == expected.text
        assert (drawn.x, drawn.y) == pytest.approx((expected.x, expected.y))


def test_options_are_merged_and_reach_the_axes_that_are_asked() -> None:
    figure = drafted()
    assert [figure.layout[f"xaxis{at}"].title.text for at in ("", "2", "3")] == ["x"] * 3
    assert [figure.layout[f"xaxis{at}"].title.font.size for at in ("", "2", "3")] == [None, None, 9]
    assert [figure.layout[f"yaxis{at}"].dtick for at in ("", "2", "3")] == [None, 1, None]
    assert [trace.showlegend for trace in figure.data] == [True, False, False]


def test_options_of_others_stay_what_they_are() -> None:
    options = {"title": {"text": "a"}, "range": [0, 1]}
    assert merged(options, {"title": {"font": {"size": 9}}, "range": [1, 2]}) == {
        "title": {"text": "a", "font": {"size": 9}}, "range": [1, 2],
    }  # fmt: skip
    assert options == {"title": {"text": "a"}, "range": [0, 1]}


def test_panels_of_a_finished_figure_are_addressed_by_row_and_column() -> None:
    figure = drafted().add_hline(1.0, row=2, col=1)
    assert figure.layout.shapes[0].yref == "y3"
    assert figure.get_subplot(2, 2) is None
    assert Domain((0.0, 1.0), (0.0, 1.0)).x == (0.0, 1.0)


def test_plotly_checks_a_draft_once(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[Any] = []
    for name in ("plotly_update", "add_traces"):
        monkeypatch.setattr(BaseFigure, name, lambda *given, **more: changes.append((given, more)))
    drafted()
    assert changes == []


def test_what_plotly_does_not_know_is_refused() -> None:
    draft, [panel] = panel_grid(["a"], SIZE, 1, GAPS, Margins(50, 20, 30), "Title", "facts")
    draft.update_xaxes({"colour": "red"}, **panel)
    with pytest.raises(ValueError, match="colour"):
        draft.figure()
