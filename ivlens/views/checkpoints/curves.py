"""A base model and its checkpoints as lines: abilities and their vectors, alignment by layer."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ...checks import checked
from ...records import CheckpointComparison
from ...records.tables import is_measured, measure_interval, measure_values, shows_training, was_trained_on
from ..axes import UNIT_AXIS, name_axis, under_lowest, value_axis
from ..layout import Margins, Size, columns_for, is_lowest, legend_around, legend_size, panel_grid, panel_width
from ..style import INK, LINE_COLOURS, SYMBOLS, line_style, plain, shortened, translucent
from .words import prompts_text

# measure -> the title of its panel, and whether it is from 0 to 1
MEASURES = {
    "accuracy": ("accuracy", True),
    "probability": ("instruction probability", True),
    "knowledge": ("knowledge probability", True),
    "cosine": ("cosine of the vectors", False),
    "norm_ratio": ("norm ratio of the vectors", False),
    "alignment": ("alignment", False),
}
LEFT = 64
GAPS = Size(62, 26)
LAYERS_ROW_GAP, LAYERS_BOTTOM = 56, 52
MEASURES_ARE = (
    "bars: 95% interval, of probabilities Student's t\n"
    "cosine, norm ratio: vector of the base's heads, now to base; dashed: of heads chosen anew\n"
    "alignment: cosine of the hidden state with the base's vector"
)


@checked
def checkpoint_trajectories(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """What became of each task from checkpoint to checkpoint, the base first: abilities, then their vectors.

    Panels, where measured: accuracy and the two probabilities (0 to 1), cosine, norm ratio and alignment; a line per
    task, with 95% intervals. Ringed: the task that a checkpoint was trained on.

    Args:
        comparison: the record of ``compare_checkpoints``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> iv.views.checkpoint_trajectories(comparison).data[0].name in comparison.tasks
        True
    """
    measures = [name for name in MEASURES if is_measured(comparison, name)] or ["accuracy"]
    several = comparison.tasks if len(comparison.tasks) > 1 else ()
    right, legend_height = legend_size([shortened(task) for task in several])
    columns, width, axis, margins = checkpoint_grid(comparison, len(measures), 230, 60, right)
    size = Size(width, max(190, legend_height // math.ceil(len(measures) / columns)))
    heading = "From checkpoint to checkpoint" if several else f"From checkpoint to checkpoint: {comparison.tasks[0]}"
    ringed = ", ringed: what a checkpoint was trained on" if shows_training(comparison) else ""
    facts = f"{prompts_text(comparison)}{ringed}\n{MEASURES_ARE}"
    names = [MEASURES[name][0] for name in measures]
    draft, panels = panel_grid(names, size, columns, GAPS, margins, heading if title is None else title, facts)
    for measure, panel in zip(measures, panels, strict=True):
        traces = task_lines(comparison, measure)
        draft.add_traces(traces, **panel)
        draft.update_yaxes(UNIT_AXIS if MEASURES[measure][1] else value_axis(traces), **panel)
        draft.update_xaxes(under_lowest(axis, is_lowest(panel, panels)), **panel)
    draft.layout |= legend_around(draft.traces, several)
    return draft.figure()


@checked
def alignment_by_layer(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """Cosine of hidden states with the base's vector, layer by layer: a panel per task, a line per checkpoint.

    The base's line is black.

    Args:
        comparison: the record of ``compare_checkpoints``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> figure = iv.views.alignment_by_layer(comparison)
        >>> len(figure.data) == len(comparison.checkpoints) * len(comparison.tasks)
        True
    """
    names, tasks = comparison.checkpoints, comparison.tasks
    right, legend_height = legend_size([shortened(name) for name in names])
    margins = Margins(LEFT, right, LAYERS_BOTTOM)
    columns = columns_for(len(tasks), 230, GAPS.width, margins)
    size = Size(
        min(panel_width(columns, GAPS.width, margins), 460),
        max(200, legend_height // math.ceil(len(tasks) / columns)),
    )
    heading = "Alignment of hidden states with the base's vector" if title is None else title
    facts = "cosine of the stream that enters each layer, at the last token of clean prompts, with the base's vector"
    gaps = Size(GAPS.width, LAYERS_ROW_GAP)
    draft, panels = panel_grid(tasks, size, columns, gaps, margins, heading, facts)
    values = comparison.alignment.double().numpy()
    for task, panel in enumerate(panels):
        for checkpoint in reversed(range(len(names))):  # the base on top
            draft.add_traces([_layer_line(names[checkpoint], checkpoint, values[checkpoint, task])], **panel)
        if panel["col"] == 1:
            draft.update_yaxes({"title": {"text": "cosine"}}, **panel)
    draft.update_xaxes({"title": {"text": "layer"}, "zeroline": False})
    draft.update_yaxes(value_axis(draft.traces))
    draft.layout |= legend_around(draft.traces, names)
    return draft.figure()


def _layer_line(name: str, checkpoint: int, values: np.ndarray) -> go.Scatter:
    line: dict[str, Any] = {"color": INK, "width": 2.6}
    if checkpoint > 0:
        colour, dash = line_style(checkpoint - 1)
        line = {"color": colour, "dash": dash, "width": 1.6}
    return go.Scatter(
        x=np.arange(len(values)), y=values, mode="lines" if len(values) > 1 else "markers", line=line,
        legendgroup=name, name=plain(shortened(name), 99),
        hovertemplate=f"{plain(name, 60)}<br>layer %{{x}}<br><b>%{{y:.3f}}</b><extra></extra>",
    )  # fmt: skip


def task_lines(comparison: CheckpointComparison, measure: str) -> list[go.Scatter]:
    """One line per task of one measure, with intervals; tasks are shifted so that error bars do not overlap."""
    tasks, values = comparison.tasks, measure_values(comparison, measure)
    reselected = measure_values(comparison, f"reselected_{measure}")
    low, high = measure_interval(comparison, measure)
    apart, traces = min(0.06, 0.5 / len(tasks)), []
    for number, task in enumerate(tasks):
        x = np.arange(len(values)) + apart * (number - (len(tasks) - 1) / 2)
        colour, symbol = LINE_COLOURS[number % len(LINE_COLOURS)], SYMBOLS[number // len(LINE_COLOURS) % len(SYMBOLS)]
        traces.append(_task_line(task, measure, x, values[task], low[task], high[task], colour, symbol))
        trained = [was_trained_on(comparison, checkpoint, task) for checkpoint in range(len(values))]
        if any(trained):
            traces.append(_rings(task, x[trained], values[task].to_numpy()[trained]))
        if reselected[task].notna().any():
            traces.append(_reselected_line(task, x, reselected[task], colour, symbol))
    return traces


def _task_line(
    task: str, measure: str, x: np.ndarray, values: pd.Series, low: pd.Series, high: pd.Series, colour: str, symbol: str
) -> go.Scatter:
    texts = [
        f"{plain(task, 60)}<br>{plain(name, 60)}<br><b>{MEASURES[measure][0]} {value:.3g}</b>"
        + ("" if np.isnan(least + most) else f"<br>95% interval {least:.3g} to {most:.3g}")
        for name, value, least, most in zip(values.index, values, low, high, strict=True)
    ]
    bar = {"thickness": 1.2, "width": 0, "color": translucent(colour, 0.6)}
    above, below = (high - values).fillna(0), (values - low).fillna(0)
    return go.Scatter(
        x=x, y=values.to_numpy(), mode="lines+markers", name=plain(shortened(task), 99), legendgroup=task,
        hovertext=texts, hovertemplate="%{hovertext}<extra></extra>", line={"color": colour, "width": 1.8},
        cliponaxis=False, marker={"symbol": symbol, "size": 6}, error_y=bar | {"array": above, "arrayminus": below},
    )  # fmt: skip


def _rings(task: str, x: np.ndarray, y: np.ndarray) -> go.Scatter:
    """Rings around the checkpoints that were trained on the task."""
    return go.Scatter(
        x=x, y=y, mode="markers", name="trained on", legendgroup=task, hoverinfo="skip", cliponaxis=False,
        marker={"symbol": "circle-open", "size": 13, "color": INK, "line": {"width": 1.8}},
    )  # fmt: skip


def _reselected_line(task: str, x: np.ndarray, values: pd.Series, colour: str, symbol: str) -> go.Scatter:
    """The measure of the heads selected again on each checkpoint, dashed."""
    return go.Scatter(
        x=x, y=values, mode="lines+markers", name="chosen anew", legendgroup=task,
        line={"color": colour, "width": 1.2, "dash": "dash"}, marker={"symbol": f"{symbol}-open", "size": 5},
        hovertemplate=f"{plain(task, 60)}, heads chosen anew<br><b>%{{y:.3g}}</b><extra></extra>",
    )  # fmt: skip


def checkpoint_grid(
    comparison: CheckpointComparison, n_panels: int, least_width: int, checkpoint_width: int, right: int
) -> tuple[int, int, dict[str, Any], Margins]:
    """Number of columns and width of ``n_panels`` panels, the axis of the checkpoints' names, and the margins.

    A panel is at least ``least_width`` wide, and at most ``checkpoint_width`` for each checkpoint.
    """
    widest = max(220, checkpoint_width * len(comparison.checkpoints))
    margins = Margins(LEFT, right, 0)
    for _ in range(2):  # slanted names may need a wider margin, which leaves less room
        columns = columns_for(n_panels, least_width, GAPS.width, margins)
        width = min(panel_width(columns, GAPS.width, margins), widest)
        axis, bottom = name_axis(comparison.checkpoints, width)
        margins = Margins(max(LEFT, bottom - 10), right, bottom)
    return columns, width, axis, margins
