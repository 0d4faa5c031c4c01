"""How stable a set of heads is: prompts needed to find it again, and how often resamples choose each head."""

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..records import Stability
from .axes import colour_bar
from .layout import Margins, Size, head_map_size, layout_around
from .style import OKABE_ITO, SEQUENTIAL, translucent
from .tables import check_columns

CURVE_SIZE, CURVE_MARGINS = Size(520, 300), Margins(left=60, right=30, bottom=56)
MAP_MARGINS = Margins(left=56, right=90, bottom=52)
CURVE_HOVER = (
    "%{x} prompts<br><b>overlap %{y:.2f}</b> (5% to 95%: %{customdata[0]:.2f} to %{customdata[1]:.2f})<extra></extra>"
)
MAP_HOVER = "<b>%{y}.%{x}</b> (layer %{y}, head %{x})<br>probability %{z:.2f}<extra></extra>"


@checked
def stability_curve(frame: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Overlap of the strongest heads of two disjoint sets of prompts over the sets' size: a line in its band.

    Args:
        frame: the columns prompts, overlap (0 to 1), low and high (its 5% and 95% quantiles over resamples), as
            ``prompts_needed`` gives them.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a column is missing.

    Example:
        >>> figure = iv.views.stability_curve(iv.prompts_needed(effects, k=2))
        >>> [trace.name for trace in figure.data]
        ['high', 'low', 'overlap']
    """
    check_columns(frame, ("prompts", "overlap", "low", "high"))
    frame = frame.sort_values("prompts")
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    band = translucent(OKABE_ITO[0], 0.16)
    facts = "mean and 5% to 95% of resamples, the two sets sharing no prompt"
    heading = "Prompts needed to find the same heads" if title is None else title
    axes = {
        "xaxis": {"title": {"text": "prompts in each set"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "overlap of the strongest heads"}, "range": [0, 1.02]},
    }
    return go.Figure([
        go.Scatter(x=frame["prompts"], y=frame["high"], name="high", **edge),
        go.Scatter(x=frame["prompts"], y=frame["low"], name="low", fill="tonexty", fillcolor=band, **edge),
        go.Scatter(
            x=frame["prompts"], y=frame["overlap"], name="overlap", mode="lines+markers", line={"color": OKABE_ITO[0]},
            customdata=frame[["low", "high"]].to_numpy(), hovertemplate=CURVE_HOVER,
        ),
    ], layout_around(CURVE_SIZE, CURVE_MARGINS, heading, facts) | axes)  # fmt: skip


@checked
def stability_heatmap(stability: Stability, *, title: str | None = None) -> go.Figure:
    """How often each head is among the strongest when the prompts are resampled, as a head map from 0 to 1.

    Args:
        stability: the record of ``top_k_stability``.
        title: plain text; without one it names the task.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> figure = iv.views.stability_heatmap(iv.top_k_stability(effects, k=2, resamples=10))
        >>> figure.data[0].zmax
        1
    """
    heatmap = go.Heatmap(
        z=stability.probability.double().numpy(), colorscale=SEQUENTIAL, zmin=0, zmax=1, xgap=1, ygap=1,
        colorbar=colour_bar("probability"), hovertemplate=MAP_HOVER,
    )  # fmt: skip
    facts = f"how often a head is among the {stability.k} strongest of a resample of {stability.n} prompts"
    heading = (stability.task or "Stability of the heads") if title is None else title
    axes = {
        f"{axis}axis": {"title": {"text": name}, "showgrid": False} for axis, name in (("x", "head"), ("y", "layer"))
    }
    size = head_map_size(*stability.probability.shape)
    return go.Figure(heatmap, layout_around(size, MAP_MARGINS, heading, facts) | axes)
