"""How many prompts it takes to find the same heads again, as a figure."""

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from .panels import Edges, check_columns, layout_around
from .style import OKABE_ITO

EDGES: Edges = (60, 30, 56)
BAND = "rgba(0, 114, 178, 0.16)"
HOVER = (
    "%{x} prompts<br><b>overlap %{y:.2f}</b> (5% to 95%: %{customdata[0]:.2f} to %{customdata[1]:.2f})<extra></extra>"
)


@checked
def stability_curve(frame: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Overlap of the strongest heads of two disjoint sets of prompts, 0 to 1, over their size: a line in its band.

    ``frame`` is that of ``prompts_needed``; the band spans 5% to 95% of its resamples.

    Raises: ArgumentError where a column is missing.
    """
    check_columns(frame, ("prompts", "overlap", "low", "high"))
    frame = frame.sort_values("prompts")
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure = go.Figure([
        go.Scatter(x=frame["prompts"], y=frame["high"], name="high", **edge),
        go.Scatter(x=frame["prompts"], y=frame["low"], name="low", fill="tonexty", fillcolor=BAND, **edge),
        go.Scatter(
            x=frame["prompts"], y=frame["overlap"], name="overlap", mode="lines+markers", line={"color": OKABE_ITO[0]},
            customdata=frame[["low", "high"]].to_numpy(), hovertemplate=HOVER,
        ),
    ])  # fmt: skip
    figure.update_xaxes(title_text="prompts in each set", rangemode="tozero")
    figure.update_yaxes(title_text="overlap of the strongest heads", range=[0, 1.02])
    facts = "mean and 5% to 95% of resamples, the two sets sharing no prompt"
    heading = "Prompts needed to find the same heads" if title is None else title
    return figure.update_layout(layout_around((520, 300), EDGES, heading, facts))
