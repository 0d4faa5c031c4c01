"""The look of all figures: a plotly template, colours, line styles, and texts escaped for plotly."""

import html
import textwrap
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from ..records import Head
from ..text import one_line, visible

INK, FAINT, PAPER = "#1f2328", "#6e7781", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
SEQUENTIAL = ((0.0, "#f7f7f5"), (0.25, "#c7e9b4"), (0.5, "#41b6c4"), (0.75, "#225ea8"), (1.0, "#081d58"))
DIVERGING = ((0.0, "#2166ac"), (0.25, "#85b8d8"), (0.5, "#f7f7f5"), (0.75, "#f0a383"), (1.0, "#b2182b"))
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINE_COLOURS = (*OKABE_ITO[:-1], "#882255", "#999933", "#332288")  # without black, which would hide the intervals
GREY = "#afb8c1"  # of random controls
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "pentagon", "x", "hexagram")
EFFECT_UNITS = {"probability": "probability", "log-probability": "nats", "logit-difference": "logits"}
NAME_WIDTH = 24  # characters of a name beside an axis or in a legend
LINES = 6  # lines of a text, at most
TICK_STEPS = (1, 2, 5, 10, 20, 50)

NUMBERS = {"tickformat": "~g"}  # 0.0008, where plotly would write 800µ
_AXIS: dict[str, Any] = {
    **NUMBERS,
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
    },
    data={"heatmap": [go.Heatmap(colorbar=NUMBERS)]},
)
pio.templates["ivlens"] = TEMPLATE


def plain(text: str, width: int, lines: int = LINES) -> str:
    """``text`` for plotly, character by character: wrapped at ``width`` characters, and cut after ``lines``."""
    longest = 4 * width * lines
    wrapped = [line for part in text[:longest].splitlines() for line in textwrap.wrap(visible(part), width)]
    if len(wrapped) > lines or len(text) > longest:
        wrapped = [*wrapped[: lines - 1], *(f"{line[: width - 1]}…" for line in wrapped[lines - 1 : lines])]
    return "<br>".join(map(_literal, wrapped))


def _literal(line: str) -> str:
    """``line`` with entities for what plotly would read as HTML, as TeX between dollars, or as a ``%{name}``."""
    return html.escape(line, quote=False).replace("$", "&#36;").replace("%{", "%&#123;")


def shortened(name: str, width: int = NAME_WIDTH) -> str:
    """``name`` in at most ``width`` characters, its middle left out: the names of checkpoints differ at their ends."""
    name, tail = one_line(name), (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - tail]}…{name[-tail:]}"


def head_name(head: Head) -> str:
    """A head as "layer.head"."""
    return f"{head[0]}.{head[1]}"


def translucent(colour: str, opacity: float) -> str:
    """A colour "#rrggbb" with an opacity from 0 to 1, as plotly writes it."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def line_style(number: int) -> tuple[str, str]:
    """Colour and dash of line number ``number``, from 0: all colours, then all again with the next dash."""
    return LINE_COLOURS[number % len(LINE_COLOURS)], DASHES[number // len(LINE_COLOURS) % len(DASHES)]
