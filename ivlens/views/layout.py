"""The layout of every figure, in pixels: panels in even rows or on a board, the heading above them, the legend."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from .axes import LETTER
from .draft import Domain, Draft
from .style import LINES, plain, shortened

Panel = dict[str, int]  # the row and the column of a panel, from 1, as plotly's row= and col=

NARROWEST, WIDEST = 440, 1080
TITLE_LINE, PANEL_LINE = 21, 17
LEGEND_LINE = 20
LEGEND = {"x": 1, "xanchor": "left", "y": 1, "yanchor": "top", "tracegroupgap": 0, "itemsizing": "constant"}


class Size(NamedTuple):
    """Width and height."""

    width: int
    height: int


class Margins(NamedTuple):
    """The space around the panels; the heading's height follows from its text."""

    left: int
    right: int
    bottom: int


def even_columns(n_panels: int, at_most: int) -> int:
    """The number of panels per row, ``at_most`` or fewer, that fills the rows evenly."""
    n_rows = math.ceil(n_panels / at_most)
    return math.ceil(n_panels / n_rows)


def columns_for(n_panels: int, width: int, gap: int, margins: Margins) -> int:
    """The number of panels of this ``width`` and ``gap`` per row that fills the rows evenly."""
    fitting = max(1, (WIDEST - margins.left - margins.right + gap) // (width + gap))
    return even_columns(n_panels, fitting)


def panel_width(columns: int, gap: int, margins: Margins) -> int:
    """The width of a panel where ``columns`` of them and their gaps fill the widest figure."""
    return (WIDEST - margins.left - margins.right - gap * (columns - 1)) // columns


def head_map_size(n_layers: int, n_heads: int) -> Size:
    """The size of a single head map."""
    return Size(max(420, min(800, 34 * n_heads)), max(180, min(880, 22 * n_layers)))


def head_map_grid(n_maps: int, n_layers: int, n_heads: int, gap: int, margins: Margins) -> tuple[int, Size]:
    """The number of head maps per row, and the size of each."""
    if n_heads <= 12:
        fitting = 4
    elif n_heads <= 32:
        fitting = 3
    else:
        fitting = 2
    columns = even_columns(n_maps, fitting)
    width = max(160, min(panel_width(columns, gap, margins), 26 * n_heads))
    return columns, Size(width, max(140, min(480, 14 * n_layers)))


def panel_grid(
    names: Sequence[str], size: Size, columns: int, gaps: Size, margins: Margins, title: str, facts: str,
    *, notes: Sequence[str] = (),
) -> tuple[Draft, list[Panel]]:  # fmt: skip
    """A draft of empty panels, one per name, and the row and column of each.

    ``size`` is that of one panel; ``gaps`` are those between columns and between rows, the latter without the names.
    ``names``, the ``notes`` under them, ``title`` and the ``facts`` under it are plain text.
    """
    n_rows = math.ceil(len(names) / columns)
    titles = [f"<b>{plain(name, size.width // 8)}</b>" for name in names]
    if notes:
        titles = [f"{name}<br>{plain(note, size.width // 6)}" for name, note in zip(titles, notes, strict=True)]
    above = PANEL_LINE * (1 + max(text.count("<br>") for text in titles)) + 8
    row_gap = gaps.height + above
    whole = Size(size.width * columns + gaps.width * (columns - 1), size.height * n_rows + row_gap * (n_rows - 1))
    panels = [{"row": index // columns + 1, "col": index % columns + 1} for index in range(len(names))]
    across = _domains(columns, min(1, gaps.width / whole.width))
    up = _domains(n_rows, min(1, row_gap / whole.height))[::-1]
    domains = [Domain(across[panel["col"] - 1], up[panel["row"] - 1]) for panel in panels]
    annotations = [_name_above(name, domain) for name, domain in zip(titles, domains, strict=True)]
    grid = [domains[start : start + columns] for start in range(0, len(domains), columns)]
    return Draft(grid, layout_around(whole, margins, title, facts, above) | {"annotations": annotations}), panels


def _domains(count: int, gap: float) -> list[tuple[float, float]]:
    """Where ``count`` panels side by side begin and end in the room from 0 to 1, with ``gap`` between them."""
    size = (1 - gap * (count - 1)) / count
    starts = [sum([size] * number) + number * gap for number in range(count)]
    return [(max(0.0, start), min(1.0, start + size)) for start in starts]


def _name_above(name: str, domain: Domain) -> dict[str, Any]:
    """A panel's name, which is HTML, over its middle."""
    return {
        "text": name, "x": sum(domain.x) / 2, "y": domain.y[1], "xref": "paper", "yref": "paper", "xanchor": "center",
        "yanchor": "bottom", "showarrow": False, "font": {"size": 13},
    }  # fmt: skip


def layout_around(
    size: Size, margins: Margins, title: str, facts: str, above: int = 0, *, heading_width: int | None = None
) -> dict[str, Any]:
    """The layout around panels that take ``size``, with ``above`` pixels between the heading and them.

    The heading is wrapped at ``heading_width`` pixels, or at the figure's right edge.
    """
    left, right, bottom = margins
    right = max(right, NARROWEST - left - size.width)
    wide = heading_width or size.width + right - 10
    heading, small = plain(title, wide // 10), plain(facts, wide // 6, 2 * LINES)
    text = f'{heading}<br><span style="font-size:12px">{small}</span>'
    top = 24 + TITLE_LINE * (1 + text.count("<br>")) + above
    return {
        "template": "ivlens",
        "width": left + size.width + right,
        "height": top + size.height + bottom,
        "margin": {"l": left, "r": right, "t": top, "b": bottom},
        "title": {"text": text},
    }


def is_lowest(panel: Panel, panels: Sequence[Panel]) -> bool:
    """Whether there is no panel below this one."""
    return all(other["row"] <= panel["row"] for other in panels if other["col"] == panel["col"])


def legend_size(lines: Sequence[str]) -> Size:
    """The size in pixels of a legend with these lines of text; a margin if there are none."""
    if not lines:
        return Size(24, 0)
    return Size(66 + int(1.1 * LETTER * max(map(len, lines))), 20 + LEGEND_LINE * len(lines))


def legend_around(
    traces: Sequence[Any], groups: Sequence[str], legend: str = "legend", **options: Any
) -> dict[str, Any]:
    """The layout of a legend of these groups of traces, in this order; each entry toggles its group."""
    traces = [trace for trace in traces if (trace.legend or "legend") == legend]
    for trace in traces:
        trace.showlegend = False
    for rank, group in enumerate(groups):
        members = [trace for trace in traces if trace.legendgroup == group]
        lines = (trace for trace in members if getattr(trace, "mode", "") != "none")  # not an interval's band
        first = next(lines, None)
        for trace in members:
            trace.showlegend, trace.legendrank = trace is first, rank
    return {"showlegend": True, legend: LEGEND | options} if groups else {}


class Box(NamedTuple):
    """A rectangle on a board, from the board's top left corner."""

    left: float
    top: float
    width: float
    height: float


class Board:
    """Panels of different sizes, each in its own box; the caller keeps ``height`` up to date."""

    def __init__(self, width: int) -> None:
        self.width, self.height = width, 0.0
        self.panels: list[tuple[Sequence[Any], Box, dict[str, Any], dict[str, Any]]] = []
        self.names: list[tuple[str, str, float, float]] = []
        self.legends: list[tuple[Sequence[str], str, float, float]] = []

    def add_panel(
        self, traces: Sequence[Any], box: Box, name: str, x: dict[str, Any], y: dict[str, Any], note: str = ""
    ) -> None:
        """Draw the next panel in its box, with its axes, its name above it, and under the name a small note."""
        self.panels.append((traces, box, x, y))
        self.add_name(shortened(name, int(box.width / 8)), box.left, box.top, note)

    def add_name(self, name: str, left: float, top: float, note: str = "") -> None:
        """Write a name above the point, and under it a small note."""
        self.names.append((name, note, left, top))

    def add_legend(self, groups: Sequence[str], legend: str, left: float, top: float) -> None:
        """Add a legend of these groups of traces, its top left corner at the point."""
        self.legends.append((groups, legend, left, top))

    def finished(self, layout: dict[str, Any]) -> go.Figure:
        """The figure, with panels, names and legends positioned on a board of this height, and ``layout`` around."""
        names = [self._name(*each) for each in self.names]
        draft = Draft([[self._domain(box) for _, box, _, _ in self.panels]], layout | {"annotations": names})
        for column, (traces, _, x, y) in enumerate(self.panels, 1):
            draft.add_traces(traces, row=1, col=column)
            draft.update_xaxes(x, col=column)
            draft.update_yaxes(y, col=column)
        drawn = [trace for traces, *_ in self.panels for trace in traces]
        for groups, legend, left, top in self.legends:
            draft.layout |= legend_around(drawn, groups, legend, x=left / self.width, y=1 - top / self.height)
        return draft.figure()

    def _domain(self, box: Box) -> Domain:
        left, top, width, height = box
        across = left / self.width, min(1.0, (left + width) / self.width)
        return Domain(across, (max(0.0, 1 - (top + height) / self.height), 1 - top / self.height))

    def _name(self, name: str, note: str, left: float, top: float) -> dict[str, Any]:
        small = f'<br><span style="font-size:11px">{plain(note, 99)}</span>' if note else ""
        return {
            "text": f"<b>{plain(name, 99)}</b>{small}", "x": left / self.width, "y": 1 - (top - 6) / self.height,
            "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "align": "left",
            "showarrow": False, "font": {"size": 13},
        }  # fmt: skip
