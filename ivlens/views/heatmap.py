"""Head maps as figures: layers from the bottom up, heads from left to right, the strongest heads outlined."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..checks import Natural, checked
from ..errors import ArgumentError
from ..records import Head, HeadEffects, UniversalEffects, heads_by_effect
from .style import DIVERGING, INK, LINES, PAPER, plain, tick_step

Effects = HeadEffects | UniversalEffects
Size = tuple[int, int]

UNITS = {"probability": "probability", "log-probability": "nats", "logit-difference": "logits"}
HOVER = (
    "<b>%{{customdata[0]}}</b> (layer %{{y}}, head %{{x}})<br>effect %{{z:.3g}} {unit}<br>"
    "standard error %{{customdata[1]}}<br>rank %{{customdata[2]}} of {count}<extra></extra>"
)
LEFT, RIGHT, BOTTOM, WIDEST = 56, 96, 52, 1080
TITLE_LINE, PANEL_LINE, NAME_SIZE = 21, 17, 10


@checked
def head_heatmap(effects: Effects, *, top: Natural = 10, title: str | None = None) -> go.Figure:
    """One head map as a figure: the average indirect effect of every head, in the metric's own unit.

    The ``top`` strongest heads are outlined, and named where the cells have room; the colours are symmetric about zero.
    ``title`` is plain text; without one it names the tasks.
    """
    layers, heads = effects.aie.shape
    size = max(420, min(800, 34 * heads)), max(180, min(880, 22 * layers))
    bar = {"title": {"text": f"effect on {_unit(effects)}", "side": "right"}, "x": 1, "xpad": 10, "thickness": 14}
    figure = go.Figure(_traces(effects, top, _limit(effects), size, bar))
    figure.update_xaxes(_axis("head", heads, size[0], 28))
    figure.update_yaxes(_axis("layer", layers, size[1], 16))
    facts = f"average indirect effect on the {effects.metric}, {_prompts(effects)}{_outlined(top)}"
    return figure.update_layout(_layout(size, _tasks(effects) if title is None else title, facts))


@checked
def head_heatmaps(
    effects: Sequence[Effects], *, top: Natural = 10, shared_scale: bool = False, title: str = "Head effects"
) -> go.Figure:
    """Several head maps side by side, each on its own colour scale or, with ``shared_scale``, all on one.

    Raises: ArgumentError where there is no map, or where a shared scale would mix metrics.
    """
    units = sorted({_unit(each) for each in effects})
    if not units:
        raise ArgumentError("one head map or more", "none")
    if shared_scale and len(units) > 1:
        raise ArgumentError("maps of one metric for a shared scale", ", ".join(units), "leave shared_scale=False")
    facts = f"average indirect effect on {', '.join(units)}{_outlined(top)}"
    figure, size, places = _panels(effects, 36 if shared_scale else 76, title, facts)
    largest = max(map(_limit, effects))
    for index, (each, place) in enumerate(zip(effects, places, strict=True)):
        bar = {"thickness": 10, "xpad": 6, "tickfont": {"size": 10}}
        if not shared_scale:
            bar |= _beside(figure.get_subplot(**place))
        for trace in _traces(each, top, largest if shared_scale else _limit(each), size, bar):
            figure.add_trace(trace, **place)
        if shared_scale and index:
            figure.update_traces({"showscale": False}, {"type": "heatmap"}, **place)
        layers, heads = each.aie.shape
        figure.update_xaxes(_axis("head", heads, size[0], 24), **place)
        figure.update_yaxes(_axis("layer" if place["col"] == 1 else "", layers, size[1], 16), **place)
    return figure


def _panels(
    effects: Sequence[Effects], gap: int, title: str, facts: str
) -> tuple[go.Figure, Size, list[dict[str, int]]]:
    """Empty panels with a title each, ``gap`` pixels apart; the size of one in pixels, and the place of each map."""
    layers, heads = (max(each.aie.shape[axis] for each in effects) for axis in (0, 1))
    fitting = 4 if heads <= 12 else 3 if heads <= 32 else 2
    rows = -(-len(effects) // fitting)
    columns = -(-len(effects) // rows)
    room = (WIDEST - LEFT - RIGHT - gap * (columns - 1)) // columns
    size = max(160, min(room, 26 * heads)), max(140, min(480, 14 * layers))
    titles = [f"<b>{plain(_tasks(each), size[0] // 8)}</b><br>{_prompts(each)}" for each in effects]
    above = PANEL_LINE * (1 + max(text.count("<br>") for text in titles)) + 8
    drop = above + BOTTOM
    whole = size[0] * columns + gap * (columns - 1), size[1] * rows + drop * (rows - 1)
    figure = make_subplots(
        rows,
        columns,
        specs=[[{} if row * columns + at < len(effects) else None for at in range(columns)] for row in range(rows)],
        subplot_titles=titles,
        horizontal_spacing=min(1, gap / whole[0]),
        vertical_spacing=min(1, drop / whole[1]),
    )
    figure.update_annotations(font_size=13)
    places = [{"row": index // columns + 1, "col": index % columns + 1} for index in range(len(effects))]
    return figure.update_layout(_layout(whole, title, facts, above)), size, places


def _traces(effects: Effects, top: int, limit: float, size: Size, bar: dict[str, Any]) -> list[go.Heatmap | go.Scatter]:
    """The cells, the outlines of the ``top`` heads and, where a cell has room for them, their names."""
    order = heads_by_effect(effects.aie)
    marked = order[:top]
    layers, heads = effects.aie.shape
    across, up = size[0] / heads, size[1] / layers
    traces = [_cells(effects, order, limit, bar, gap=1 if min(across, up) >= 9 else 0)]
    if marked:
        traces.append(_outlines(marked, width=2 if min(across, up) >= 9 else 1))
        longest = max(len(_name(head)) for head in marked)
        if across >= 0.6 * NAME_SIZE * longest + 3 and up >= NAME_SIZE + 3:
            traces.append(_names(effects, marked, limit))
    return traces


def _cells(effects: Effects, order: list[Head], limit: float, bar: dict[str, Any], gap: int) -> go.Heatmap:
    facts = np.empty((*effects.aie.shape, 3), dtype=object)
    errors = effects.stderr.tolist()
    for rank, (layer, head) in enumerate(order, start=1):
        error = errors[layer][head]
        facts[layer, head] = _name(Head(layer, head)), f"{error:.2g}" if np.isfinite(error) else "n/a", rank
    return go.Heatmap(
        z=effects.aie.double().numpy(),
        customdata=facts,
        hovertemplate=HOVER.format(unit=UNITS[effects.metric], count=len(order)),
        colorscale=DIVERGING,
        zmin=-limit,
        zmid=0,
        zmax=limit,
        xgap=gap,
        ygap=gap,
        colorbar={"outlinewidth": 0, "len": 1} | bar,
    )


def _outlines(marked: list[Head], width: int) -> go.Scatter:
    """Open squares around heads in one trace: the corners of each in the map's own coordinates, then a break."""
    across, up = (-0.46, 0.46, 0.46, -0.46, -0.46), (-0.46, -0.46, 0.46, 0.46, -0.46)
    return go.Scatter(
        x=[x for _, head in marked for x in (*(head + step for step in across), None)],
        y=[y for layer, _ in marked for y in (*(layer + step for step in up), None)],
        mode="lines",
        line={"color": INK, "width": width},
        hoverinfo="skip",
        name="outlines",
    )


def _names(effects: Effects, marked: list[Head], limit: float) -> go.Scatter:
    dark = [abs(effects.aie[head].item()) > 0.7 * limit for head in marked]
    return go.Scatter(
        x=[head for _, head in marked],
        y=[layer for layer, _ in marked],
        text=[_name(head) for head in marked],
        mode="text",
        textfont={"size": NAME_SIZE, "color": [PAPER if each else INK for each in dark]},
        hoverinfo="skip",
        name="names",
    )


def _layout(size: Size, title: str, facts: str, above: int = 0) -> dict[str, Any]:
    """The layout around a plot of ``size``: its title, the ``facts`` under it, and ``above`` pixels over the plot."""
    heading, small = plain(title, (size[0] - 20) // 10), plain(facts, size[0] // 6, 2 * LINES)
    text = f'{heading}<br><span style="font-size:12px">{small}</span>'
    room = 24 + TITLE_LINE * (1 + text.count("<br>")) + above
    return {
        "template": "ivlens",
        "width": size[0] + LEFT + RIGHT,
        "height": size[1] + room + BOTTOM,
        "margin": {"l": LEFT, "r": RIGHT, "t": room, "b": BOTTOM},
        "title": {"text": text},
    }


def _axis(name: str, count: int, pixels: int, room: int) -> dict[str, Any]:
    """An axis of ``count`` cells in ``pixels``, its first cell at the left or the bottom, ``room`` pixels a label."""
    step = tick_step(pixels / count, room)
    ticks = {"tick0": 0, "dtick": step, "showgrid": False, "zeroline": False}
    return {"title": {"text": name}, "range": [-0.5, count - 0.5]} | ticks


def _beside(panel: Any) -> dict[str, Any]:
    """Where the colour bar of a panel goes: at its right, as tall as it is."""
    bottom, ceiling = panel.yaxis.domain
    return {"x": panel.xaxis.domain[1], "y": (bottom + ceiling) / 2, "len": ceiling - bottom}


def _limit(effects: Effects) -> float:
    """The largest finite effect in either direction, where the colour scale ends; 1 for a map of zeros."""
    return effects.aie.abs().nan_to_num(0, 0, 0).max().item() or 1.0


def _name(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


def _tasks(effects: Effects) -> str:
    if isinstance(effects, HeadEffects):
        return effects.task or "Head effects"
    return ", ".join(effects.tasks) if len(effects.tasks) <= 4 else f"{len(effects.tasks)} tasks"


def _prompts(effects: Effects) -> str:
    return f"n = {effects.n} prompt{'s' * (effects.n != 1)}"


def _unit(effects: Effects) -> str:
    unit = UNITS[effects.metric]
    return unit if unit == effects.metric else f"{effects.metric} ({unit})"


def _outlined(top: int) -> str:
    return f"\noutlined: the {top} strongest" if top else ""
