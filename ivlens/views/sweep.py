"""A steering sweep as a figure: layers from the bottom up, scales from left to right, a panel a number of heads."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..records import SteeringSweep
from .panels import SEQUENTIAL, Edges, Size, columns_for, labels, panels
from .style import OKABE_ITO, tick_step

HOVER = (
    "layer %{customdata[0]}, scale %{customdata[1]}<br><b>accuracy %{z:.2f}</b> "
    "(95% interval %{customdata[2]:.2f} to %{customdata[3]:.2f})<br>P(answer) %{customdata[4]:.3f}<br>"
    "n = %{customdata[5]}<extra></extra>"
)
FACTS = ["layer", "scale", "low", "high", "probability", "n"]
BAR = {
    "title": {"text": "accuracy", "side": "right"}, "outlinewidth": 0, "thickness": 14,
    "lenmode": "pixels", "y": 1, "yanchor": "top", "ypad": 0,
}  # fmt: skip
EDGES: Edges = (56, 84, 52)
GAPS: Size = (36, 56)


@checked
def sweep_heatmap(sweep: SteeringSweep, *, title: str | None = None) -> go.Figure:
    """Accuracy of steered prompts, 0 to 1, for each layer and scale; one panel for each number of heads.

    The best cell is outlined; being the best on these prompts, it flatters there. ``title`` is plain text; without
    one it names the task.
    """
    frame = sweep.to_frame()
    counts = sorted(sweep.ks)
    size = max(120, min(440, 38 * len(sweep.scales))), max(120, min(600, 20 * len(sweep.layers)))
    names = [f"{count} head{'s' * (count != 1)}" for count in counts]
    heading = (sweep.task or "Steering sweep") if title is None else title
    columns = columns_for(len(counts), size[0], GAPS[0], EDGES)
    best = sweep.best()
    figure, places = panels(names, size, columns, GAPS, EDGES, heading, _facts(sweep.n, frame, best))
    for count, place in zip(counts, places, strict=True):
        cells = frame[frame["k"] == count].sort_values(["layer", "scale"])
        layers, scales = sorted(set(cells["layer"])), sorted(set(cells["scale"]))
        figure.add_trace(_cells(cells, (len(layers), len(scales)), size, first=place == places[0]), **place)
        if count == best[2]:
            figure.add_trace(_outline(scales.index(best[1]), layers.index(best[0])), **place)
        figure.update_xaxes(_axis("scale", scales, size[0], 34), **place)
        figure.update_yaxes(_axis("layer" if place["col"] == 1 else "", layers, size[1], 16), **place)
    return figure


def _cells(cells: pd.DataFrame, shape: Size, size: Size, *, first: bool) -> go.Heatmap:
    """The cells of one panel, with their values written where there is room; the ``first`` panel has the colour bar."""
    across, up = size[0] / shape[1], size[1] / shape[0]
    return go.Heatmap(
        z=cells["accuracy"].to_numpy().reshape(shape),
        customdata=np.stack([cells[name].to_numpy() for name in FACTS], axis=-1).reshape(*shape, len(FACTS)),
        hovertemplate=HOVER,
        texttemplate="%{z:.2f}" if across >= 28 and up >= 13 else None,
        textfont={"size": 10},
        colorscale=SEQUENTIAL,
        zmin=0,
        zmax=1,
        xgap=1 if across >= 9 else 0,
        ygap=1 if up >= 9 else 0,
        showscale=first,
        colorbar=BAR | {"len": min(size[1], 300)},
    )


def _outline(x: int, y: int) -> go.Scatter:
    """An open square around the cell at ``x`` and ``y``."""
    across, up = (-0.48, 0.48, 0.48, -0.48, -0.48), (-0.48, -0.48, 0.48, 0.48, -0.48)
    return go.Scatter(
        x=[x + step for step in across],
        y=[y + step for step in up],
        mode="lines",
        line={"color": OKABE_ITO[1], "width": 3},
        hoverinfo="skip",
        name="best",
    )


def _axis(name: str, values: list[Any], pixels: int, room: int) -> dict[str, Any]:
    """An axis of one cell a value, its ticks at least ``room`` pixels apart."""
    step = tick_step(pixels / len(values), room)
    texts = [f"{value:g}" if index % step == 0 else "" for index, value in enumerate(values)]
    return labels(texts) | {"title": {"text": name}, "range": [-0.5, len(values) - 0.5]}


def _facts(n: int, frame: pd.DataFrame, cell: tuple[int, float, int]) -> str:
    layer, scale, count = cell
    best = frame[(frame["layer"] == layer) & (frame["scale"] == scale) & (frame["k"] == count)].iloc[0]
    return (
        f"accuracy with the vector added, n = {n} prompt{'s' * (n != 1)}\n"
        f"outlined, the best cell on these prompts:\nlayer {layer}, scale {scale:g}, {count} head{'s' * (count != 1)}: "
        f"{best['accuracy']:.2f} (95% interval {best['low']:.2f} to {best['high']:.2f})"
    )
