"""What the figures of a comparison share: a measure as a table, its interval, axes of names and values, a legend."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..records import CheckpointComparison
from ..records.visible import one_line
from .panels import LETTER, Place, Size, labels
from .style import plain

NORMAL = 1.96  # standard errors of a 95% interval
NAME_WIDTH = 24  # letters
ENTRY = 20  # pixels of a line of a legend
SLANT = 0.72  # of a label's length, how far it reaches down and to the left
KEY = {"x": 1, "xanchor": "left", "y": 1, "yanchor": "top", "tracegroupgap": 0, "itemsizing": "constant"}


def table(comparison: CheckpointComparison, column: str) -> pd.DataFrame:
    """One column of the comparison as [checkpoint, task], in their order; empty where it is not known."""
    frame = comparison.to_frame()
    index, columns = list(comparison.checkpoints), list(comparison.tasks)
    if column not in frame:
        return pd.DataFrame(np.nan, index, columns)
    return frame.pivot(index="checkpoint", columns="task", values=column).reindex(index=index, columns=columns)


def numbers(comparison: CheckpointComparison, column: str) -> pd.DataFrame:
    """``table`` of numbers, not a number where one is not known."""
    return table(comparison, column).apply(pd.to_numeric, errors="coerce").astype(float)


def bounds(comparison: CheckpointComparison, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The 95% interval of a measure as [checkpoint, task]: its own, or what its standard error gives."""
    error = NORMAL * numbers(comparison, f"{column}_stderr")
    value = numbers(comparison, column)
    low, high = numbers(comparison, f"{column}_low"), numbers(comparison, f"{column}_high")
    return low.fillna(value - error), high.fillna(value + error)


def trained(comparison: CheckpointComparison, checkpoint: int, task: str) -> bool:
    """Whether the checkpoint of this index is known to have been trained on the task."""
    return comparison.learned[checkpoint - 1 : checkpoint] == (task,)


def any_trained(comparison: CheckpointComparison) -> bool:
    """Whether one of the comparison's tasks is known to be what one of its checkpoints was trained on."""
    return bool({*comparison.learned[: len(comparison.checkpoints) - 1]} & {*comparison.tasks})


def shortened(name: str, width: int = NAME_WIDTH) -> str:
    """A name in ``width`` letters, without its middle where it is longer: checkpoints differ at their ends."""
    name, tail = one_line(name), (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - tail]}…{name[-tail:]}"


def counted(comparison: CheckpointComparison) -> str:
    """How many prompts there are for each task."""
    counts = sorted({int(row["n"]) for row in comparison.rows if row.get("n")})
    if not counts:
        return ""
    return f"n = {counts[0]}{f' to {counts[-1]}' * (len(counts) > 1)} prompt{'s' * (counts[-1] != 1)} for each task"


def names_axis(names: Sequence[str], pixels: float) -> tuple[dict[str, Any], int]:
    """An axis whose ticks 0, 1, 2 ... bear names, and the pixels under it: they slant where they are too long."""
    texts = [shortened(name) for name in names]
    longest, each = LETTER * max(map(len, texts)), pixels / len(names)
    slanting = longest > each - 8
    step = -(-15 // max(1, int(each))) if slanting else 1  # where even slanting ones are too many, some are left out
    ticks = {
        "tickvals": list(range(len(texts))), "tickangle": -45 if slanting else 0, "tickfont": {"size": 11},
        "ticktext": ["" if at % step else plain(text, 99) for at, text in enumerate(texts)],
        "range": [-0.6, len(texts) - 0.4], "showgrid": False, "zeroline": False,
    }  # fmt: skip
    return ticks, int(SLANT * longest if slanting else 14) + 22


def task_axis(tasks: Sequence[str]) -> dict[str, Any]:
    """An axis of tasks from the top down."""
    return labels([plain(shortened(task), 99) for task in tasks]) | {
        "range": [len(tasks) - 0.5, -0.5], "ticks": "", "ticklabelstandoff": 6
    }  # fmt: skip


def values_axis(traces: Iterable[Any], unit: bool) -> dict[str, Any]:
    """The axis of values from 0 to 1 or, where they have no such limits, of what the traces and their bars need."""
    if unit:
        return {"range": [-0.04, 1.04], "tickvals": [0, 0.5, 1], "zeroline": False}
    found = []
    for trace in traces:
        for side, sign in (("array", 1), ("arrayminus", -1)):
            reach = trace.error_y[side]
            found.append(np.array(trace.y, float) + sign * np.array(0 if reach is None else reach, float))
    values = np.concatenate([each[np.isfinite(each)] for each in found] or [np.zeros(0)])
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    pad = 0.08 * (high - low) or 0.05
    return {"range": [low - pad, high + pad], "tickformat": "~g", "nticks": 6, "zeroline": False}


def hover_texts(comparison: CheckpointComparison, measure: str) -> list[list[str]]:
    """For each task and checkpoint: the measure with its interval, and the verdict with its reason."""
    columns = [numbers(comparison, measure), *bounds(comparison, measure)]
    columns += [table(comparison, name) for name in ("verdict", "because")]
    found = []
    for task in comparison.tasks:
        row = []
        for name, value, low, high, *said in zip(
            comparison.checkpoints, *(each[task].to_numpy() for each in columns), strict=True
        ):
            shown = f"{value:.3g}" + f" (95% interval {low:.3g} to {high:.3g})" * bool(np.isfinite(low + high))
            lines = [plain(text, 60) for text in (task, name, *(each for each in said if isinstance(each, str)))]
            lines.insert(2, f"<b>{measure.replace('_', ' ')}</b> {shown}" if value == value else "not measured")
            row.append("<br>".join(lines))
        found.append(row)
    return found


def lowest(place: Place, places: Sequence[Place]) -> bool:
    """Whether no panel is under this one."""
    return all(other["row"] <= place["row"] for other in places if other["col"] == place["col"])


def key_size(names: Sequence[str]) -> Size:
    """Pixels that a legend of these names takes, across and down; a margin where there are none."""
    if not names:
        return 24, 0
    return 66 + int(1.1 * LETTER * max(len(shortened(name)) for name in names)), 20 + ENTRY * len(names)


def with_key(figure: go.Figure, groups: Sequence[str], legend: str = "legend", **place: Any) -> go.Figure:
    """The figure with a legend of these groups of traces, in their order; each entry shows and hides its group."""
    for trace in figure.data:
        trace.update({"showlegend": False} if (trace.legend or "legend") == legend else {})
    for rank, group in enumerate(groups):
        own = [trace for trace in figure.data if trace.legendgroup == group and (trace.legend or "legend") == legend]
        for at, trace in enumerate(own):
            trace.update(showlegend=at == 0, legendrank=rank)
    return figure.update_layout({"showlegend": True, legend: KEY | place} if groups else {})
