"""A comparison as one figure for a paper: verdicts, abilities and knowledge, recovery."""

from collections.abc import Sequence

import plotly.graph_objects as go

from ...checks import checked
from ...records import CheckpointComparison
from ...records.tables import is_measured, measure_table, shows_training
from ...vocabulary import Verdict
from ..axes import LETTER, UNIT_AXIS, name_axis, task_axis, under_lowest
from ..layout import WIDEST, Board, Box, Margins, Size, even_columns, layout_around, legend_size
from ..settings import task_steering_facts
from ..style import INK, plain, shortened
from .curves import MEASURES, task_lines
from .recovery import condition_bars
from .words import CONDITION_COLOURS, VERDICT_STYLES, hover_texts, prompts_text, verdict_of

ABILITIES = ("accuracy", "probability", "knowledge")
ROW, LINES_HEIGHT, BARS_HEIGHT = 28, 170, 110  # pixels: a row of verdicts, a panel of lines, a panel of bars
ABOVE, NOTE, GAP = 36, 16, 46  # pixels over a panel, more for a note under its name, and between panels
LABEL_WIDTH = 22  # characters of a line of the verdicts' legend
MARKS = (
    "recovery: accuracy on bare prompts, with vectors added to them, and on clean prompts\n"
    "bars: 95% interval, of probabilities Student's t, of random vectors from the least to the greatest"
)


@checked
def checkpoint_summary(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """A comparison as one figure for a paper: verdicts, accuracy and the two probabilities, recovery of every task.

    Tasks are rows of the verdicts, lines of the measures and panels of the recovery.

    Args:
        comparison: the record of ``compare_checkpoints``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        RecordError: an unknown verdict or condition.

    Example:
        >>> iv.views.checkpoint_summary(comparison).data[0].name
        'verdicts'
    """
    heatmap, verdicts = verdict_map(comparison)
    lines = [line for verdict in verdicts for line in _legend_lines(verdict)]
    left = 24 + int(LETTER * max(len(shortened(task)) for task in comparison.tasks))
    labels = [*lines, *comparison.tasks, *CONDITION_COLOURS]
    right = legend_size([shortened(label) for label in labels]).width
    measures = [measure for measure in ABILITIES if is_measured(comparison, measure)]
    board = Board(WIDEST - left - right)
    _draw_verdicts(board, comparison, heatmap, verdicts)
    if measures:
        _draw_lines(board, comparison, measures)
    _draw_recovery(board, comparison)
    ringed = ", ringed: what a checkpoint was trained on" if shows_training(comparison) else ""
    heading = "What became of the base's abilities" if title is None else title
    facts = f"{prompts_text(comparison)}{ringed}\n{MARKS}"
    around = layout_around(Size(board.width, int(board.height)), Margins(left, right, 16), heading, facts)
    return board.finished(around)


def verdict_map(comparison: CheckpointComparison, *, with_base: bool = False) -> tuple[go.Heatmap, list[Verdict]]:
    """A heatmap of verdicts, tasks by checkpoints, and the verdicts that occur.

    Raises:
        RecordError: an unknown verdict.
    """
    first = 0 if with_base else min(1, len(comparison.checkpoints) - 1)
    table = measure_table(comparison, "verdict").iloc[first:].T
    rows = [[verdict_of(value) for value in row] for row in table.to_numpy()]
    known, count = list(VERDICT_STYLES), len(VERDICT_STYLES)
    colours = [colour for _, colour in VERDICT_STYLES.values()]
    steps = [(edge / count, colour) for number, colour in enumerate(colours) for edge in (number, number + 1)]
    heatmap = go.Heatmap(
        z=[[None if verdict is None else known.index(verdict) for verdict in row] for row in rows],
        zmin=-0.5, zmax=count - 0.5, colorscale=steps, xgap=2, ygap=2, showscale=False, name="verdicts",
        text=[["" if verdict is None else VERDICT_STYLES[verdict][0] for verdict in row] for row in rows],
        texttemplate="%{text}", hovertemplate="%{customdata}<extra></extra>",
        customdata=[row[first:] for row in hover_texts(comparison, "accuracy")],
    )  # fmt: skip
    return heatmap, [verdict for verdict in known if any(verdict in row for row in rows)]


def _legend_lines(verdict: Verdict) -> list[str]:
    return plain(verdict, LABEL_WIDTH).split("<br>")


def _mark(verdict: Verdict) -> go.Scatter:
    """An entry of the verdicts' legend."""
    marker = {"symbol": "square", "size": 13, "line": {"color": INK, "width": 0.5}, "color": VERDICT_STYLES[verdict][1]}
    return go.Scatter(
        x=[None], y=[None], mode="markers", name=plain(verdict, LABEL_WIDTH), legendgroup=str(verdict),
        legend="legend2", marker=marker,
    )  # fmt: skip


def _draw_verdicts(
    board: Board, comparison: CheckpointComparison, heatmap: go.Heatmap, verdicts: Sequence[Verdict]
) -> None:
    names, tasks = comparison.checkpoints[1:] or comparison.checkpoints, comparison.tasks
    width = min(board.width, 120 * len(names))
    column = width / len(names)
    heatmap.update(textfont={"size": 11 if column > 66 else 9}, texttemplate="%{text}" if column > 46 else None)
    axis, under = name_axis(names, width)
    box = Box(0, ABOVE, width, ROW * len(tasks))
    axis |= {"range": [-0.5, len(names) - 0.5]}
    board.add_panel([heatmap, *map(_mark, verdicts)], box, "Verdicts", axis, task_axis(tasks))
    board.add_legend([str(verdict) for verdict in verdicts], "legend2", width + 12, ABOVE)
    n_lines = sum(len(_legend_lines(verdict)) for verdict in verdicts)
    board.height = ABOVE + max(box.height + under, 20 + 17 * n_lines)


def _draw_lines(board: Board, comparison: CheckpointComparison, measures: list[str]) -> None:
    several = list(comparison.tasks) if len(comparison.tasks) > 1 else []
    width, top = (board.width - GAP * (len(measures) - 1)) / len(measures), board.height + ABOVE
    axis, under = name_axis(comparison.checkpoints, width)
    height = max(LINES_HEIGHT, legend_size([shortened(task) for task in several]).height - under)
    for number, measure in enumerate(measures):
        box, name = Box(number * (width + GAP), top, width, height), MEASURES[measure][0].capitalize()
        board.add_panel(task_lines(comparison, measure), box, name, axis, UNIT_AXIS)
    board.add_legend(several, "legend", board.width, top)
    board.height = top + height + under


def _draw_recovery(board: Board, comparison: CheckpointComparison) -> None:
    names, tasks = comparison.checkpoints, comparison.tasks
    fitting = max(1, int((board.width + GAP) // (max(150, 22 * len(names)) + GAP)))
    columns = even_columns(len(tasks), fitting)
    width = min((board.width - GAP * (columns - 1)) / columns, max(220, 110 * len(names)))
    axis, under = name_axis(names, width)
    points = task_steering_facts(comparison, tasks)
    above = ABOVE + (NOTE if any(points) else 0)
    top = board.height + ABOVE + above
    board.add_name("Recovery: accuracy in each condition", 0, top - above + 6)
    for number, (task, point) in enumerate(zip(tasks, points, strict=True)):
        row, column = divmod(number, columns)
        box = Box(column * (width + GAP), top + row * (BARS_HEIGHT + above), width, BARS_HEIGHT)
        lowest = number + columns >= len(tasks)
        traces = condition_bars(comparison, task)
        for bars in traces:
            bars.legend = "legend3"
        board.add_panel(traces, box, task, under_lowest(axis, lowest), UNIT_AXIS, point)
    conditions = [str(condition) for condition in CONDITION_COLOURS]
    board.add_legend(conditions, "legend3", columns * (width + GAP) - GAP, top)
    board.height = max(box.top + BARS_HEIGHT + under, top + legend_size(conditions).height)
