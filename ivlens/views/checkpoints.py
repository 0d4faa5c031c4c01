"""A base model and its checkpoints as lines and bars: abilities and their vectors, alignment by layer, recovery."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..checks import checked
from ..records import CheckpointComparison
from .checkpoint_parts import (
    any_trained,
    bounds,
    counted,
    key_size,
    lowest,
    names_axis,
    numbers,
    shortened,
    trained,
    values_axis,
    with_key,
)  # fmt: skip
from .comparison import COLOURS, GREY
from .panels import WIDEST, Edges, Size, columns_for, panels
from .style import INK, plain
from .training import DASHES, SYMBOLS

# measure -> the title of its panel, and whether it is from 0 to 1
LINES = {
    "accuracy": ("accuracy", True),
    "probability": ("instruction probability", True),
    "knowledge": ("knowledge probability", True),
    "cosine": ("cosine of the vectors", False),
    "norm_ratio": ("norm ratio of the vectors", False),
    "alignment": ("alignment", False),
}
# condition of a recovery -> its name in the legend, and its colour
CONDITIONS = {
    "bare": ("bare prompt", COLOURS[4]),
    "bare + base's vector": ("+ base's vector", COLOURS[0]),
    "bare + own vector": ("+ own vector", COLOURS[5]),
    "random vector": ("+ random vector", GREY),
    "clean": ("clean prompt", COLOURS[2]),
}
BAR = 0.84 / len(CONDITIONS)  # its width, where a checkpoint has 1
SHADE = f"rgba{(*bytes.fromhex(INK[1:]), 0.7)}"
LEFT = 64
GAPS: Size = (62, 26)
ABOUT = (
    "bars: 95% interval, of probabilities ±1.96 standard errors\n"
    "cosine, norm ratio: vector of the base's heads, now to base; dashed: of heads chosen anew\n"
    "alignment: cosine of the hidden state with the base's vector"
)
RECOVERED = (
    "accuracy on bare prompts, with vectors added to them, and on clean prompts\n"
    "bars: 95% interval (Wilson); random vectors: their mean, from the least to the greatest"
)


@checked
def checkpoint_trajectories(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """What became of each task from checkpoint to checkpoint, the base first: abilities, then their vectors.

    Panels, as far as they are known: accuracy and the two probabilities (0 to 1), cosine, norm ratio and alignment; a
    line a task, with 95% intervals. Ringed: the task that a checkpoint was trained on. ``title`` is plain text.
    """
    measures = [name for name in LINES if numbers(comparison, name).notna().to_numpy().any()] or ["accuracy"]
    several = comparison.tasks if len(comparison.tasks) > 1 else ()
    right, tall = key_size(several)
    columns, width, axis, edges = _grid(comparison, len(measures), (230, 60), right)
    size = width, max(190, tall // -(-len(measures) // columns))
    heading = "From checkpoint to checkpoint" if several else f"From checkpoint to checkpoint: {comparison.tasks[0]}"
    facts = f"{counted(comparison)}{', ringed: what a checkpoint was trained on' * any_trained(comparison)}\n{ABOUT}"
    names = [LINES[name][0] for name in measures]
    figure, places = panels(names, size, columns, GAPS, edges, heading if title is None else title, facts)
    for measure, place in zip(measures, places, strict=True):
        traces = trajectories(comparison, measure)
        figure.add_traces(traces, rows=place["row"], cols=place["col"])
        figure.update_yaxes(values_axis(traces, LINES[measure][1]), **place)
        figure.update_xaxes(axis if lowest(place, places) else axis | {"showticklabels": False}, **place)
    return with_key(figure, several)


@checked
def alignment_by_layer(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """Cosine of hidden states with the base's vector, layer by layer: a panel a task, a line a checkpoint.

    The base's line is black. ``title`` is plain text.
    """
    names, tasks = comparison.checkpoints, comparison.tasks
    right, tall = key_size(names)
    columns = columns_for(len(tasks), 230, GAPS[0], (LEFT, right, 0))
    size = _width(columns, LEFT + right, 460), max(200, tall // -(-len(tasks) // columns))
    heading = "Alignment of hidden states with the base's vector" if title is None else title
    facts = "cosine of the stream that enters each layer, at the last token of clean prompts, with the base's vector"
    figure, places = panels(tasks, size, columns, (GAPS[0], 56), (LEFT, right, 52), heading, facts)
    values = comparison.alignment.double().numpy()
    for at, place in enumerate(places):
        for index in reversed(range(len(names))):  # the base on top
            other = index - 1
            line = {"color": COLOURS[other % len(COLOURS)], "dash": DASHES[other // len(COLOURS) % 4], "width": 1.6}
            trace = go.Scatter(
                x=np.arange(values.shape[2]), y=values[index, at], mode="lines" if values.shape[2] > 1 else "markers",
                line=line if index else {"color": INK, "width": 2.6}, legendgroup=names[index],
                name=plain(shortened(names[index]), 99),
                hovertemplate=f"{plain(names[index], 60)}<br>layer %{{x}}<br><b>%{{y:.3f}}</b><extra></extra>",
            )  # fmt: skip
            figure.add_trace(trace, **place)
        if place["col"] == 1:
            figure.update_yaxes(title_text="cosine", **place)
    figure.update_xaxes(title_text="layer", zeroline=False)
    return with_key(figure.update_yaxes(values_axis(figure.data, False)), names)


@checked
def recovery_bars(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """Whether a vector brings a task back: accuracy, 0 to 1, in each condition; a panel a task, a group a checkpoint.

    Each bar has its 95% interval, that of random vectors the range of their accuracies. ``title`` is plain text.
    """
    names, tasks = comparison.checkpoints, comparison.tasks
    right = key_size([name for name, _ in CONDITIONS.values()])[0]
    columns, width, axis, edges = _grid(comparison, len(tasks), (min(60 * len(names), 640), 110), right)
    heading = "Recovery: does a vector bring the task back?" if title is None else title
    figure, places = panels(tasks, (width, 150), columns, GAPS, edges, heading, RECOVERED)
    for task, place in zip(tasks, places, strict=True):
        figure.add_traces(bars(comparison, task), rows=place["row"], cols=place["col"])
        figure.update_yaxes({"title": {"text": "accuracy" * (place["col"] == 1)}} | values_axis([], True), **place)
        figure.update_xaxes(axis if lowest(place, places) else axis | {"showticklabels": False}, **place)
    return with_key(figure, list(CONDITIONS))


def trajectories(comparison: CheckpointComparison, measure: str) -> list[go.Scatter]:
    """A line for each task of one measure, with intervals; tasks stand side by side, so that their bars can be told."""
    tasks, values, again = comparison.tasks, numbers(comparison, measure), numbers(comparison, f"reselected_{measure}")
    low, high = bounds(comparison, measure)
    apart, traces = min(0.06, 0.5 / len(tasks)), []
    for at, task in enumerate(tasks):
        points = values[task].to_numpy()
        x = np.arange(len(points)) + apart * (at - (len(tasks) - 1) / 2)
        colour, symbol = COLOURS[at % len(COLOURS)], SYMBOLS[at // len(COLOURS) % len(SYMBOLS)]
        ringed = [trained(comparison, index, task) for index in range(len(points))]
        texts = [
            f"{plain(task, 60)}<br>{plain(name, 60)}<br><b>{LINES[measure][0]} {point:.3g}</b>"
            + ("" if np.isnan(least + most) else f"<br>95% interval {least:.3g} to {most:.3g}")
            for name, point, least, most in zip(values.index, points, low[task], high[task], strict=True)
        ]
        faint = f"rgba{(*bytes.fromhex(colour[1:]), 0.6)}"
        bar = {"thickness": 1.2, "width": 0, "color": faint}
        above, below = (high[task] - points).fillna(0), (points - low[task]).fillna(0)
        traces.append(go.Scatter(
            x=x, y=points, mode="lines+markers", name=plain(shortened(task), 99), legendgroup=task, hovertext=texts,
            hovertemplate="%{hovertext}<extra></extra>", line={"color": colour, "width": 1.8}, cliponaxis=False,
            marker={"symbol": symbol, "size": 6}, error_y=bar | {"array": above, "arrayminus": below},
        ))  # fmt: skip
        if any(ringed):
            traces.append(go.Scatter(
                x=x[ringed], y=points[ringed], mode="markers", name="trained on", legendgroup=task, hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 13, "color": INK, "line": {"width": 1.8}}, cliponaxis=False,
            ))  # fmt: skip
        if again[task].notna().any():
            traces.append(go.Scatter(
                x=x, y=again[task], mode="lines+markers", name="chosen anew", legendgroup=task,
                line={"color": colour, "width": 1.2, "dash": "dash"}, marker={"symbol": f"{symbol}-open", "size": 5},
                hovertemplate=f"{plain(task, 60)}, heads chosen anew<br><b>%{{y:.3g}}</b><extra></extra>",
            ))  # fmt: skip
    return traces


def bars(comparison: CheckpointComparison, task: str) -> list[go.Bar]:
    """The bars of one task's recovery: a trace a condition, a bar for each checkpoint where it was measured."""
    index = {name: at for at, name in enumerate(comparison.checkpoints)}
    rows = [row for row in comparison.recovery if row["task"] == task and row["checkpoint"] in index]
    traces, bar = [], {"color": SHADE, "thickness": 1, "width": 0}
    for at, (condition, (name, colour)) in enumerate(CONDITIONS.items()):
        x, y, low, high, texts = [], [], [], [], []
        for checkpoint, place in index.items():
            own = [row for row in rows if row["checkpoint"] == checkpoint and row["condition"].startswith(condition)]
            if condition != "random vector":
                own = [row for row in own if row["condition"] == condition]
            if not own:
                continue
            found = [row["accuracy"] for row in own]
            drawn = condition == "random vector"
            x.append(place + (at - (len(CONDITIONS) - 1) / 2) * BAR)
            y.append(float(np.mean(found)))
            low.append(min(found) if drawn else own[0]["low"])
            high.append(max(found) if drawn else own[0]["high"])
            texts.append(
                f"{plain(checkpoint, 60)}<br>{name}<br><b>accuracy {y[-1]:.2f}</b><br>"
                f"{f'{len(own)} vectors:' if drawn else '95% interval'} {low[-1]:.2f} to {high[-1]:.2f}<br>"
                f"P(answer) {np.mean([row['probability'] for row in own]):.3f}<br>n = {own[0]['n']}"
            )
        traces.append(go.Bar(
            x=x, y=y, width=0.94 * BAR, name=name, legendgroup=condition, marker={"color": colour},
            hovertext=texts, hovertemplate="%{hovertext}<extra></extra>",
            error_y=bar | {"array": np.subtract(high, y), "arrayminus": np.subtract(y, low)},
        ))  # fmt: skip
    return traces


def _grid(
    comparison: CheckpointComparison, count: int, widths: Size, right: int
) -> tuple[int, int, dict[str, Any], Edges]:
    """Columns and width of so many panels over the checkpoints' names, the axis of these, and the margins.

    ``widths``: the least of a panel, and the most for each checkpoint.
    """
    left = LEFT
    for _ in range(2):  # slanting names may need a wider margin, which leaves less room
        columns = columns_for(count, widths[0], GAPS[0], (left, right, 0))
        width = _width(columns, left + right, widths[1] * len(comparison.checkpoints))
        axis, bottom = names_axis(comparison.checkpoints, width)
        left = max(LEFT, bottom - 10)
    return columns, width, axis, (left, right, bottom)


def _width(columns: int, beside: int, most: int) -> int:
    """The width of a panel where there are so many in a row, at most ``most`` or 220 pixels."""
    return min((WIDEST - beside - GAPS[0] * (columns - 1)) // columns, max(220, most))
