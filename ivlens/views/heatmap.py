"""Head maps as figures: layers from the bottom up, heads from left to right, the strongest heads outlined."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import ArgumentError, at_least
from ..records import Head, HeadEffects, UniversalEffects, heads_by_effect
from .style import DIVERGING, INK, PAPER, plain, tick_step

Effects = HeadEffects | UniversalEffects
Size = tuple[int, int]

UNITS = {"probability": "probability", "log-probability": "nats", "logit-difference": "logits"}
HOVER = (
    "<b>%{{customdata[0]}}</b> (layer %{{y}}, head %{{x}})<br>effect %{{z:.3g}} {unit}<br>"
    "standard error %{{customdata[1]}}<br>rank %{{customdata[2]}} of {count}<extra></extra>"
)
LEFT, RIGHT, BOTTOM, WIDEST = 56, 96, 52, 1080
TITLE_LINE, PANEL_LINE, NAME_SIZE = 21, 17, 10


def head_heatmap(effects: Effects, *, top: int = 10, title: str | None = None) -> go.Figure:
    """One head map as a figure: the average indirect effect of every head, in the metric's own unit.

    The ``top`` strongest heads are outlined, and named where the cells have room; the colours are symmetric about zero.
    ``title`` is plain text; without one it names the tasks.
    """
    at_least("top", top, 0)
    layers, heads = effects.aie.shape
    size = max(420, min(800, 34 * heads)), max(180, min(880, 22 * layers))
    bar = {"title": {"text": f"effect on {_unit(effects)}", "side": "right"}, "x": 1, "xpad": 10, "thickness": 14}
    figure = go.Figure(_traces(effects, top, _limit(effects), size, bar))
    figure.update_xaxes(_axis("head", heads, size[0] / heads, 28))
    figure.update_yaxes(_axis("layer", layers, size[1] / layers, 16))
    facts = f"average indirect effect on the {effects.metric}, {_prompts(effects)}{_outlined(top)}"
    return figure.update_layout(_layout(size, _tasks(effects) if title is None else title, facts))


def head_heatmaps(
    effects: Sequence[Effects], *, top: int = 10, shared_scale: bool = False, title: str = "Head effects"
) -> go.Figure:
    """Several head maps side by side, each on its own colour scale or, with ``shared_scale``, all on one.

    Raises: ArgumentError where there is no map, or where a shared scale would mix metrics.
    """
    at_least("top", top, 0)
    units = sorted({_unit(each) for each in effects})
    if not units:
        raise ArgumentError("one head map or more", "none")
    if shared_scale and len(units) > 1:
        raise ArgumentError("maps of one metric for a shared scale", ", ".join(units), "leave shared_scale=False")
    figure, size, places = _panels(effects, gap=36 if shared_scale else 76)
    largest = max(map(_limit, effects))
    for index, (each, place) in enumerate(zip(effects, places, strict=True)):
        axes = figure.get_subplot(**place)
        bottom, ceiling = axes.yaxis.domain
        own = {"x": axes.xaxis.domain[1], "y": (bottom + ceiling) / 2, "len": ceiling - bottom}
        bar = {"thickness": 10, "xpad": 6, "tickfont": {"size": 10}} | ({} if shared_scale else own)
        for trace in _traces(each, top, largest if shared_scale else _limit(each), size, bar):
            figure.add_trace(trace, **place)
        layers, heads = each.aie.shape
        figure.update_xaxes(_axis("head", heads, size[0] / heads, 22), **place)
        figure.update_yaxes(_axis("layer" if place["col"] == 1 else "", layers, size[1] / layers, 16), **place)
    if shared_scale:
        figure.update_traces(showscale=False, selector=lambda trace: trace.type == "heatmap" and trace.xaxis != "x")
    facts = f"average indirect effect on the {', '.join(units)}{_outlined(top)}"
    return figure.update_layout(_layout(..., title, facts))


def _panels(effects: Sequence[Effects], gap: int) -> tuple[go.Figure, Size, list[dict[str, int]]]:
    """Empty panels on a page's width with a title each, the size of one in pixels, and where each map goes."""
