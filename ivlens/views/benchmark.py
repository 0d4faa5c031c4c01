"""The exact sweep beside what is run instead of it, as a figure."""

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from .panels import Edges, Place, Size, check_columns, labels, panels
from .style import FAINT, OKABE_ITO, plain

SIZE: Size = (330, 250)
EDGES: Edges = (230, 30, 92)
GAPS: Size = (70, 62)
SCALES = {"tokens": "tokens of the prompt", "prompts": "prompts at once", "heads": "heads of the model"}
LINES = {"loop / sweep": OKABE_ITO[0], "sweep / forward": OKABE_ITO[1]}
NAME_WIDTH = 36


@checked
def benchmark_panels(contenders: pd.DataFrame, scaling: pd.DataFrame, *, title: str, facts: str = "") -> go.Figure:
    """How long contenders take in sweeps, and the sweep's ratios as prompts, their length and the heads grow.

    ``contenders`` has the columns contender, weights and "times the sweep"; ``scaling`` along (tokens, prompts or
    heads), these three, and the ratios "loop / sweep" and "sweep / forward". All axes of ratios are logarithmic.
    """
    check_columns(contenders, ("contender", "weights", "times the sweep"))
    check_columns(scaling, ("along", *SCALES, *LINES))
    names = ["Every head of one prompt", *(f"By {what}" for what in SCALES.values())]
    figure, places = panels(names, SIZE, 2, GAPS, EDGES, title, facts)
    _race(figure, contenders, places[0])
    for what, place in zip(SCALES, places[1:], strict=True):
        _scale(figure, scaling[scaling["along"] == what], what, place)
    key = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yref": "container", "yanchor": "bottom"}
    return figure.update_layout(showlegend=True, legend=key)


def _race(figure: go.Figure, contenders: pd.DataFrame, place: Place) -> None:
    """A row a contender: a point at its time, in sweeps."""
    texts = [f"{plain(name, NAME_WIDTH)}<br><span style='color:{FAINT}'>{plain(layout, NAME_WIDTH)}</span>"
             for name, layout in zip(contenders["contender"], contenders["weights"], strict=True)]  # fmt: skip
    times = contenders["times the sweep"]
    points = go.Scatter(
        x=times, y=list(range(len(times))), mode="markers+text", text=[f"{time:.3g}" for time in times],
        textposition="middle right", textfont={"size": 11}, marker={"size": 9, "color": OKABE_ITO[2]},
        customdata=texts, hovertemplate="%{customdata}<br><b>%{x:.3g} sweeps</b><extra></extra>", showlegend=False,
    )  # fmt: skip
    figure.add_trace(points, **place)
    figure.update_xaxes(type="log", title_text="time, in sweeps", dtick=1, range=[-1, 3], **place)
    figure.update_yaxes(labels(texts) | {"range": [len(texts) - 0.5, -0.5], "ticks": ""}, **place)


def _scale(figure: go.Figure, rows: pd.DataFrame, what: str, place: Place) -> None:
    """Both ratios as lines along one thing that grows."""
    for name, colour in LINES.items():
        line = go.Scatter(
            x=rows[what], y=rows[name], name=name, legendgroup=name, showlegend=what == "tokens",
            mode="lines+markers", line={"color": colour},
            hovertemplate=f"%{{x}} {what}<br><b>{name}: %{{y:.3g}}</b><extra></extra>",
        )  # fmt: skip
        figure.add_trace(line, **place)
    ticks = rows[what].tolist()
    figure.update_xaxes(type="log", title_text=SCALES[what], tickvals=ticks, ticktext=list(map(str, ticks)), **place)
    figure.update_yaxes(type="log", title_text="ratio", dtick=1, range=[-0.5, 2.7], **place)
