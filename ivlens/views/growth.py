"""How a cost grows: a panel for each size that grows, both axes logarithmic, with the fitted power."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from .axes import text_axis
from .draft import Draft
from .layout import Margins, Panel, Size, columns_for, panel_grid
from .style import OKABE_ITO
from .tables import check_columns

SIZE, GAPS, MARGINS = Size(220, 190), Size(64, 62), Margins(left=64, right=24, bottom=52)


@checked
def growth_panels(points: pd.DataFrame, *, title: str, facts: str = "") -> go.Figure:
    """Seconds against size, a panel for each thing that grows, with the power of its growth.

    Args:
        points: the columns along (what grows), size, seconds, and power, the exponent of the growth, the same in all
            rows of one ``along``.
        title: plain text.
        facts: plain text under the title.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> points = pd.DataFrame({"along": "prompts", "size": [1, 2], "seconds": [0.1, 0.2], "power": 1.0})
        >>> [trace.mode for trace in iv.views.growth_panels(points, title="On a toy").data]
        ['lines', 'markers']
    """
    check_columns(points, ("along", "size", "seconds", "power"))
    groups = {str(name): rows for name, rows in points.groupby("along", sort=False)}
    notes = [f"time grows with the power {rows['power'].iloc[0]:.2f}" for rows in groups.values()]
    columns = columns_for(len(groups), SIZE.width, GAPS.width, MARGINS)
    draft, panels = panel_grid(list(groups), SIZE, columns, GAPS, MARGINS, title, facts, notes=notes)
    for rows, panel in zip(groups.values(), panels, strict=True):
        _draw(draft, rows, panel)
    return draft.figure()


def _draw(draft: Draft, rows: pd.DataFrame, panel: Panel) -> None:
    """The points of one panel, and the line of its power through their middle."""
    size, seconds = rows["size"].to_numpy(float), rows["seconds"].to_numpy(float)
    middle = np.exp(np.log(seconds).mean() - rows["power"].iloc[0] * np.log(size).mean())
    line = go.Scatter(
        x=size, y=middle * size ** rows["power"].iloc[0], mode="lines", hoverinfo="skip", name="fit",
        line={"color": OKABE_ITO[0], "width": 1.4},
    )  # fmt: skip
    points = go.Scatter(
        x=size, y=seconds, mode="markers", name="measured", marker={"size": 8, "color": OKABE_ITO[1]},
        hovertemplate="%{x}<br><b>%{y:.3g} s</b><extra></extra>",
    )  # fmt: skip
    draft.add_traces([line, points], **panel)
    ticks = rows["size"].tolist()
    named = text_axis([]) | {"tickvals": ticks, "ticktext": list(map(str, ticks)), "ticks": "outside"}
    draft.update_xaxes(named | {"type": "log"}, **panel)
    title = {"title": {"text": "CPU seconds"}} if panel["col"] == 1 else {}
    draft.update_yaxes({"type": "log", "dtick": "D2"} | title, **panel)
