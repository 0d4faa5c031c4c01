"""What training methods keep against what they learn: one point per setting, and each method's frontier."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError
from ..records.tables import pareto_frontier
from .draft import Draft
from .layout import Margins, Size, columns_for, legend_around, legend_size, panel_grid, panel_width
from .style import FAINT, INK, LINE_COLOURS, SYMBOLS, plain
from .tables import check_columns

NEEDED = ("method", "setting", "learned", "kept")
TEXTS = ("panel", "joined")
ERRORS = {"learned": "learned_error", "kept": "kept_error"}
OPTIONAL = {
    "panel": "",
    "joined": "",
    "chosen": False,
    "base_kept": math.nan,
    **dict.fromkeys(ERRORS.values(), math.nan),
}
GAPS = Size(58, 52)
TICK_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
LEAST_SPAN = 0.05  # of an axis
HIGHEST = 1.1  # end of an axis, for bars above 1
FROM_ZERO = 0.2  # accuracies below have an axis that starts at 0
LABEL_WIDTH = 26  # characters of a line of the legend


@checked
def tradeoff_scatter(frame: pd.DataFrame, *, title: str | None = None, facts: str = "") -> go.Figure:
    """Accuracy kept on old tasks over accuracy on new ones, 0 to 1: a point per setting of each method.

    A line joins a method's best settings: those that none of its other settings beats in both learning and keeping; or,
    where ``joined`` is given, the points that have the same text there.

    Args:
        frame: the columns method, setting (a text), learned and kept; where known learned_error and kept_error
            (standard errors, drawn to both sides), chosen (drawn larger), panel, base_kept (a dashed line), and joined
            (what each point is of, such as a checkpoint before and after its repair).
        title: plain text.
        facts: plain text under the title.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a column is missing, there is no row, or an accuracy is not from 0 to 1.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"method": ["plain"], "setting": ["lr 0.1"], "learned": [0.9], "kept": [0.4]})
        >>> [trace.name for trace in iv.views.tradeoff_scatter(frame).data]
        ['plain', 'frontier', 'chosen']
    """
    check_columns(frame, NEEDED)
    methods = list(dict.fromkeys(frame["method"]))
    texts = {
        name: frame[name].astype(object).where(frame[name].notna(), "").map(str) for name in TEXTS if name in frame
    }
    frame = pd.DataFrame(OPTIONAL, frame.index).assign(**frame).assign(**texts)
    accuracies = frame[["learned", "kept", "base_kept"]].fillna({"base_kept": 0}).to_numpy(float)
    if not (len(frame) and ((accuracies >= 0) & (accuracies <= 1)).all()):
        raise ArgumentError("one point or more, accuracies being from 0 to 1", f"{accuracies.tolist()}"[:80])
    groups = {str(name): group for name, group in frame.groupby("panel", sort=False)}
    axes = {name: _axis(frame, name) for name in ERRORS}
    right, legend_height = legend_size([line for name in methods for line in plain(name, LABEL_WIDTH).split("<br>")])
    margins = Margins(left=60, right=right, bottom=52)
    columns = columns_for(len(groups), 330, GAPS.width, margins)
    width = min(panel_width(columns, GAPS.width, margins), 460)
    size = Size(width, max(360, legend_height * columns // len(groups)))
    heading = "What is kept against what is learned" if title is None else title
    legend = f"{_marks(frame, axes)}\n{facts}"
    draft, panels = panel_grid(list(groups), size, columns, GAPS, margins, heading, legend)
    with_joined = bool(frame["joined"].ne("").any())
    for group, panel in zip(groups.values(), panels, strict=True):
        _draw_panel(draft, group, methods, with_joined, panel)
    draft.update_xaxes({"title": {"text": "accuracy on new tasks"}} | axes["learned"])
    draft.update_yaxes({"title": {"text": "accuracy kept on old tasks"}} | axes["kept"])
    draft.layout |= legend_around(draft.traces, methods, itemsizing="trace")
    figure = draft.figure()
    for group, panel in zip(groups.values(), panels, strict=True):
        for height in group["base_kept"].dropna().unique()[:1]:
            line = {"dash": "dash", "width": 1.2, "color": FAINT}
            figure.add_hline(height, line=line, annotation_text="base", annotation_position="top left", **panel)
    return figure


def _draw_panel(
    draft: Draft, group: pd.DataFrame, methods: list[str], with_joined: bool, panel: dict[str, int]
) -> None:
    """Draw one panel: points, the lines that join them or each method's best, and chosen points on top."""
    by_method = [_traces(points, methods.index(str(name))) for name, points in group.groupby("method", sort=False)]
    every, frontiers, chosen = zip(*by_method, strict=True)
    lines = [_joined(group[group["joined"].ne("")])] if with_joined else frontiers
    for traces in (every, lines, chosen):
        draft.add_traces(traces, **panel)


def _axis(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    """The range and ticks of an axis, the same in all panels, since these are compared."""
    error = frame[ERRORS[name]].fillna(0)
    ends = pd.concat([frame[name] - error, frame[name] + error, frame["base_kept"] if name == "kept" else frame[name]])
    high = min(max(float(ends.max()), LEAST_SPAN), HIGHEST)
    low = 0.0 if ends.min() < FROM_ZERO else min(float(ends.min()), high - LEAST_SPAN)
    step = next((each for each in TICK_STEPS if (high - low) / each < 6), TICK_STEPS[-1])
    first, last = math.floor(low / step + 1e-9), math.ceil(min(high, 1.0) / step - 1e-9)
    ticks = [round(number * step, 2) for number in range(first, last + 1)]
    pad = 0.045 * (ticks[-1] - ticks[0])
    return {"range": [ticks[0] - pad, max(ticks[-1], high) + pad], "tickvals": ticks, "zeroline": False}


def _joined(points: pd.DataFrame) -> go.Scatter:
    """The lines between points of the same thing."""
    x, y = [], []
    for _, group in points.groupby("joined", sort=False):
        x += [*group["learned"], None]
        y += [*group["kept"], None]
    return go.Scatter(x=x, y=y, mode="lines", name="joined", hoverinfo="skip", line={"color": FAINT, "width": 1})


def _traces(points: pd.DataFrame, number: int) -> tuple[go.Scatter, go.Scatter, go.Scatter]:
    """A method's points in a panel, its frontier, and the chosen ones again, larger and outlined."""
    name, chosen = points["method"].iloc[0], points[points["chosen"].eq(True)]
    colour = LINE_COLOURS[number % len(LINE_COLOURS)]
    marker, error = {"symbol": SYMBOLS[number % len(SYMBOLS)], "color": colour}, {"thickness": 1, "width": 0}
    columns = points[["learned", "learned_error", "kept", "kept_error"]].to_numpy(float)
    texts = [
        f"<b>{plain(name, 60)}</b><br>{plain(setting, 60)}<br>new tasks {learned:.3f} ± {error_x:.3f}<br>"
        f"old tasks {kept:.3f} ± {error_y:.3f}".replace(" ± nan", "")
        for setting, (learned, error_x, kept, error_y) in zip(points["setting"].map(str), columns, strict=True)
    ]
    every = go.Scatter(
        x=points["learned"], y=points["kept"], mode="markers", name=plain(name, LABEL_WIDTH), legendgroup=name,
        marker=marker | {"size": 9}, hovertext=texts,
        error_x=error | {"array": points["learned_error"]}, error_y=error | {"array": points["kept_error"]},
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    best = pareto_frontier(points)
    line = go.Scatter(
        x=best["learned"], y=best["kept"], mode="lines", name="frontier", legendgroup=name, hoverinfo="skip",
        line={"color": colour, "width": 1},
    )  # fmt: skip
    return every, line, go.Scatter(
        x=chosen["learned"], y=chosen["kept"], mode="markers", name="chosen", legendgroup=name, hoverinfo="skip",
        marker=marker | {"size": 15, "line": {"color": INK, "width": 1.8}},
    )  # fmt: skip


def _marks(frame: pd.DataFrame, axes: Mapping[str, Mapping[str, Any]]) -> str:
    """What the marks in use mean, and where axes start if not at 0."""
    parts = []
    if frame["joined"].eq("").all() and frame.groupby(["panel", "method"]).size().max() > 1:
        parts.append("lines join a method's best settings (none learns more and keeps more)")
    if frame[[*ERRORS.values()]].notna().to_numpy().any():
        parts.append("bars: ±1 standard error")
    if frame["chosen"].eq(True).any():
        parts.append("outlined: chosen")
    for name, side in (("learned", "horizontal"), ("kept", "vertical")):
        if start := axes[name]["tickvals"][0]:
            parts.append(f"the {side} axis starts at {start:g}")
    return "; ".join(parts)
