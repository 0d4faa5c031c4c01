"""The look that all figures share: one plotly template, one diverging colour scale, text and tick helpers."""

import html
import textwrap
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from ..records.visible import visible

INK, FAINT, PAPER = "#1f2328", "#6e7781", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
DIVERGING = ((0.0, "#2166ac"), (0.25, "#85b8d8"), (0.5, "#f7f7f5"), (0.75, "#f0a383"), (1.0, "#b2182b"))
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINES = 6  # of a longer name the beginning is shown
TICK_STEPS = (1, 2, 5, 10, 20, 50)

_AXIS: dict[str, Any] = {
    "linecolor": "#d0d7de",
    "gridcolor": "#eaeef2",
    "zerolinecolor": "#d0d7de",
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#d0d7de",
    "title": {"standoff": 8, "font": {"size": 13}},
}

_TITLE: dict[str, Any] = {
    "x": 0,
    "xref": "paper",
    "xanchor": "left",
    "y": 1,
    "yref": "container",
    "yanchor": "top",
    "pad": {"t": 26},
    "font": {"size": 16},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "title": _TITLE,
        "modebar": {"remove": ["sendcharttocloud", "select2d", "lasso2d", "zoomin", "zoomout", "autoscale"]},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "colorway": OKABE_ITO,
        "colorscale": {"diverging": DIVERGING},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": FAINT, "font": {"color": INK}, "align": "left"},
        "showlegend": False,
    }
)
pio.templates["ivlens"] = TEMPLATE


def plain(text: str, width: int, lines: int = LINES) -> str:
    """``text`` for plotly, letter by letter: wrapped at ``width`` characters, and cut after ``lines``."""
    most = 4 * width * lines
    wrapped = [line for part in text[:most].splitlines() for line in textwrap.wrap(visible(part), width)]
    if len(wrapped) > lines or len(text) > most:
        wrapped = [*wrapped[: lines - 1], *(f"{line[: width - 1]}…" for line in wrapped[lines - 1 : lines])]
    return "<br>".join(map(_literal, wrapped))


def _literal(line: str) -> str:
    """What plotly would read as HTML, as TeX between dollars, or as the %{name} of a value, in entities."""
    return html.escape(line, quote=False).replace("$", "&#36;").replace("%{", "%&#123;")


def tick_step(pixels: float, room: int) -> int:
    """The smallest round step between ticks that leaves ``room`` pixels a label, where one unit has ``pixels``."""
    return next((step for step in TICK_STEPS if step * pixels >= room), TICK_STEPS[-1])
