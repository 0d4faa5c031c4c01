"""A steering sweep: layers from the bottom up, scales from left to right, a panel per number of heads."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..records import SteeringSweep
from ..text import plural
from ..vocabulary import at_layer
from .axes import colour_bar, outlines, text_axis, tick_step
from .layout import Margins, Size, columns_for, panel_grid
from .style import OKABE_ITO, SEQUENTIAL

HOVER = (
    "layer %{customdata[0]}, scale %{customdata[1]}<br><b>accuracy %{z:.2f}</b> "
    "(95% interval %{customdata[2]:.2f} to %{customdata[3]:.2f})<br>P(answer) %{customdata[4]:.3f}<br>"
    "n = %{customdata[5]}<extra></extra>"
)
FACTS = ["layer", "scale", "low", "high", "probability", "n"]
MARGINS = Margins(left=56, right=84, bottom=52)
GAPS = Size(36, 56)


@checked
def sweep_heatmap(sweep: SteeringSweep, *, title: str | None = None) -> go.Figure:
    """Accuracy of steered prompts, 0 to 1, for each layer and scale; a panel for each number of heads.

    The best combination is outlined; chosen on these prompts, its accuracy is too high an estimate for others.

    Args:
        sweep: the record of ``steering_sweep``.
        title: plain text; without one it names the task.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> sweep = iv.steering_sweep(model, vector, prompts, layers=[0, 1], scales=[1.0, 2.0])
        >>> iv.views.sweep_heatmap(sweep).data[0].z.shape
        (2, 2)
    """
    frame, ks = sweep.to_frame(), sorted(sweep.ks)
    best_layer, best_scale, best_k = sweep.best()
    size = Size(max(120, min(440, 38 * len(sweep.scales))), max(120, min(600, 20 * len(sweep.layers))))
    names = [plural(k, "head") for k in ks]
    rows_title = "layer" if sweep.site == "resid_pre" else f"layer, {sweep.site}"
    heading = (sweep.task or "Steering sweep") if title is None else title
    columns = columns_for(len(ks), size.width, GAPS.width, MARGINS)
    draft, panels = panel_grid(names, size, columns, GAPS, MARGINS, heading, _facts(sweep, frame))
    for k, panel in zip(ks, panels, strict=True):
        rows = frame[frame["k"] == k].sort_values(["layer", "scale"])
        layers, scales = sorted(set(rows["layer"])), sorted(set(rows["scale"]))
        draft.add_traces([_map(rows, (len(layers), len(scales)), size, first=panel == panels[0])], **panel)
        if k == best_k:
            square = layers.index(best_layer), scales.index(best_scale)
            draft.add_traces([outlines([square], "best", OKABE_ITO[1], width=3, reach=0.48)], **panel)
        draft.update_xaxes(_axis("scale", scales, size.width, 34), **panel)
        draft.update_yaxes(_axis(rows_title if panel["col"] == 1 else "", layers, size.height, 16), **panel)
    return draft.figure()


def _map(rows: pd.DataFrame, shape: tuple[int, int], size: Size, *, first: bool) -> go.Heatmap:
    """The map of one panel, with its values written in if there is room; the ``first`` one has the colour bar."""
    width, height = size.width / shape[1], size.height / shape[0]
    return go.Heatmap(
        z=rows["accuracy"].to_numpy().reshape(shape),
        customdata=np.stack([rows[name].to_numpy() for name in FACTS], axis=-1).reshape(*shape, len(FACTS)),
        hovertemplate=HOVER,
        texttemplate="%{z:.2f}" if width >= 28 and height >= 13 else None,
        textfont={"size": 10},
        colorscale=SEQUENTIAL,
        zmin=0,
        zmax=1,
        xgap=1 if width >= 9 else 0,
        ygap=1 if height >= 9 else 0,
        showscale=first,
        colorbar=colour_bar("accuracy", min(size.height, 300)),
    )


def _axis(title: str, values: list[Any], pixels: int, room: int) -> dict[str, Any]:
    """An axis with one step per value, its labels at least ``room`` pixels apart."""
    step = tick_step(pixels / len(values), room)
    texts = [f"{value:g}" if index % step == 0 else "" for index, value in enumerate(values)]
    return text_axis(texts) | {"title": {"text": title}, "range": [-0.5, len(values) - 0.5]}


def _facts(sweep: SteeringSweep, frame: pd.DataFrame) -> str:
    layer, scale, k = sweep.best()
    where = f"{at_layer(layer, sweep.site)}, scale {scale:g}, {plural(k, 'head')}"
    row = frame[(frame["layer"] == layer) & (frame["scale"] == scale) & (frame["k"] == k)].iloc[0]
    return (
        f"accuracy with the vector added, n = {plural(sweep.n, 'prompt')}\n"
        f"outlined, the best combination on these prompts:\n{where}: "
        f"{row['accuracy']:.2f} (95% interval {row['low']:.2f} to {row['high']:.2f})"
    )
