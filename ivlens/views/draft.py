"""A figure in the making: traces and layout that plotly checks once, when it is finished.

plotly checks a figure anew at each change, so that a figure of many panels takes ten times as long as its last check.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly._subplots import SubplotRef


class Domain(NamedTuple):
    """Where a panel's axes reach from and to, in fractions of the room for all panels."""

    x: tuple[float, float]
    y: tuple[float, float]


class Draft:
    """Panels in rows and columns from 1, the top left one first, and what is drawn in them.

    Args:
        grid: row by row, each panel's domain, None where there is no panel.
        layout: of the whole figure; it may be changed until ``figure``.
    """

    def __init__(self, grid: Sequence[Sequence[Domain | None]], layout: Mapping[str, Any]) -> None:
        self.traces: list[Any] = []
        self.panels: list[str] = []  # of each trace, the suffix of its axes
        self.layout, self.annotations = dict(layout), [*layout.get("annotations", ())]
        domains = {(row, col): domain for row, domains in enumerate(grid, 1)
                   for col, domain in enumerate(domains, 1) if domain is not None}  # fmt: skip
        self.suffixes = {panel: str(number) if number > 1 else "" for number, panel in enumerate(domains, 1)}
        self.shape = len(grid), len(grid[0])
        for panel, suffix in self.suffixes.items():
            self.layout[f"xaxis{suffix}"] = {"domain": domains[panel].x, "anchor": f"y{suffix}"}
            self.layout[f"yaxis{suffix}"] = {"domain": domains[panel].y, "anchor": f"x{suffix}"}

    def add_traces(self, traces: Sequence[Any], row: int, col: int) -> None:
        """Draw traces in a panel, over earlier ones."""
        self.traces += traces
        self.panels += [self.suffixes[row, col]] * len(traces)

    def update_xaxes(self, axis: Mapping[str, Any], row: int | None = None, col: int | None = None) -> None:
        """Change the horizontal axis of a panel, or of all panels of a row or column, or of all."""
        self._update("xaxis", axis, row, col)

    def update_yaxes(self, axis: Mapping[str, Any], row: int | None = None, col: int | None = None) -> None:
        """Change the vertical axis of a panel, or of all panels of a row or column, or of all."""
        self._update("yaxis", axis, row, col)

    def domain(self, row: int, col: int) -> Domain:
        """The domain of a panel."""
        suffix = self.suffixes[row, col]
        return Domain(self.layout[f"xaxis{suffix}"]["domain"], self.layout[f"yaxis{suffix}"]["domain"])

    def figure(self) -> go.Figure:
        """The figure, which plotly has checked; its panels are addressed by row and column."""
        data = [trace.to_plotly_json() | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
                for trace, suffix in zip(self.traces, self.panels, strict=True)]  # fmt: skip
        figure = go.Figure(data, self.layout | {"annotations": self.annotations})
        figure._grid_ref = [
            [self._reference(row, col) for col in range(1, self.shape[1] + 1)] for row in range(1, self.shape[0] + 1)
        ]
        return figure

    def _reference(self, row: int, col: int) -> tuple[SubplotRef] | None:
        """plotly's own note of a panel's axes."""
        suffix = self.suffixes.get((row, col))
        if suffix is None:
            return None
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        return (SubplotRef("xy", (f"xaxis{suffix}", f"yaxis{suffix}"), axes),)

    def _update(self, name: str, axis: Mapping[str, Any], row: int | None, col: int | None) -> None:
        for suffix in self._within(row, col):
            self.layout[name + suffix] = merged(self.layout[name + suffix], axis)

    def _within(self, row: int | None, col: int | None) -> Iterator[str]:
        return (suffix for (own_row, own_col), suffix in self.suffixes.items()
                if row in (None, own_row) and col in (None, own_col))  # fmt: skip


def merged(options: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Nested options with others put in, which count."""
    found = dict(options)
    for name, value in more.items():
        nested = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = merged(found[name], value) if nested else value
    return found
