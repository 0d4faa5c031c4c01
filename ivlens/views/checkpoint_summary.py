"""A comparison on one page, as for a paper: verdicts, what became of abilities and knowledge, recovery."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..records import CheckpointComparison
from .checkpoint_parts import (
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
from .panels import LETTER, WIDEST, Size, layout_around
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
    "verdicts: what became of each task; hover, or see the report, for the reasons\n"
    "recovery: accuracy on bare prompts, with vectors added to them, and on clean prompts\n"
    "bars: 95% interval, of probabilities ±1.96 standard errors, of random vectors from the least to the greatest"
)
Box = tuple[float, float, float, float]  # left, top, width, height in pixels


def checkpoint_summary(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """A comparison as one figure for a paper: verdicts, accuracy and the two probabilities, recovery of every task.

    Tasks are rows of the verdicts, lines of the measures and panels of the recovery. ``title`` is plain text.
    """
    names, tasks = comparison.checkpoints, comparison.tasks
    grid, used = verdict_grid(comparison)
    measures = [each for each in list(LINES)[:3] if numbers(comparison, each).notna().to_numpy().any()]
    texts = [plain(each, KEY_WIDTH) for each in used]
    conditions = [name for name, _ in CONDITIONS.values()]
    left = 24 + int(LETTER * max(len(shortened(task)) for task in tasks))
    right = key_size([*(line for text in texts for line in text.split("<br>")), *tasks, *conditions])[0]
    inside = WIDEST - left - right
    judged, several = names[1:] or names, tasks if len(tasks) > 1 else ()
    figure = make_subplots(1, 1 + len(measures) + len(tasks))

    width = float(min(inside, 120 * len(judged)))
    axis, under = names_axis(judged, width)
    boxes: list[Box] = [(0, ABOVE, width, ROW * len(tasks))]
    figure.add_traces(grid, rows=1, cols=1)
    figure.update_traces({"textfont": {"size": 11 if width > 66 * len(judged) else 9}}, {"type": "heatmap"})
    if width < 46 * len(judged):
        figure.update_traces({"texttemplate": None}, {"type": "heatmap"})
    figure.update_xaxes(axis | {"range": [-0.5, len(judged) - 0.5]}, col=1).update_yaxes(task_axis(tasks), col=1)
    beside, tall = width + 12, 20 + 17 * sum(1 + text.count("<br>") for text in texts)
    lines_top = ABOVE + max(boxes[0][3] + under, tall) + ABOVE

    width = (inside - GAP * (len(measures) - 1)) / max(1, len(measures))
    axis, under = names_axis(names, width)
    height = max(LINE, key_size(several)[1] - under)
    for at, measure in enumerate(measures):
        boxes.append((at * (width + GAP), lines_top, width, height))
        figure.add_traces(trajectories(comparison, measure), rows=1, cols=at + 2)
        figure.update_xaxes(axis, col=at + 2).update_yaxes(values_axis([], True), col=at + 2)
    bars_top = lines_top + (height + under + 2 * ABOVE if measures else 2 * ABOVE)

    columns = max(1, min(len(tasks), int((inside + GAP) // (max(150, 32 * len(names)) + GAP))))
    columns = -(-len(tasks) // -(-len(tasks) // columns))
    width = min((inside - GAP * (columns - 1)) / columns, max(220, 110 * len(names)))
    axis, under = names_axis(names, width)
    for at, task in enumerate(tasks):
        place = at + 2 + len(measures)
        boxes.append((at % columns * (width + GAP), bars_top + at // columns * (BARS + ABOVE), width, BARS))
        figure.add_traces([each.update(legend="legend3") for each in bars(comparison, task)], rows=1, cols=place)
        lowest = at + columns >= len(tasks)
        figure.update_xaxes(axis if lowest else axis | {"showticklabels": False}, col=place)
        figure.update_yaxes(values_axis([], True), col=place)
    whole = inside, int(max(boxes[-1][1] + BARS + under, bars_top + key_size(conditions)[1]))

    titles = ["Verdicts", *(LINES[each][0].capitalize() for each in measures), *tasks]
    _put(figure, boxes, whole, titles)
    _name(figure, (0, bars_top - ABOVE + 6), whole, "Recovery: accuracy in each condition")
    heading = "What became of the base's abilities" if title is None else title
    figure.update_layout(layout_around(whole, (left, right, 16), heading, f"{counted(comparison)}\n{FACTS}"))
    with_key(with_key(figure, several, y=1 - lines_top / whole[1]), used, "legend2", x=beside / inside, y=1 - ABOVE / whole[1])
    return with_key(figure, list(CONDITIONS), "legend3", y=1 - bars_top / whole[1])


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


def _put(figure: go.Figure, boxes: list[Box], whole: Size, titles: list[str]) -> None:
    """Each subplot into its box, counted from the top left, with its title over it."""
    for at, ((left, top, width, height), title) in enumerate(zip(boxes, titles, strict=True), 1):
        figure.update_xaxes(domain=[left / whole[0], (left + width) / whole[0]], col=at)
        figure.update_yaxes(domain=[1 - (top + height) / whole[1], 1 - top / whole[1]], col=at)
        _name(figure, (left, top), whole, shortened(title, int(width / 8)))


def _name(figure: go.Figure, place: tuple[float, float], whole: Size, text: str) -> None:
    """A name over a place that is so many pixels from the left and the top."""
    figure.add_annotation(
        text=f"<b>{plain(text, 99)}</b>", x=place[0] / whole[0], y=1 - (place[1] - 6) / whole[1], xref="paper",
        yref="paper", xanchor="left", yanchor="bottom", showarrow=False, font_size=13,
    )  # fmt: skip
