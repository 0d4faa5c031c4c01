"""The widget's two figures, which are filled in place: the head map, and one head's effect on every prompt."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import plotly.graph_objects as go
import torch

from ...records import Head, HeadEffects
from ...text import plural
from ...vocabulary import Metric
from ..heads import head_map
from ..layout import Size
from ..style import EFFECT_UNITS, FAINT, INK, OKABE_ITO, PAPER, head_name, plain

SHOWN, CHOSEN, POINT = OKABE_ITO[4], OKABE_ITO[2], OKABE_ITO[0]
OUTLINED = 10  # heads that the map outlines, and names where there is room
ROW, COLUMN = 13, 28  # pixels of a head on the map, where the map's limits allow
MARGINS = {"l": 44, "r": 72, "t": 82, "b": 42}
STRIP = {"width": 222, "height": 172}


def of_prompt(effects: HeadEffects, prompt: int | None) -> HeadEffects:
    """The effects on the prompt of this index (None: all of them)."""
    if prompt is None:
        return effects
    one = slice(prompt, prompt + 1)
    return replace(effects, values=effects.values[one], baseline=effects.baseline[one])


def map_size(shape: tuple[int, int]) -> Size:
    """The size of the map, without its margins, of a model of ``shape`` (layers, heads)."""
    layers, heads = shape
    return Size(min(max(COLUMN * heads, 208), 416), max(min(max(ROW * layers, 240), 400), 5 * layers))


def empty_map(shape: tuple[int, int], metric: Metric) -> go.FigureWidget:
    """An empty head map of ``shape`` (layers, heads), for ``draw_map`` to fill."""
    nothing = HeadEffects(torch.zeros(1, *shape), torch.zeros(1), metric, "exact")
    empty = _compact_map(nothing, "", k=0)
    more = go.Scatter(name="outlines"), go.Scatter(name="names")
    return go.FigureWidget([*empty.data, *more], empty.layout).update_layout(dragmode=False)


def draw_map(figure: go.FigureWidget, effects: HeadEffects, title: str) -> None:
    """Show effects on the map, in place: a new figure widget would bring the whole of plotly along."""
    fresh = _compact_map(effects, title, k=OUTLINED)
    # by order, not by name: a browser tells the figure names for traces that have none
    traces = [*(trace.to_plotly_json() for trace in fresh.data), {"x": [], "y": [], "text": []}]
    with figure.batch_update():
        for trace, values in zip(figure.data, traces, strict=False):
            trace.update(values)
        figure.update_layout(fresh.layout)
    _keep(figure)


def _compact_map(effects: HeadEffects, title: str, *, k: int) -> go.Figure:
    """The head map, small enough to stand beside what it is clicked for."""
    size = map_size((effects.aie.shape[0], effects.aie.shape[1]))
    figure = head_map(effects, k, title, size)
    width = MARGINS["l"] + size.width + MARGINS["r"]
    facts = f"average indirect effect on the {effects.metric}\nn = {plural(effects.n, 'prompt')}"
    small = plain(f"{facts}; outlined: the {k} strongest; green: the set" if k else facts, width // 6, 3)
    heading = f'{plain(title, width // 8, 2)}<br><span style="font-size:11px">{small}</span>'
    return figure.update_layout(
        width=width, height=MARGINS["t"] + size.height + MARGINS["b"], margin=MARGINS,
        title={"text": heading, "font": {"size": 14}, "pad": {"t": 18}},
    )  # fmt: skip


def mark_map(figure: go.FigureWidget, shown: Head | None, chosen: Iterable[Head]) -> None:
    """Frame the chosen heads on the map, and the current one."""
    frames = [(head, CHOSEN) for head in chosen]
    if shown is not None:
        frames.append((shown, SHOWN))
    figure.layout.shapes = [
        {
            "type": "rect", "x0": head - 0.46, "x1": head + 0.46, "y0": layer - 0.46, "y1": layer + 0.46,
            "line": {"color": colour, "width": 3},
        }
        for (layer, head), colour in frames
    ]  # fmt: skip
    _keep(figure)


def empty_strip() -> go.FigureWidget:
    """A figure of one head's effects, one point per prompt, for ``draw_strip`` to fill."""
    points = go.Box(
        y0=0, orientation="h", boxpoints="all", jitter=0.7, pointpos=0, boxmean=True, hoveron="points",
        fillcolor=PAPER, line={"color": FAINT, "width": 1}, hovertemplate="%{x:.3g}<br>%{text}<extra></extra>",
        marker={"color": POINT, "size": 7, "opacity": 0.75}, selected={"marker": {"color": SHOWN, "size": 12}},
        unselected={"marker": {"opacity": 0.75}},
    )  # fmt: skip
    layout = {
        "template": "ivlens", **STRIP, "margin": {"l": 12, "r": 12, "t": 34, "b": 46},
        "title": {"font": {"size": 12}, "pad": {"t": 16}}, "dragmode": False,
        "yaxis": {"visible": False}, "xaxis": {"zeroline": True, "zerolinecolor": INK, "zerolinewidth": 1},
    }  # fmt: skip
    return go.FigureWidget([points], layout)


def draw_strip(
    figure: go.FigureWidget, effects: HeadEffects, head: Head, texts: Sequence[str], prompt: int | None
) -> None:
    """Show the head's effect on every prompt, in place, with the prompt of this index highlighted."""
    values = effects.values[:, head[0], head[1]].double().numpy()
    low, high = min(0.0, values.min()), max(0.0, values.max())
    pad = 0.04 * (high - low) or 1.0
    with figure.batch_update():
        figure.data[0].update(
            x=values,
            text=[plain(text, 60) for text in texts[: effects.n]],
            selectedpoints=None if prompt is None else [prompt],
        )
        figure.layout.xaxis.range = [low - pad, high + pad]
        figure.layout.title.text = f"effect of {head_name(head)} on each prompt"
        # the probability is its own unit
        figure.layout.xaxis.title.text = ", ".join(dict.fromkeys((effects.metric, EFFECT_UNITS[effects.metric])))
    _keep(figure)


def _keep(figure: go.FigureWidget) -> None:
    """Keep the figure's state for a page that is opened later; plotly does so only for figures that it displays."""
    figure._repr_mimebundle_()
