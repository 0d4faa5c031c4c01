"""Training as figures: what runs logged step by step, and what methods keep against what they learn."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError
from ..records import TrainingRun
from .comparison import COLOURS
from .panels import LETTER, WIDEST, Edges, Size, check_columns, columns_for, panels
from .style import FAINT, INK, plain

ASIDE = ("learning_rate", "gradient_norm", "seconds")  # columns of a run that are no terms of its loss
VECTOR = {"cosine": "cosine", "norm_ratio": "norm ratio", "alignment": "alignment"}
UNITS = {"terms": "nats", "accuracy": "accuracy"} | VECTOR
GROUPS = (("terms",), ("accuracy",), tuple(VECTOR))  # each begins a new row of panels
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "pentagon", "x", "hexagram")
NEEDED = ("method", "setting", "learned", "kept")
OPTIONAL = {"panel": "", "chosen": False, "learned_error": math.nan, "kept_error": math.nan, "base_kept": math.nan}
GAPS: Size = (58, 52)
STEPS = (0.01, 0.02, 0.05, 0.2)  # between ticks
NAME_WIDTH, ENTRY = 26, 20  # letters of a line of the legend, and its pixels
LEAST = 0.1  # of an axis of cosines and ratios, lest noise look like change
MARKED = 40  # lines of more points have no markers
LEGEND = {"x": 1, "xanchor": "left", "y": 1, "yanchor": "top", "tracegroupgap": 0}
ABOUT = "cosine, norm ratio: vector of the same heads, now to base; alignment: cosine of hidden state and base's vector"


@checked
def training_curves(runs: Mapping[str, TrainingRun] | TrainingRun, *, title: str | None = None) -> go.Figure:
    """Loss and terms over steps; below, abilities: accuracy (0 to 1, 95% interval) and what became of their vectors.

    A panel for each term, and for each measure of each ability where it was measured, with a line for each run. Of a
    single run each measure of vectors has one panel, with a line for each ability. Names and ``title`` are plain text.

    Raises: ArgumentError where there is no run, or one without steps.
    """
    named = {"": runs} if isinstance(runs, TrainingRun) else dict(runs)
    if not named:
        raise ArgumentError("one training run or more", "none")
    for name, run in named.items():
        if not run.steps:
            raise ArgumentError("training runs of one step or more", f"none in {name!r}" if name else "none")
    values = _values(named)
    rows = [[(each, *found) for each in group for found in _sorted_panels(values, each).items()] for group in GROUPS]
    several = max(panel["line"].nunique() for row in rows for *_, panel in row) > 1
    lines = [line for line in dict.fromkeys(values["line"]) if line and several]
    colours = {line: (COLOURS[at % len(COLOURS)], DASHES[at // len(COLOURS) % 4]) for at, line in enumerate(lines)}
    right, tall = _legend_size(lines)
    edges: Edges = (62, right, 50)
    columns = columns_for(max(map(len, rows)), 170, GAPS[0], edges)
    cells = [cell for row in rows for cell in (*row, *[("", "", values[:0])] * (-len(row) % columns))]
    room = (WIDEST - edges[0] - edges[1] - GAPS[0] * (columns - 1)) // columns
    size = min(room, 300 if columns > 1 else 520), max(150, tall * columns // len(cells))
    heading = ": ".join(["Training", *(name for name in named if name and len(named) == 1)]) if title is None else title
    figure, places = panels([name for _, name, _ in cells], size, columns, GAPS, edges, heading, _facts(named, values))
    for (section, name, panel), place in zip(cells, places, strict=True):
        if panel.empty:
            figure.update_xaxes(visible=False, **place).update_yaxes(visible=False, **place)
            continue
        once = not panel["line"].duplicated().any()
        unit = "squared distance" if name == "consistency" else UNITS[section]
        for at, (line, points) in enumerate(panel.groupby("line", sort=False)):
            style = colours.get(str(line), (INK if several else COLOURS[0], "solid"))
            x = [at] if once else points["step"]
            figure.add_traces(_line(points, x, style, unit, 1 / len(named)), rows=place["row"], cols=place["col"])
        figure.update_xaxes(_steps(panel, once, int(values["step"].max())), **place)
        figure.update_yaxes(_range(values, section) | {"title": {"text": unit * (unit != name)}}, **place)
    return _finished(figure, lines)


def _values(runs: Mapping[str, TrainingRun]) -> pd.DataFrame:
    """A row for each value: section, panel, line, step, value; of an ability also role, low, high, n."""
    parts, alone = [], len(runs) == 1
    for name, run in runs.items():
        terms = sorted((term for term in run.columns if term not in ASIDE), key=lambda term: term != "loss")
        found = run.to_frame().melt("step", terms, "panel")
        parts.append(found.assign(section="terms", role="", line="" if alone else name))
        found = run.abilities()
        if not found.empty:
            found = found.assign(step=found.get("step", run.steps), role=found.get("role", "")).sort_values("step")
            beside = [each for each in ("step", "ability", "role", "low", "high", "n") if each in found]
            found = found.melt(beside, [each for each in UNITS if each in found], "section")
            shared = alone & (found["section"] != "accuracy")
            panel = found["ability"].mask(shared, found["section"].map(UNITS))
            parts.append(found.assign(panel=panel, line=found["ability"] if alone else name))
    return pd.concat(parts, ignore_index=True).dropna(subset=["value"])


def _sorted_panels(values: pd.DataFrame, section: str) -> dict[str, pd.DataFrame]:
    """The panels of a section by title: the loss before other terms, new abilities before those to be kept."""
    rows = values[values["section"] == section]
    groups = {str(name): panel for name, panel in rows.groupby("panel", sort=False)}
    roles = {name: ", ".join(dict.fromkeys(panel["role"])) for name, panel in groups.items()}
    titles = {name: f"{name} ({role})" if role and section == "accuracy" else name for name, role in roles.items()}
    return {titles[name]: groups[name] for name in sorted(groups, key=lambda name: not roles[name].startswith("new"))}


def _line(points: pd.DataFrame, x: Any, style: tuple[str, str], unit: str, share: float) -> list[go.Scatter]:
    """A line, or its single point, with a band or a bar for its interval; ``share`` thins the bands of several runs."""
    colour, dash = style
    name, count = points["line"].iloc[0], len(points)
    known = unit == "accuracy" and {"low", "high", "n"} <= {*points} and points["low"].notna().all()
    beside = " (95% interval %{customdata[1]:.2f} to %{customdata[2]:.2f})<br>n = %{customdata[3]}" if known else ""
    hover = f"{plain(name, 60)}<br>after %{{customdata[0]}} steps<br><b>{unit} %{{y:.4~g}}</b>{beside}<extra></extra>"
    trace = go.Scatter(
        x=x, y=points["value"], mode="lines+markers" if count <= MARKED else "lines", name=plain(name, NAME_WIDTH),
        legendgroup=name, marker={"size": 5 if count > 1 else 8}, cliponaxis=count > 1, hovertemplate=hover,
        line={"color": colour, "dash": dash, "width": 1.8 if count <= MARKED else 1.1},
        customdata=points[["step", *(["low", "high", "n"] if known else [])]].to_numpy(),
    )  # fmt: skip
    if known and count == 1:
        above, below = points["high"] - points["value"], points["value"] - points["low"]
        trace.error_y = {"array": above, "arrayminus": below, "thickness": 1.2, "width": 3}
    if not known or count == 1:
        return [trace]
    fill = f"rgba{(*bytes.fromhex(colour[1:]), max(0.04, 0.2 * share))}"
    band = go.Scatter(
        x=[*points["step"], *points["step"][::-1]], y=[*points["low"], *points["high"][::-1]], mode="none",
        fill="toself", fillcolor=fill, hoverinfo="skip", legendgroup=name, name="interval",
    )  # fmt: skip
    return [band, trace]


def _steps(panel: pd.DataFrame, once: bool, last: int) -> dict[str, Any]:
    """The axis of steps up to ``last``; without ticks where each line is one point and they stand side by side."""
    if once:
        steps = {*panel["step"]}
        text = "at the end" if len(steps) > 1 else f"after {min(steps)} step{'s' * (steps != {1})}"
        return {"title": {"text": text}, "range": [-0.7, panel["line"].nunique() - 0.3], "tickvals": []}
    ticks = {"dtick": 1} if last <= 6 else {"nticks": 6}
    return {"title": {"text": "steps"}, "range": [-0.03 * last, 1.03 * last]} | ticks


def _range(values: pd.DataFrame, section: str) -> dict[str, Any]:
    """Accuracies: 0 to 1; a term: its own range from 0; other measures: what the section's panels need together."""
    if section == "accuracy":
        return {"range": [-0.04, 1.04], "tickvals": [0, 0.5, 1]}
    ticks: dict[str, Any] = {"tickformat": "~g", "nticks": 5}
    if section == "terms":
        return ticks | {"rangemode": "tozero"}
    found = values.loc[values["section"] == section, "value"]
    span = found.max() - found.min()
    pad = max(0.08 * span, (LEAST - span) / 2)
    return ticks | {"range": [found.min() - pad, found.max() + pad]}


def _facts(runs: Mapping[str, TrainingRun], values: pd.DataFrame) -> str:
    facts = "the loss and its terms at each step"
    if counts := sorted({int(row["n"]) for run in runs.values() for row in run.measured if "n" in row}):
        most = f" to {counts[-1]}" if len(counts) > 1 else ""
        facts += f"; accuracy with its 95% interval, n = {counts[0]}{most} prompt{'s' * (counts[-1] != 1)}"
    if values["section"].isin(VECTOR).any():
        facts += f"\n{ABOUT}"
    stopped = [name or "the run" for name, run in runs.items() if run.stopped]
    return facts + f"\nstopped early: {', '.join(stopped)}" * bool(stopped)


def _legend_size(names: list[str]) -> Size:
    """Pixels that a legend of ``names`` takes."""
    lines = [line for name in names for line in plain(name, NAME_WIDTH).split("<br>")]
    return 62 + int(1.1 * LETTER * max(map(len, lines))) if lines else 20, 20 + ENTRY * len(lines)


def _finished(figure: go.Figure, names: list[str]) -> go.Figure:
    """The figure with a legend of ``names``, in their order, if there are any; each shows and hides all its traces."""
    figure.update_traces(showlegend=False).update_xaxes(zeroline=False)
    for rank, name in enumerate(names):
        own = [trace for trace in figure.data if trace.legendgroup == name and trace.mode != "none"]
        own[0].update(showlegend=True, legendrank=rank)
    return figure.update_layout(showlegend=bool(names), legend=LEGEND)


@checked
def tradeoff_scatter(frame: pd.DataFrame, *, title: str | None = None, facts: str = "") -> go.Figure:
    """Accuracy kept on old tasks over accuracy on new ones, 0 to 1: a colour and symbol a method, a point a setting.

    A line joins a method's best settings: no other of it keeps as much and learns more, or learns as much and keeps
    more. ``frame``: method, setting (a text), learned, kept; where known learned_error and kept_error (standard errors,
    drawn to both sides), chosen (drawn larger), panel, and base_kept (a dashed line). ``title`` and ``facts`` are plain
    text.

    Raises: ArgumentError where a column is missing, there is no row, or an accuracy is not from 0 to 1.
    """
    check_columns(frame, NEEDED)
    accuracies = frame[["learned", "kept"]].to_numpy(float)
    if not (len(frame) and ((accuracies >= 0) & (accuracies <= 1)).all()):
        raise ArgumentError("one point or more, accuracies being from 0 to 1", f"{accuracies.tolist()}"[:80])
    methods = list(dict.fromkeys(frame["method"]))
    frame = pd.DataFrame(OPTIONAL, frame.index).assign(**frame).fillna({"panel": ""})
    groups = {str(name): group for name, group in frame.groupby("panel", sort=False)}
    starts = {name: _start(group) for name, group in groups.items()}
    right, tall = _legend_size(methods)
    edges: Edges = (60, right, 52)
    columns = columns_for(len(groups), 330, GAPS[0], edges)
    size = (
        min((WIDEST - edges[0] - right - GAPS[0] * (columns - 1)) // columns, 460),
        max(360, tall * columns // len(groups)),
    )
    heading = "What is kept against what is learned" if title is None else title
    figure, places = panels(list(groups), size, columns, GAPS, edges, heading, _said(frame, starts) + f"\n{facts}")
    for (name, group), place in zip(groups.items(), places, strict=True):
        drawn = [_method(points, methods.index(name)) for name, points in group.groupby("method", sort=False)]
        for traces in zip(*drawn, strict=True):
            figure.add_traces(traces, rows=place["row"], cols=place["col"])
        for height in group["base_kept"].dropna().unique()[:1]:
            line = {"dash": "dash", "width": 1.2, "color": FAINT}
            figure.add_hline(height, line=line, annotation_text="base", annotation_position="top left", **place)
        end = max(1.0, (group["learned"] + group["learned_error"]).max())
        pad, step = 0.045 * (end - starts[name]), next(each for each in STEPS if (1 - starts[name]) / each < 6)
        ticks = [starts[name] + at * step for at in range(round((1 - starts[name]) / step) + 1)]
        figure.update_xaxes(range=[starts[name] - pad, end + pad], tickvals=ticks, **place)
    figure.update_yaxes(title_text="accuracy kept on old tasks", range=[-0.045, 1.06], dtick=0.2, zeroline=False)
    figure.update_xaxes(title_text="accuracy on new tasks", tickformat="~g")
    return _finished(figure, methods)


def _start(group: pd.DataFrame) -> float:
    """Where the axis of new tasks starts: at 0 or, where all are above 0.8, at the last twentieth below all points."""
    least = (group["learned"] - group["learned_error"].fillna(0)).min()
    return 0.0 if group["learned"].min() <= 0.8 else math.floor(20 * min(least, 0.95) + 1e-9) / 20


def _frontier(points: pd.DataFrame) -> pd.DataFrame:
    """The best points: no other keeps as much and learns more, or learns as much and keeps more."""
    best = points.sort_values(["learned", "kept"], ascending=False)
    return best[best["kept"] > best["kept"].cummax().shift(fill_value=-1.0)][::-1]


def _method(points: pd.DataFrame, at: int) -> tuple[go.Scatter, go.Scatter, go.Scatter]:
    """A method's points in a panel, its frontier, and the chosen ones again, larger and outlined."""
    name, colour, chosen = points["method"].iloc[0], COLOURS[at % len(COLOURS)], points[points["chosen"].eq(True)]
    marker, error = {"symbol": SYMBOLS[at % len(SYMBOLS)], "color": colour}, {"thickness": 1, "width": 0}
    columns = points[["learned", "learned_error", "kept", "kept_error"]].to_numpy(float)
    texts = [
        f"<b>{plain(name, 60)}</b><br>{plain(setting, 60)}<br>new tasks {learned:.3f} ± {error_x:.3f}<br>"
        f"old tasks {kept:.3f} ± {error_y:.3f}".replace(" ± nan", "")
        for setting, (learned, error_x, kept, error_y) in zip(points["setting"].map(str), columns, strict=True)
    ]
    every = go.Scatter(
        x=points["learned"], y=points["kept"], mode="markers", name=plain(name, NAME_WIDTH), legendgroup=name,
        marker=marker | {"size": 9}, hovertext=texts,
        error_x=error | {"array": points["learned_error"]}, error_y=error | {"array": points["kept_error"]},
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    best = _frontier(points)
    line = go.Scatter(
        x=best["learned"], y=best["kept"], mode="lines", name="frontier", legendgroup=name, hoverinfo="skip",
        line={"color": colour, "width": 1},
    )  # fmt: skip
    return every, line, go.Scatter(
        x=chosen["learned"], y=chosen["kept"], mode="markers", name="chosen", legendgroup=name, hoverinfo="skip",
        marker=marker | {"size": 15, "line": {"color": INK, "width": 1.8}},
    )  # fmt: skip


def _said(frame: pd.DataFrame, starts: Mapping[str, float]) -> str:
    """What the marks mean, as far as they are there, and which axes do not start at 0."""
    errors = frame[["learned_error", "kept_error"]].notna().to_numpy().any()
    several = frame.groupby(["panel", "method"]).size().max() > 1
    said = ["lines join a method's best settings (none learns more and keeps more)"] * bool(several)
    said += ["bars: ±1 standard error"] * bool(errors) + ["outlined: chosen"] * bool(frame["chosen"].eq(True).any())
    zoomed = [f"{start:g}{f' ({name})' * bool(name)}" for name, start in starts.items() if start]
    return "; ".join(said + [f"the horizontal axis starts at {', '.join(zoomed)}"] * bool(zoomed))
