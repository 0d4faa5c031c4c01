"""Tasks learned one after the other: every ability after each of them, and means over abilities as lines."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError
from ..records import ContinualRun
from ..text import plural
from ..vocabulary import ContinualRole
from .axes import LETTER, UNIT_AXIS, colour_bar, name_axis, outlines, rows_axis
from .layout import Margins, Size, columns_for, legend_around, legend_size, panel_grid, panel_width
from .style import INK, SEQUENTIAL, line_style, plain, shortened, translucent

ROW, COLUMN = 22, 74  # pixels of an entry of the matrix
GAPS = Size(58, 52)
# axes of what may lie outside 0 to 1
BEYOND = {"norm_ratio": {"rangemode": "tozero"}, "cosine": {}, "alignment": {}, "Forget": {}}
ROLES: dict[ContinualRole, str] = {
    "new": "learned here", "keep": "old", "knowledge": "old, without instruction: probability",
    "zero-shot": "general", "in-context": "general, with demonstrations",
}  # fmt: skip


@checked
def continual_matrix(run: ContinualRun, *, title: str | None = None) -> go.Figure:
    """The score of every ability (rows) before the first task and after each one (columns), 0 to 1.

    Outlined: what was just learned. Of knowledge it is the probability of the answer without an instruction.

    Args:
        run: the record of ``continual``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: nothing was measured.

    Example:
        >>> len(iv.views.continual_matrix(sequence).data)
        2
    """
    labels, values, learned = _arranged(run)
    if not labels:
        raise ArgumentError("a run with abilities that were measured", "none")
    stages = ["base", *run.tasks[: run.stages]]
    margins = Margins(left=int(LETTER * max(map(len, labels))) + 30, right=76, bottom=0)
    size = Size(max(300, min(COLUMN, 640 // len(stages)) * len(stages)), ROW * len(labels))
    axis, below = name_axis(stages, size.width)
    heading = "Every ability after each task" if title is None else title
    facts = f"score, 0 to 1, after each of {plural(run.stages, 'task')}; outlined: the task that was just learned"
    draft, (panel,) = panel_grid([""], size, 1, Size(0, 0), margins._replace(bottom=below + 30), heading, facts)
    draft.add_traces([_matrix(labels, stages, values), _outlined(learned)], **panel)
    draft.update_xaxes(axis | {"title": {"text": "after learning"}}, **panel)
    draft.update_yaxes(rows_axis([plain(each, 99) for each in labels]), **panel)
    return draft.figure()


def _arranged(run: ContinualRun) -> tuple[list[str], np.ndarray, list[tuple[int, int]]]:
    """Labels of the rows, values (row, stage), and where a task was just learned."""
    labels: list[str] = []
    values: list[np.ndarray] = []
    learned: list[tuple[int, int]] = []
    for role, words in ROLES.items():
        frame = run.matrix(role, "probabilities" if role == "knowledge" else "scores")
        for name in map(str, frame):
            if role == "new" and name in run.tasks[: run.stages]:
                learned.append((len(labels), run.tasks.index(name) + 1))
            labels.append(f"{shortened(name)} ({words})")
            values.append(frame[name].reindex(range(run.stages + 1)).to_numpy())
    return labels, np.array(values), learned


def _matrix(labels: list[str], stages: list[str], values: np.ndarray) -> go.Heatmap:
    texts = [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in values]
    named = np.array([[(plain(label, 60), plain(stage, 60)) for stage in stages] for label in labels], dtype=object)
    return go.Heatmap(
        z=values, text=texts, texttemplate="%{text}", textfont={"size": 11}, xgap=1, ygap=1, colorscale=SEQUENTIAL,
        zmin=0, zmax=1, customdata=named, colorbar=colour_bar("score"), name="score",
        hovertemplate="%{customdata[0]}<br>after %{customdata[1]}<br><b>%{z:.3f}</b><extra></extra>",
    )  # fmt: skip


def _outlined(squares: list[tuple[int, int]]) -> go.Scatter:
    return outlines(squares, "just learned", INK, 2, 0.48)


@checked
def continual_curves(runs: Mapping[str, ContinualRun] | ContinualRun, *, title: str | None = None) -> go.Figure:
    """What was learned, kept and known in general after each task, 0 to 1, and the vectors: a panel per measure.

    A line per run; the bands are 95% intervals over prompts, with several runs drawn faintly.

    Args:
        runs: one run, or several by their names.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: no run, or one in which nothing was measured.

    Example:
        >>> "learned" in {trace.legendgroup or trace.name for trace in iv.views.continual_curves(sequence).data}
        True
    """
    named = {"": runs} if isinstance(runs, ContinualRun) else dict(runs)
    if not named or not all(run.measured for run in named.values()):
        raise ArgumentError("one run or more, with abilities that were measured", "none")
    frames = {name: run.curves() for name, run in named.items()}
    # in the order of the last stage, which has all that there is
    measures = list(dict.fromkeys(each for frame in frames.values() for each in _last_first(frame)["measure"]))
    lines = [name for name in named if name]
    right, legend_height = legend_size([shortened(name) for name in lines])
    margins = Margins(left=56, right=right, bottom=50)
    columns = columns_for(len(measures), 210, GAPS.width, margins)
    width = min(panel_width(columns, GAPS.width, margins), 320)
    size = Size(width, max(170, legend_height * columns // len(measures)))
    heading = "Learned, kept and known in general, and the vectors" if title is None else title
    facts = (
        "means over tasks with 95% intervals over prompts\n"
        "learned: of the tasks that were learned by then; at 0 of all that will be\n"
        "AP: of the same tasks right after each; Forget: what they have lost since"
    )
    names = [measure.replace("_", " ") for measure in measures]
    draft, panels = panel_grid(names, size, columns, GAPS, margins, heading, facts)
    for measure, panel in zip(measures, panels, strict=True):
        for number, (name, frame) in enumerate(frames.items()):
            draft.add_traces(_line(frame[frame["measure"] == measure], name, measure, number, len(named)), **panel)
        draft.update_yaxes(BEYOND.get(measure, UNIT_AXIS), **panel)
    stages = max(int(frame["stage"].max()) for frame in frames.values())
    span = [-0.2, stages + 0.2]  # of all panels, though AP and Forget begin later
    draft.update_xaxes({"title": {"text": "tasks learned"}, "dtick": 1, "zeroline": False, "range": span})
    draft.layout |= legend_around(draft.traces, lines)
    return draft.figure()


def _last_first(curves: pd.DataFrame) -> pd.DataFrame:
    return curves.sort_values("stage", ascending=False, kind="stable")


def _line(rows: Any, name: str, measure: str, number: int, n_runs: int) -> list[go.Scatter]:
    """A run's line in a panel, over the band of its intervals."""
    colour, dash = line_style(number)
    group = name or measure
    known = rows[rows["low"].notna()]
    band = go.Scatter(
        x=[*known["stage"], *known["stage"][::-1]], y=[*known["high"], *known["low"][::-1]], mode="none", fill="toself",
        fillcolor=translucent(colour, 0.2 / n_runs), legendgroup=group, hoverinfo="skip", name=plain(group, 60),
    )  # fmt: skip
    ends = [f" ({low:.3f} to {high:.3f})" if low == low else "" for low, high in rows[["low", "high"]].to_numpy()]
    line = go.Scatter(
        x=rows["stage"], y=rows["value"], mode="lines+markers", line={"color": colour, "dash": dash, "width": 2},
        marker={"size": 6}, legendgroup=group, name=plain(shortened(group), 99), customdata=ends,
        hovertemplate=f"{plain(group, 60)}<br>{measure}, %{{x}} learned: <b>%{{y:.3f}}</b>%{{customdata}}"
        "<extra></extra>",
    )  # fmt: skip
    return [band, line]
