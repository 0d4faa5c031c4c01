"""A comparison on one page, as for a paper: verdicts, what became of abilities and knowledge, recovery."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..checks import checked
from ..records import CheckpointComparison
from .checkpoint_parts import (
    any_trained,
    counted,
    hover_texts,
    key_size,
    names_axis,
    numbers,
    shortened,
    table,
    task_axis,
    values_axis,
    with_key,
)  # fmt: skip
from .checkpoints import CONDITIONS, LINES, bars, trajectories
from .panels import LETTER, WIDEST, layout_around
from .style import INK, plain

# verdict -> its short text and its colour; they differ in lightness too, for all kinds of colour vision
VERDICTS = {
    "kept": ("kept", "#56b4e9"),
    "activation drowned, recoverable": ("drowned", "#e69f00"),
    "function changed": ("changed", "#aa4499"),
    "knowledge lost": ("lost", "#3b0f3f"),
    "undecided": ("undecided", "#c8d0d8"),
    "not an ability of the base": ("no ability", "#f0f2f5"),
    "base": ("base", "#f0f2f5"),
}
ROW, LINE, BARS = 28, 170, 110  # pixels: heights of a row of verdicts, a panel of lines, a panel of bars
ABOVE, GAP, KEY_WIDTH = 36, 46, 22  # pixels over a panel and between panels; letters of a line of the legend
FACTS = (
    "recovery: accuracy on bare prompts, with vectors added to them, and on clean prompts\n"
    "bars: 95% interval, of probabilities ±1.96 standard errors, of random vectors from the least to the greatest"
)
Box = tuple[float, float, float, float]  # left, top, width, height in pixels


@checked
def checkpoint_summary(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """A comparison as one figure for a paper: verdicts, accuracy and the two probabilities, recovery of every task.

    Tasks are rows of the verdicts, lines of the measures and panels of the recovery. ``title`` is plain text.
    """
    grid, used = verdict_grid(comparison)
    lines = [line for each in used for line in plain(each, KEY_WIDTH).split("<br>")]
    left = 24 + int(LETTER * max(len(shortened(task)) for task in comparison.tasks))
    right = key_size([*lines, *comparison.tasks, *(name for name, _ in CONDITIONS.values())])[0]
    measures = [each for each in list(LINES)[:3] if numbers(comparison, each).notna().to_numpy().any()]
    board = _Board(make_subplots(1, 1 + len(measures) + len(comparison.tasks)), WIDEST - left - right)
    _draw_verdicts(board, comparison, grid, used)
    if measures:
        _draw_lines(board, comparison, measures)
    _draw_recovery(board, comparison)
    ringed = ", ringed: what a checkpoint was trained on" * any_trained(comparison)
    heading = "What became of the base's abilities" if title is None else title
    facts = f"{counted(comparison)}{ringed}\n{FACTS}"
    size = board.width, int(board.foot)
    return board.finished().update_layout(layout_around(size, (left, right, 16), heading, facts))


@dataclass
class _Board:
    """Panels in rows from the top down, in pixels; ``foot`` is the height that the rows so far take."""

    figure: go.Figure
    width: int
    foot: float = 0.0
    boxes: list[Box] = field(default_factory=list)
    names: list[tuple[float, float, str]] = field(default_factory=list)
    keys: list[tuple[list[str], str, float, float]] = field(default_factory=list)

    def add(self, traces: Sequence[Any], box: Box, name: str, x: dict[str, Any], y: dict[str, Any]) -> None:
        """The next panel, in its box, with its name and its axes."""
        self.boxes.append(box)
        at = len(self.boxes)
        self.figure.add_traces(traces, rows=1, cols=at).update_xaxes(x, col=at).update_yaxes(y, col=at)
        self.names.append((box[0], box[1], shortened(name, int(box[2] / 8))))

    def finished(self) -> go.Figure:
        """The figure, every panel, name and legend in its place."""
        across, down = self.width, self.foot
        for at, (left, top, width, height) in enumerate(self.boxes, 1):
            self.figure.update_xaxes(domain=[left / across, min(1, (left + width) / across)], col=at)
            self.figure.update_yaxes(domain=[max(0, 1 - (top + height) / down), 1 - top / down], col=at)
        for left, top, text in self.names:
            self.figure.add_annotation(
                text=f"<b>{plain(text, 99)}</b>", x=left / across, y=1 - (top - 6) / down, xref="paper", yref="paper",
                xanchor="left", yanchor="bottom", showarrow=False, font_size=13,
            )  # fmt: skip
        for groups, legend, left, top in self.keys:
            with_key(self.figure, groups, legend, x=left / across, y=1 - top / down)
        return self.figure


def _draw_verdicts(board: _Board, comparison: CheckpointComparison, grid: Sequence[Any], used: list[str]) -> None:
    names, tasks = comparison.checkpoints[1:] or comparison.checkpoints, comparison.tasks
    width = min(board.width, 120 * len(names))
    cell = width / len(names)
    grid[0].update(textfont={"size": 11 if cell > 66 else 9}, texttemplate="%{text}" if cell > 46 else None)
    axis, under = names_axis(names, width)
    box = (0, ABOVE, width, ROW * len(tasks))
    board.add(grid, box, "Verdicts", axis | {"range": [-0.5, len(names) - 0.5]}, task_axis(tasks))
    board.keys.append((used, "legend2", width + 12, ABOVE))
    lines = sum(1 + plain(each, KEY_WIDTH).count("<br>") for each in used)
    board.foot = ABOVE + max(box[3] + under, 20 + 17 * lines)


def _draw_lines(board: _Board, comparison: CheckpointComparison, measures: list[str]) -> None:
    several = list(comparison.tasks) if len(comparison.tasks) > 1 else []
    width, top = (board.width - GAP * (len(measures) - 1)) / len(measures), board.foot + ABOVE
    axis, under = names_axis(comparison.checkpoints, width)
    height = max(LINE, key_size(several)[1] - under)
    for at, measure in enumerate(measures):
        box, name = (at * (width + GAP), top, width, height), LINES[measure][0].capitalize()
        board.add(trajectories(comparison, measure), box, name, axis, values_axis([], True))
    board.keys.append((several, "legend", board.width, top))
    board.foot = top + height + under


def _draw_recovery(board: _Board, comparison: CheckpointComparison) -> None:
    names, tasks = comparison.checkpoints, comparison.tasks
    fitting = max(1, int((board.width + GAP) // (max(150, 22 * len(names)) + GAP)))
    columns = -(-len(tasks) // -(-len(tasks) // fitting))
    width = min((board.width - GAP * (columns - 1)) / columns, max(220, 110 * len(names)))
    axis, under = names_axis(names, width)
    top = board.foot + 2 * ABOVE
    board.names.append((0, top - ABOVE + 6, "Recovery: accuracy in each condition"))
    for at, task in enumerate(tasks):
        box = at % columns * (width + GAP), top + at // columns * (BARS + ABOVE), width, BARS
        own = axis if at + columns >= len(tasks) else axis | {"showticklabels": False}
        traces = [each.update(legend="legend3") for each in bars(comparison, task)]
        board.add(traces, box, task, own, values_axis([], True))
    board.keys.append((list(CONDITIONS), "legend3", columns * (width + GAP) - GAP, top))
    board.foot = max(board.boxes[-1][1] + BARS + under, top + key_size(list(CONDITIONS))[1])


def verdict_grid(comparison: CheckpointComparison) -> tuple[list[go.Heatmap | go.Scatter], list[str]]:
    """Verdicts as coloured cells, tasks by checkpoints without the base; their legend's entries; which there are."""
    first = min(1, len(comparison.checkpoints) - 1)
    found = table(comparison, "verdict").iloc[first:].T.to_numpy()
    found = np.where(np.isin(found.astype(str), list(VERDICTS)), found, "undecided")
    known, last = list(VERDICTS), len(VERDICTS)
    steps = [(edge / last, colour) for at, (_, colour) in enumerate(VERDICTS.values()) for edge in (at, at + 1)]
    cells = go.Heatmap(
        z=[[known.index(each) for each in row] for row in found], zmin=-0.5, zmax=last - 0.5, colorscale=steps,
        text=[[VERDICTS[each][0] for each in row] for row in found], texttemplate="%{text}", xgap=2, ygap=2,
        showscale=False, name="verdicts", hovertemplate="%{customdata}<extra></extra>",
        customdata=[row[first:] for row in hover_texts(comparison, "accuracy")],
    )  # fmt: skip
    used = [each for each in known if each in found]
    marker: dict[str, Any] = {"symbol": "square", "size": 13, "line": {"color": INK, "width": 0.5}}
    marks = [
        go.Scatter(
            x=[None], y=[None], mode="markers", name=plain(each, KEY_WIDTH), legendgroup=each, legend="legend2",
            marker=marker | {"color": VERDICTS[each][1]},
        )
        for each in used
    ]  # fmt: skip
    return [cells, *marks], used
