"""Training runs step by step: the loss and its terms, and how abilities changed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError
from ..records import TrainingRun
from ..records.tables import training_table
from ..text import plural
from .axes import UNIT_AXIS
from .layout import Margins, Size, columns_for, legend_around, legend_size, panel_grid, panel_width
from .style import INK, LINE_COLOURS, line_style, plain, translucent

VECTOR_UNITS = {"cosine": "cosine", "norm_ratio": "norm ratio", "alignment": "alignment"}
UNITS = {"terms": "nats", "accuracy": "accuracy"} | VECTOR_UNITS
ROWS = (("terms",), ("accuracy",), tuple(VECTOR_UNITS))  # the sections of each row of panels
GAPS = Size(58, 52)
LABEL_WIDTH = 26  # characters of a line of the legend
LEAST_SPAN = 0.1  # of an axis of cosines and ratios, so that noise does not look like change
MOST_MARKERS = 40  # lines of more points have no markers
VECTORS_ARE = (
    "cosine, norm ratio: vector of the same heads, now to base; alignment: cosine of hidden state and base's vector"
)


@checked
def training_curves(runs: Mapping[str, TrainingRun] | TrainingRun, *, title: str | None = None) -> go.Figure:
    """Loss and terms over steps; below, abilities: accuracy (0 to 1, 95% interval) and how their vectors changed.

    One panel per term, and per measure of each ability, with one line per run. With a single run, each measure of
    vectors has one panel with one line per ability.

    Args:
        runs: one run, or several by their names.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: no run, or one without steps.

    Example:
        >>> import torch
        >>> run = iv.TrainingRun(torch.rand(5, 2), ("loss", "seconds"))  # step, column
        >>> len(iv.views.training_curves(run).data)
        1
    """
    named = {"": runs} if isinstance(runs, TrainingRun) else dict(runs)
    _check_runs(named)
    values = _arranged(training_table(named), alone=len(named) == 1)
    rows = [[(each, *panel) for each in row for panel in _panels(values, each).items()] for row in ROWS]
    several = max(panel["line"].nunique() for row in rows for *_, panel in row) > 1
    lines = [line for line in dict.fromkeys(values["line"]) if line and several]
    right, legend_height = legend_size(_legend_lines(lines))
    margins = Margins(left=62, right=right, bottom=50)
    columns = columns_for(max(map(len, rows)), 170, GAPS.width, margins)
    filler = ("", "", values[:0])
    sections = [each for row in rows for each in (*row, *[filler] * (-len(row) % columns))]
    width = min(panel_width(columns, GAPS.width, margins), 300 if columns > 1 else 520)
    size = Size(width, max(150, legend_height * columns // len(sections)))
    heading = ": ".join(["Training", *(name for name in named if name and len(named) == 1)]) if title is None else title
    names = [name for _, name, _ in sections]
    draft, panels = panel_grid(names, size, columns, GAPS, margins, heading, _facts(named, values))
    for (section, name, rows_of_panel), panel in zip(sections, panels, strict=True):
        if rows_of_panel.empty:
            draft.update_xaxes({"visible": False}, **panel)
            draft.update_yaxes({"visible": False}, **panel)
            continue
        unit = "squared distance" if name == "consistency" else UNITS[section]
        traces = _traces(rows_of_panel, unit, lines, several, opacity=0.2 / len(named))
        draft.add_traces(traces, **panel)
        draft.update_xaxes(_step_axis(rows_of_panel, int(values["step"].max())), **panel)
        draft.update_yaxes(_value_axis(values, section) | {"title": {"text": "" if unit == name else unit}}, **panel)
    draft.update_xaxes({"zeroline": False})
    draft.layout |= legend_around(draft.traces, lines, itemsizing="trace")
    return draft.figure()


def took_steps(run: TrainingRun) -> bool:
    """Whether a run took steps, of which perhaps only measures were logged."""
    return run.steps > 0 or any(row.get("step") for row in run.measured)


def _check_runs(runs: Mapping[str, TrainingRun]) -> None:
    if not runs:
        raise ArgumentError("one training run or more", "none")
    for name, run in runs.items():
        if not took_steps(run):
            raise ArgumentError("training runs of one step or more", f"none in {name!r}" if name else "none")


def _arranged(values: pd.DataFrame, *, alone: bool) -> pd.DataFrame:
    """The values, each with the panel and the line that it is drawn in."""
    if not alone:
        return values.assign(panel=values["name"], line=values["run"])
    of_vectors = values["section"].isin(VECTOR_UNITS)
    panel = values["name"].mask(of_vectors, values["section"].map(UNITS))
    return values.assign(panel=panel, line=values["name"].mask(values["section"] == "terms", ""))


def _panels(values: pd.DataFrame, section: str) -> dict[str, pd.DataFrame]:
    """The panels of a section by title: the loss before other terms, new abilities before those to be kept."""
    rows = values[values["section"] == section]
    groups = {str(name): panel for name, panel in rows.groupby("panel", sort=False)}
    roles = {name: ", ".join(dict.fromkeys(panel["role"])) for name, panel in groups.items()}
    titles = {name: f"{name} ({role})" if role and section == "accuracy" else name for name, role in roles.items()}
    return {titles[name]: groups[name] for name in sorted(groups, key=lambda name: not roles[name].startswith("new"))}


def _traces(rows: pd.DataFrame, unit: str, lines: list[str], several: bool, opacity: float) -> list[go.Scatter]:
    """The lines of a panel; lines of a single point stand side by side."""
    traces, single = [], _is_single(rows)
    for number, (line, points) in enumerate(rows.groupby("line", sort=False)):
        style = (INK if several else LINE_COLOURS[0], "solid")
        if line in lines:
            style = line_style(lines.index(str(line)))
        traces += _line(points, [number] if single else points["step"], style, unit, opacity)
    return traces


def _is_single(rows: pd.DataFrame) -> bool:
    """Whether every line of a panel is a single point."""
    return not rows["line"].duplicated().any()


def _line(points: pd.DataFrame, x: Any, style: tuple[str, str], unit: str, opacity: float) -> list[go.Scatter]:
    """A line with a band for its interval, or its single point with a bar."""
    colour, dash = style
    name, count = points["line"].iloc[0], len(points)
    has_interval = unit == "accuracy" and {"low", "high", "n"} <= {*points} and points["low"].notna().all()
    interval = " (95% interval %{customdata[1]:.2f} to %{customdata[2]:.2f})<br>n = %{customdata[3]}"
    beside = interval if has_interval else ""
    hover = f"{plain(name, 60)}<br>after %{{customdata[0]}} steps<br><b>{unit} %{{y:.4~g}}</b>{beside}<extra></extra>"
    columns = ["step", "low", "high", "n"] if has_interval else ["step"]
    marked = count <= MOST_MARKERS
    trace = go.Scatter(
        x=x, y=points["value"], mode="lines+markers" if marked else "lines", name=plain(name, LABEL_WIDTH),
        legendgroup=name, marker={"size": 5 if count > 1 else 8}, cliponaxis=count > 1, hovertemplate=hover,
        line={"color": colour, "dash": dash, "width": 1.8 if marked else 1.1}, customdata=points[columns].to_numpy(),
    )  # fmt: skip
    if has_interval and count == 1:
        above, below = points["high"] - points["value"], points["value"] - points["low"]
        trace.error_y = {"array": above, "arrayminus": below, "thickness": 1.2, "width": 3}
    if not has_interval or count == 1:
        return [trace]
    band = go.Scatter(
        x=[*points["step"], *points["step"][::-1]], y=[*points["low"], *points["high"][::-1]], mode="none",
        fill="toself", fillcolor=translucent(colour, max(0.04, opacity)), hoverinfo="skip", legendgroup=name,
        name="interval",
    )  # fmt: skip
    return [band, trace]


def _step_axis(rows: pd.DataFrame, last: int) -> dict[str, Any]:
    """The axis of steps up to ``last``; without ticks where each line is one point."""
    if _is_single(rows):
        steps = {*rows["step"]}
        text = "at the end" if len(steps) > 1 else f"after {plural(min(steps), 'step')}"
        return {"title": {"text": text}, "range": [-0.7, rows["line"].nunique() - 0.3], "tickvals": []}
    ticks = {"dtick": 1} if last <= 6 else {"nticks": 6}
    return {"title": {"text": "steps"}, "range": [-0.03 * last, 1.03 * last]} | ticks


def _value_axis(values: pd.DataFrame, section: str) -> dict[str, Any]:
    """Accuracies: 0 to 1; a term: its own range from 0; other measures: one range for all panels of the section."""
    if section == "accuracy":
        return UNIT_AXIS
    ticks: dict[str, Any] = {"tickformat": "~g", "nticks": 5}
    if section == "terms":
        return ticks | {"rangemode": "tozero"}
    measured = values.loc[values["section"] == section, "value"]
    span = measured.max() - measured.min()
    pad = max(0.08 * span, (LEAST_SPAN - span) / 2)
    return ticks | {"range": [measured.min() - pad, measured.max() + pad]}


def _legend_lines(names: list[str]) -> list[str]:
    return [line for name in names for line in plain(name, LABEL_WIDTH).split("<br>")]


def _facts(runs: Mapping[str, TrainingRun], values: pd.DataFrame) -> str:
    facts = "the loss and its terms at each step" if any(run.steps for run in runs.values()) else "no loss was logged"
    if counts := sorted({int(row["n"]) for run in runs.values() for row in run.measured if "n" in row}):
        least = f"{counts[0]} to " if len(counts) > 1 else ""
        facts += f"; accuracy with its 95% interval, n = {least}{plural(counts[-1], 'prompt')}"
    if values["section"].isin(VECTOR_UNITS).any():
        facts += f"\n{VECTORS_ARE}"
    if stopped := [name or "the run" for name, run in runs.items() if run.stopped]:
        facts += f"\nstopped early: {', '.join(stopped)}"
    return facts
