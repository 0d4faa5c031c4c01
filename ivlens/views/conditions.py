"""Conditions compared as bars: a row per condition, a panel per task."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError
from ..records import ConditionComparison
from ..text import plural
from ..vocabulary import Condition
from .axes import LETTER, rows_axis, text_axis
from .layout import Margins, Size, columns_for, panel_grid, panel_width
from .settings import steering_facts
from .style import GREY, INK, LINE_COLOURS, plain

HOVER = (
    "<b>%{customdata[0]}</b><br>accuracy %{x:.2f} (95% interval %{customdata[1]:.2f} to %{customdata[2]:.2f})<br>"
    "P(answer) %{customdata[3]:.3f}<br>n = %{customdata[4]}<extra></extra>"
)
FACTS = ["condition", "low", "high", "probability", "n"]
LABEL_WIDTH = 34  # characters
VALUES_WIDTH = 40  # pixels for the values, right of 1
GAPS = Size(22, 48)
CONTROLS = (
    Condition.RANDOM_VECTOR, Condition.RANDOM_HEADS, Condition.TASK_VECTOR, Condition.MINUS_RANDOM,
    Condition.ZERO_RANDOM_HEADS,
)  # fmt: skip


@checked
def comparison_bars(comparisons: Sequence[ConditionComparison], *, title: str | None = None) -> go.Figure:
    """Accuracy under each condition, 0 to 1, with its 95% Wilson interval over prompts; a panel for each task.

    A condition has the same row and colour in every panel; those with "random" in their names are grey. A panel names
    the layer and scale of its steering where the record's provenance has them. Seeds or tasks of one control that are 0
    in every panel share a row, which says how many they are.

    Args:
        comparisons: one record of ``compare_conditions`` or more, one per task.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: no comparison.

    Example:
        >>> comparison = iv.compare_conditions(model, {"clean": (prompts, None)})
        >>> len(iv.views.comparison_bars([comparison]).data[0].x)
        1
    """
    if not comparisons:
        raise ArgumentError("one comparison or more", "none")
    rows = _rows(comparisons)
    conditions = list(dict.fromkeys(rows.values()))
    labels = [plain(name, LABEL_WIDTH) for name in conditions]
    lines = [label.split("<br>") for label in labels]
    longest, most_lines = max(len(line) for each in lines for line in each), max(map(len, lines))
    margins = Margins(left=int(LETTER * longest) + 28, right=16, bottom=48)
    columns = columns_for(len(comparisons), 150, GAPS.width, margins)
    width = min(panel_width(columns, GAPS.width, margins), 420)
    size = Size(width, max(24, 14 * most_lines + 6) * len(labels) + 8)
    heading = "Accuracy by condition" if title is None else title
    names = [each.task or "all prompts" for each in comparisons]
    steering = [steering_facts(each) for each in comparisons]
    notes = steering if any(steering) else []
    draft, panels = panel_grid(names, size, columns, GAPS, margins, heading, _facts(comparisons), notes=notes)
    colours = _colours(conditions)
    for each, panel in zip(comparisons, panels, strict=True):
        draft.add_traces(_bars(_frame(each, rows), conditions, colours), **panel)
        end = 1 / (1 - VALUES_WIDTH / size.width)
        values = {"title": {"text": "accuracy"}, "range": [0, end], "tickvals": [0, 0.5, 1]}
        draft.update_xaxes(values, **panel)
        labelled = rows_axis(labels) if panel["col"] == 1 else rows_axis(labels) | text_axis([])
        draft.update_yaxes(labelled, **panel)
    return draft.figure()


def _rows(comparisons: Sequence[ConditionComparison]) -> dict[str, str]:
    """The row of each condition: its own, but one for those seeds or tasks of a control that are 0 in every panel."""
    names = list(dict.fromkeys(name for each in comparisons for name in each.conditions))
    reached = {name for each in comparisons for name in each.conditions if each.accuracy(name)}
    rows = {name: name for name in names}
    for control in CONTROLS:
        zeros = [name for name in control.among(names) if name not in reached]
        if len(zeros) > 1:
            rows |= dict.fromkeys(zeros, f"{control} ({len(zeros)}, each 0)")
    return rows


def _frame(comparison: ConditionComparison, rows: dict[str, str]) -> pd.DataFrame:
    """The comparison's frame with one line per row of the figure."""
    frame = comparison.to_frame()
    frame = frame.assign(condition=frame["condition"].map(rows))
    facts = dict.fromkeys(("accuracy", "low", "high", "n"), "first") | {"probability": "mean"}
    return frame.groupby("condition", sort=False, as_index=False).agg(facts)


def _bars(frame: pd.DataFrame, conditions: list[str], colours: dict[str, str]) -> list[go.Bar | go.Scatter]:
    """The bars of one panel, each with its interval, and their values at the right edge."""
    rows = [conditions.index(name) for name in frame["condition"]]
    bars = go.Bar(
        x=frame["accuracy"],
        y=rows,
        orientation="h",
        width=0.66,
        marker={"color": [colours[name] for name in frame["condition"]]},
        error_x={
            "array": frame["high"] - frame["accuracy"], "arrayminus": frame["accuracy"] - frame["low"],
            "color": INK, "thickness": 1.2, "width": 3,
        },
        customdata=frame.assign(condition=[plain(name, 60) for name in frame["condition"]])[FACTS].to_numpy(),
        hovertemplate=HOVER,
    )  # fmt: skip
    values = go.Scatter(
        x=[1.02] * len(rows),
        y=rows,
        text=[f"{accuracy:.2f}" for accuracy in frame["accuracy"]],
        mode="text",
        textposition="middle right",
        textfont={"size": 11},
        hoverinfo="skip",
        name="values",
    )
    return [bars, values]


def _colours(conditions: Sequence[str]) -> dict[str, str]:
    """A colour for each condition: grey for the random ones, the palette in turn for the others."""
    others = [name for name in conditions if "random" not in name]
    own = {name: LINE_COLOURS[index % len(LINE_COLOURS)] for index, name in enumerate(others)}
    return {name: own.get(name, GREY) for name in conditions}


def _facts(comparisons: Sequence[ConditionComparison]) -> str:
    least, most = (choose(each.n for each in comparisons) for choose in (min, max))
    n = plural(most, "prompt") if least == most else f"{least} to {plural(most, 'prompt')}"
    facts = f"accuracy and its 95% interval (Wilson), n = {n}"
    if len(comparisons) > 1:
        facts += " for each task"
    if any("random" in name for each in comparisons for name in each.conditions):
        facts += ", grey: random controls"
    return facts
