"""What training methods keep against what they learn: one point per setting, and each method's frontier."""

import math

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
OPTIONAL = {"panel": "", "chosen": False, "learned_error": math.nan, "kept_error": math.nan, "base_kept": math.nan}
GAPS = Size(58, 52)
TICK_STEPS = (0.01, 0.02, 0.05, 0.2)
LABEL_WIDTH = 26  # characters of a line of the legend


@checked
def tradeoff_scatter(frame: pd.DataFrame, *, title: str | None = None, facts: str = "") -> go.Figure:
    """Accuracy kept on old tasks over accuracy on new ones, 0 to 1: a point per setting of each method.

    A line joins a method's best settings: those that none of its other settings beats in both learning and keeping.

    Args:
        frame: the columns method, setting (a text), learned and kept; where known learned_error and kept_error
            (standard errors, drawn to both sides), chosen (drawn larger), panel, and base_kept (a dashed line).
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
    accuracies = frame[["learned", "kept"]].to_numpy(float)
    if not (len(frame) and ((accuracies >= 0) & (accuracies <= 1)).all()):
        raise ArgumentError("one point or more, accuracies being from 0 to 1", f"{accuracies.tolist()}"[:80])
    methods = list(dict.fromkeys(frame["method"]))
    frame = pd.DataFrame(OPTIONAL, frame.index).assign(**frame).fillna({"panel": ""})
    groups = {str(name): group for name, group in frame.groupby("panel", sort=False)}
    start = _axis_start(frame)
    right, legend_height = legend_size([line for name in methods for line in plain(name, LABEL_WIDTH).split("<br>")])
    margins = Margins(left=60, right=right, bottom=52)
    columns = columns_for(len(groups), 330, GAPS.width, margins)
    width = min(panel_width(columns, GAPS.width, margins), 460)
    size = Size(width, max(360, legend_height * columns // len(groups)))
    heading = "What is kept against what is learned" if title is None else title
    legend = f"{_marks(frame, start)}\n{facts}"
    draft, panels = panel_grid(list(groups), size, columns, GAPS, margins, heading, legend)
    for group, panel in zip(groups.values(), panels, strict=True):
        _draw_panel(draft, group, methods, panel)
    kept = {"title": {"text": "accuracy kept on old tasks"}, "range": [-0.045, 1.06], "dtick": 0.2, "zeroline": False}
    learned = {"title": {"text": "accuracy on new tasks"}, "zeroline": False} | _learned_range(frame, start)
    draft.update_yaxes(kept)
    draft.update_xaxes(learned)
    draft.layout |= legend_around(draft.traces, methods, itemsizing="trace")
    figure = draft.figure()
    for group, panel in zip(groups.values(), panels, strict=True):
        for height in group["base_kept"].dropna().unique()[:1]:
            line = {"dash": "dash", "width": 1.2, "color": FAINT}
            figure.add_hline(height, line=line, annotation_text="base", annotation_position="top left", **panel)
    return figure


def _draw_panel(draft: Draft, group: pd.DataFrame, methods: list[str], panel: dict[str, int]) -> None:
    """Draw one panel: points, frontiers over them, and chosen points on top."""
    by_method = [_traces(points, methods.index(str(name))) for name, points in group.groupby("method", sort=False)]
    for traces in zip(*by_method, strict=True):
        draft.add_traces(traces, **panel)


def _learned_range(frame: pd.DataFrame, start: float) -> dict[str, list[float]]:
    """The range and ticks of the axis of new tasks, the same in all panels, since these are compared."""
    end = max(1.0, (frame["learned"] + frame["learned_error"]).max())
    pad, step = 0.045 * (end - start), next(each for each in TICK_STEPS if (1 - start) / each < 6)
    ticks = [start + number * step for number in range(round((1 - start) / step) + 1)]
    return {"range": [start - pad, end + pad], "tickvals": ticks}


def _axis_start(frame: pd.DataFrame) -> float:
    """Where the axis of new tasks starts: at 0, or at a multiple of 0.05 where all points are above 0.8."""
    least = (frame["learned"] - frame["learned_error"].fillna(0)).min()
    return 0.0 if frame["learned"].min() <= 0.8 else math.floor(20 * min(least, 0.95) + 1e-9) / 20


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


def _marks(frame: pd.DataFrame, start: float) -> str:
    """What the marks in use mean, and where the horizontal axis starts if not at 0."""
    parts = []
    if frame.groupby(["panel", "method"]).size().max() > 1:
        parts.append("lines join a method's best settings (none learns more and keeps more)")
    if frame[["learned_error", "kept_error"]].notna().to_numpy().any():
        parts.append("bars: ±1 standard error")
    if frame["chosen"].eq(True).any():
        parts.append("outlined: chosen")
    if start:
        parts.append(f"the horizontal axis starts at {start:g}")
    return "; ".join(parts)
