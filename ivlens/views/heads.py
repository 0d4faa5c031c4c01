"""Head maps: layers from the bottom up, heads from left to right, the strongest heads outlined."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..checks import Natural, checked
from ..errors import ArgumentError
from ..records import Head, HeadEffects, RacedEffects, UniversalEffects
from ..text import plural
from .axes import colour_bar, number_axis, outlines
from .draft import Domain, Draft
from .layout import Margins, Panel, Size, head_map_grid, head_map_size, layout_around, panel_grid
from .style import DIVERGING, EFFECT_UNITS, INK, PAPER, head_name

Effects = HeadEffects | RacedEffects | UniversalEffects

HOVER = (
    "<b>%{{customdata[0]}}</b> (layer %{{y}}, head %{{x}})<br>effect %{{z:.3g}} {unit}<br>"
    "standard error %{{customdata[1]}}<br>{standing}<extra></extra>"
)
RANKED, RACED = "rank %{{customdata[2]}} of {count}", "%{{customdata[2]}}"  # of a race, text
MARGINS = Margins(left=56, right=96, bottom=52)
GAP, SHARED_GAP, ROW_GAP = 76, 36, 52  # pixels between maps: with a colour bar each, with one for all, between rows
NAME_SIZE = 10  # pixels: height of the heads' names on a map


@checked
def head_heatmap(effects: Effects, *, k: Natural = 10, title: str | None = None) -> go.Figure:
    """One head map as a figure: the average indirect effect of every head, in the metric's own unit.

    The colours are symmetric about zero.

    Args:
        effects: the effects of one task, or their mean over tasks.
        k: how many of the strongest heads to outline, and to name where there is room; of a race, at most those that it
            was for.
        title: plain text; without one it names the tasks.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a negative ``k``.

    Example:
        >>> figure = iv.views.head_heatmap(effects, k=3)
        >>> figure.data[0].z.shape == tuple(effects.aie.shape)
        True
    """
    return head_map(effects, k, title, head_map_size(*effects.aie.shape))


def head_map(effects: Effects, k: int, title: str | None, size: Size) -> go.Figure:
    """The figure of ``head_heatmap`` with a map of this size in pixels."""
    layers, heads = effects.aie.shape
    k = _known(effects, k)
    bar = colour_bar(f"effect on {_unit(effects)}") | {"x": 1, "xpad": 10}
    facts = f"average indirect effect on the {effects.metric}, {_prompts(effects)}{_outlined(k)}"
    heading = _tasks(effects) if title is None else title
    layout = layout_around(size, MARGINS, heading, facts, heading_width=size.width - 20)
    layout |= {
        "xaxis": number_axis("head", heads, size.width, 28),
        "yaxis": number_axis("layer", layers, size.height, 16),
    }
    return go.Figure(_traces(effects, k, _limit(effects), size, bar), layout)


@checked
def head_heatmaps(
    effects: Sequence[Effects], *, k: Natural = 10, shared_scale: bool = False, title: str = "Head effects"
) -> go.Figure:
    """Several head maps side by side, each on its own colour scale or all on one.

    Args:
        effects: one head map or more.
        k: how many of the strongest heads to outline on each map.
        shared_scale: whether all maps share one colour scale, which needs effects in one metric.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: no map, or a shared scale that would mix metrics.

    Example:
        >>> figure = iv.views.head_heatmaps([effects, effects], shared_scale=True)
        >>> len([trace for trace in figure.data if trace.type == "heatmap"])
        2
    """
    units = sorted({_unit(each) for each in effects})
    if not units:
        raise ArgumentError("one head map or more", "none")
    if shared_scale and len(units) > 1:
        raise ArgumentError("maps of one metric for a shared scale", ", ".join(units), "leave shared_scale=False")
    most_layers, most_heads = (max(each.aie.shape[axis] for each in effects) for axis in (0, 1))
    gap = SHARED_GAP if shared_scale else GAP
    columns, size = head_map_grid(len(effects), most_layers, most_heads, gap, MARGINS)
    facts = f"average indirect effect on {', '.join(units)}{_outlined(k)}"
    names, notes = [_tasks(each) for each in effects], [_prompts(each) for each in effects]
    draft, panels = panel_grid(names, size, columns, Size(gap, ROW_GAP), MARGINS, title, facts, notes=notes)
    largest = max(map(_limit, effects))
    for each, panel in zip(effects, panels, strict=True):
        bar = colour_bar() | {"thickness": 10, "xpad": 6, "tickfont": {"size": 10}}
        if not shared_scale:
            bar |= _beside(draft.domain(**panel))
        traces = _traces(each, _known(each, k), largest if shared_scale else _limit(each), size, bar)
        traces[0].showscale = not shared_scale or panel == panels[0]
        _add_map(draft, panel, traces, each.aie.shape, size)
    return draft.figure()


def _add_map(draft: Draft, panel: Panel, traces: Sequence[Any], shape: Sequence[int], size: Size) -> None:
    layers, heads = shape
    draft.add_traces(traces, **panel)
    draft.update_xaxes(number_axis("head", heads, size.width, 24), **panel)
    draft.update_yaxes(number_axis("layer" if panel["col"] == 1 else "", layers, size.height, 16), **panel)


def _traces(effects: Effects, k: int, limit: float, size: Size, bar: dict[str, Any]) -> list[go.Heatmap | go.Scatter]:
    """The map, the outlines of the ``k`` strongest heads and, where there is room, their names."""
    order = effects.ranking()
    strongest = order[:k]
    layers, heads = effects.aie.shape
    width, height = size.width / heads, size.height / layers
    large = min(width, height) >= 9
    traces = [_map(effects, order, limit, bar, gap=1 if large else 0)]
    if strongest:
        traces.append(outlines(strongest, "outlines", INK, width=2 if large else 1))
        longest = max(len(head_name(head)) for head in strongest)
        if width >= 0.6 * NAME_SIZE * longest + 3 and height >= NAME_SIZE + 3:
            traces.append(_names(effects, strongest, limit))
    return traces


def _map(effects: Effects, order: list[Head], limit: float, bar: dict[str, Any], gap: int) -> go.Heatmap:
    facts = np.empty((*effects.aie.shape, 3), dtype=object)
    errors = effects.stderr.tolist()
    raced = isinstance(effects, RacedEffects)
    for rank, (layer, head) in enumerate(order, start=1):
        error, standing = errors[layer][head], _standing(effects, Head(layer, head), rank)
        facts[layer, head] = head_name(Head(layer, head)), f"{error:.2g}" if np.isfinite(error) else "n/a", standing
    standing = RACED if raced else RANKED
    return go.Heatmap(
        z=effects.aie.double().numpy(), customdata=facts,
        hovertemplate=HOVER.format(unit=EFFECT_UNITS[effects.metric], standing=standing.format(count=len(order))),
        colorscale=DIVERGING, zmin=-limit, zmid=0, zmax=limit, xgap=gap, ygap=gap, colorbar={"len": 1} | bar,
    )  # fmt: skip


def _standing(effects: Effects, head: Head, rank: int) -> int | str:
    """The head's rank, or how it fared in a race, which knows only its first ranks."""
    if not isinstance(effects, RacedEffects):
        return rank
    if not effects.finalists[head]:
        return f"dropped out after {effects.n_prompts[head]} of {effects.n} prompts"
    return f"rank {rank}" if rank <= effects.k else f"not among the {effects.k} strongest"


def _known(effects: Effects, k: int) -> int:
    """How many of the ``k`` strongest heads are known: of a race, those that it was for."""
    return min(k, effects.k) if isinstance(effects, RacedEffects) else k


def _names(effects: Effects, strongest: list[Head], limit: float) -> go.Scatter:
    """The names of the strongest heads on the map, in white where it is dark."""
    dark = [abs(effects.aie[head].item()) > 0.7 * limit for head in strongest]
    return go.Scatter(
        x=[head for _, head in strongest],
        y=[layer for layer, _ in strongest],
        text=[head_name(head) for head in strongest],
        mode="text",
        textfont={"size": NAME_SIZE, "color": [PAPER if each else INK for each in dark]},
        hoverinfo="skip",
        name="names",
    )


def _beside(panel: Domain) -> dict[str, Any]:
    """The position of a panel's own colour bar: at its right, as tall as it is."""
    bottom, top = panel.y
    return {"x": panel.x[1], "y": (bottom + top) / 2, "len": top - bottom}


def _limit(effects: Effects) -> float:
    """The largest finite effect in either direction, where the colour scale ends; 1 for a map of zeros."""
    return effects.aie.abs().nan_to_num(0, 0, 0).max().item() or 1.0


def _tasks(effects: Effects) -> str:
    if isinstance(effects, UniversalEffects):
        return ", ".join(effects.tasks) if len(effects.tasks) <= 4 else f"{len(effects.tasks)} tasks"
    return effects.task or "Head effects"


def _prompts(effects: Effects) -> str:
    least = int(effects.n_prompts.min()) if isinstance(effects, RacedEffects) else effects.n
    return (
        f"n = {plural(effects.n, 'prompt')}" if least == effects.n else f"n = {least} to {effects.n} prompts (a race)"
    )


def _unit(effects: Effects) -> str:
    unit = EFFECT_UNITS[effects.metric]
    return unit if unit == effects.metric else f"{effects.metric} ({unit})"


def _outlined(k: int) -> str:
    return f"\noutlined: the {k} strongest" if k else ""
