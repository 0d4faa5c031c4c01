"""A benchmark of the exact sweep: how long other programs take, and how its time grows."""

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from .axes import text_axis
from .draft import Draft
from .layout import Margins, Panel, Size, panel_grid
from .style import FAINT, OKABE_ITO, plain
from .tables import check_columns

SIZE, GAPS, MARGINS = Size(330, 250), Size(70, 62), Margins(left=230, right=30, bottom=92)
ROW = 34  # pixels for the two lines of a contender
SCALES = {"tokens": "tokens of the prompt", "prompts": "prompts at once", "heads": "heads of the model"}
LINES = {"loop / sweep": OKABE_ITO[0], "sweep / forward": OKABE_ITO[1]}
LABEL_WIDTH = 36  # characters


@checked
def benchmark_panels(contenders: pd.DataFrame, scaling: pd.DataFrame, *, title: str, facts: str = "") -> go.Figure:
    """Times of other programs relative to the sweep, and the sweep's ratios as prompts, tokens and heads grow.

    All axes of ratios are logarithmic.

    Args:
        contenders: the columns contender, weights (their layout in memory) and "times the sweep".
        scaling: the columns along ("tokens", "prompts" or "heads"), these three, and the ratios "loop / sweep" and
            "sweep / forward".
        title: plain text.
        facts: plain text under the title.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> contenders = pd.DataFrame({"contender": ["loop"], "weights": ["plain"], "times the sweep": [12.0]})
        >>> scaling = {"tokens": [9], "prompts": [1], "heads": [8], "loop / sweep": [9.0], "sweep / forward": [3.0]}
        >>> scaling = pd.DataFrame({"along": ["tokens"], **scaling})
        >>> len(iv.views.benchmark_panels(contenders, scaling, title="On a toy").data)
        7
    """
    check_columns(contenders, ("contender", "weights", "times the sweep"))
    check_columns(scaling, ("along", *SCALES, *LINES))
    names = ["Every head of one prompt", *(f"By {what}" for what in SCALES.values())]
    size = Size(SIZE.width, max(SIZE.height, ROW * len(contenders)))
    draft, panels = panel_grid(names, size, 2, GAPS, MARGINS, title, facts)
    _draw_times(draft, contenders, panels[0])
    for what, panel in zip(SCALES, panels[1:], strict=True):
        _draw_ratios(draft, scaling[scaling["along"] == what], what, panel)
    legend = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yref": "container", "yanchor": "bottom"}
    draft.layout |= {"showlegend": True, "legend": legend}
    return draft.figure()


def _draw_times(draft: Draft, contenders: pd.DataFrame, panel: Panel) -> None:
    """One row per contender: a point at its time, in units of the sweep's."""
    texts = [f"{plain(name, LABEL_WIDTH)}<br><span style='color:{FAINT}'>{plain(layout, LABEL_WIDTH)}</span>"
             for name, layout in zip(contenders["contender"], contenders["weights"], strict=True)]  # fmt: skip
    times = contenders["times the sweep"]
    points = go.Scatter(
        x=times, y=list(range(len(times))), mode="markers+text", text=[f"{time:.3g}" for time in times],
        textposition="middle right", textfont={"size": 11}, marker={"size": 9, "color": OKABE_ITO[2]},
        customdata=texts, hovertemplate="%{customdata}<br><b>%{x:.3g} sweeps</b><extra></extra>", showlegend=False,
    )  # fmt: skip
    draft.add_traces([points], **panel)
    times_axis = {"type": "log", "title": {"text": "time, in sweeps"}, "dtick": 1, "range": [-1, 3]}
    draft.update_xaxes(times_axis, **panel)
    draft.update_yaxes(text_axis(texts) | {"range": [len(texts) - 0.5, -0.5], "ticks": ""}, **panel)


def _draw_ratios(draft: Draft, rows: pd.DataFrame, what: str, panel: Panel) -> None:
    """Both ratios as lines over the tokens, the prompts or the heads."""
    for name, colour in LINES.items():
        line = go.Scatter(
            x=rows[what], y=rows[name], name=name, legendgroup=name, showlegend=what == "tokens",
            mode="lines+markers", line={"color": colour},
            hovertemplate=f"%{{x}} {what}<br><b>{name}: %{{y:.3g}}</b><extra></extra>",
        )  # fmt: skip
        draft.add_traces([line], **panel)
    ticks = rows[what].tolist()
    named = {"tickvals": ticks, "ticktext": list(map(str, ticks))}
    draft.update_xaxes({"type": "log", "title": {"text": SCALES[what]}} | named, **panel)
    draft.update_yaxes({"type": "log", "title": {"text": "ratio"}, "dtick": 1, "range": [-0.5, 2.7]}, **panel)
