"""Whether a vector brings a task back: accuracy of each checkpoint in each condition, as bars."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ...checks import checked
from ...records import CheckpointComparison
from ...records.tables import recovery_table
from ...vocabulary import Condition
from ..axes import UNIT_AXIS, under_lowest
from ..layout import Size, is_lowest, legend_around, legend_size, panel_grid
from ..settings import task_steering_facts
from ..style import INK, plain, shortened, translucent
from .curves import GAPS, checkpoint_grid
from .words import CONDITION_COLOURS

BAR = 0.84 / len(CONDITION_COLOURS)  # the width of a bar, where a checkpoint has 1
BARS_ARE = (
    "accuracy on bare prompts, with vectors added to them, and on clean prompts\n"
    "bars: 95% interval (Wilson); random vectors: their mean, from the least to the greatest"
)


@checked
def recovery_bars(comparison: CheckpointComparison, *, title: str | None = None) -> go.Figure:
    """Whether a vector brings a task back: accuracy, 0 to 1, in each condition; a panel per task.

    One group of bars per checkpoint. Error bars are 95% intervals; for random vectors, the range of their accuracies.

    Args:
        comparison: the record of ``compare_checkpoints``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        RecordError: an unknown condition.

    Example:
        >>> iv.views.recovery_bars(comparison).data[0].name
        'bare'
    """
    names, tasks = comparison.checkpoints, comparison.tasks
    right = legend_size(list(map(shortened, CONDITION_COLOURS))).width
    columns, width, axis, margins = checkpoint_grid(comparison, len(tasks), min(60 * len(names), 640), 110, right)
    heading = "Recovery: does a vector bring the task back?" if title is None else title
    points = task_steering_facts(comparison, tasks)
    notes = points if any(points) else ()
    draft, panels = panel_grid(tasks, Size(width, 150), columns, GAPS, margins, heading, BARS_ARE, notes=notes)
    for task, panel in zip(tasks, panels, strict=True):
        draft.add_traces(condition_bars(comparison, task), **panel)
        draft.update_yaxes({"title": {"text": "accuracy" if panel["col"] == 1 else ""}} | UNIT_AXIS, **panel)
        draft.update_xaxes(under_lowest(axis, is_lowest(panel, panels)), **panel)
    draft.layout |= legend_around(draft.traces, [str(condition) for condition in CONDITION_COLOURS])
    return draft.figure()


def condition_bars(comparison: CheckpointComparison, task: str) -> list[go.Bar]:
    """The bars of one task's recovery: one trace per condition, with a bar for each checkpoint that was measured."""
    table = recovery_table(comparison, task).to_dict("records")
    traces = []
    for number, (condition, colour) in enumerate(CONDITION_COLOURS.items()):
        rows = [row for row in table if row["condition"] == condition]
        rows.sort(key=lambda row: comparison.checkpoints.index(row["checkpoint"]))
        offset = (number - (len(CONDITION_COLOURS) - 1) / 2) * BAR
        position = np.array([comparison.checkpoints.index(row["checkpoint"]) for row in rows], float)
        accuracy, low, high = (np.array([row[name] for row in rows], float) for name in ("accuracy", "low", "high"))
        traces.append(go.Bar(
            x=position + offset, y=accuracy, width=0.94 * BAR, name=str(condition), legendgroup=str(condition),
            marker={"color": colour}, hovertext=[*map(_hover, rows)], hovertemplate="%{hovertext}<extra></extra>",
            error_y={
                "array": high - accuracy, "arrayminus": accuracy - low,
                "color": translucent(INK, 0.7), "thickness": 1, "width": 0,
            },
        ))  # fmt: skip
    return traces


def _hover(row: Mapping[Any, Any]) -> str:
    interval = f"{row['vectors']} vectors:" if row["condition"] == Condition.RANDOM_VECTOR else "95% interval"
    return (
        f"{plain(row['checkpoint'], 60)}<br>{row['condition']}<br><b>accuracy {row['accuracy']:.2f}</b><br>"
        f"{interval} {row['low']:.2f} to {row['high']:.2f}<br>P(answer) {row['probability']:.3f}<br>n = {row['n']}"
    )
