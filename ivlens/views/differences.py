"""Differences from a baseline as intervals: a panel for each setting, a row for each name, a mark for each measure."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from .axes import LETTER, rows_axis
from .draft import Draft
from .layout import Margins, Panel, Size, columns_for, legend_around, legend_size, panel_grid
from .style import GREY, OKABE_ITO, SYMBOLS, plain, shortened
from .tables import check_columns

NEEDED = ("name", "measure", "value")
WIDTH, ROW, GAPS = 290, 40, Size(48, 52)
APART = 0.32  # of the rows' distance: between the marks of a row


@checked
def difference_intervals(frame: pd.DataFrame, *, title: str, facts: str = "") -> go.Figure:
    """Differences from a baseline, which is at 0, with their intervals.

    Args:
        frame: the columns name (of a row), measure (a mark in each row) and value; where known low and high, the ends
            of the interval, and panel.
        title: plain text.
        facts: plain text under the title.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a column is missing.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"name": ["plain"], "measure": ["kept"], "value": [-0.1], "low": [-0.2], "high": [0]})
        >>> [trace.name for trace in iv.views.difference_intervals(frame, title="Beside l2").data]
        ['kept']
    """
    check_columns(frame, NEEDED)
    frame = pd.DataFrame({"panel": "", "low": float("nan"), "high": float("nan")}, frame.index).assign(**frame)
    names, measures = (list(dict.fromkeys(frame[column].map(str))) for column in ("name", "measure"))
    groups = {str(panel): rows for panel, rows in frame.groupby("panel", sort=False)}
    left = int(16 + LETTER * max(len(shortened(name)) for name in names))
    margins = Margins(left, legend_size([plain(each, 99) for each in measures]).width, 52)
    columns = columns_for(len(groups), WIDTH, GAPS.width, margins)
    draft, panels = panel_grid(list(groups), Size(WIDTH, ROW * len(names)), columns, GAPS, margins, title, facts)
    for rows, panel in zip(groups.values(), panels, strict=True):
        _draw(draft, rows, names, measures, panel)
    ends = np.abs(frame[["value", "low", "high"]].to_numpy(float))
    reach = 1.08 * max(1e-3, float(np.nanmax(ends)))
    draft.update_xaxes({"range": [-reach, reach], "zeroline": False, "title": {"text": "difference"}})
    draft.layout |= legend_around(draft.traces, measures, itemsizing="trace")
    figure = draft.figure()
    figure.add_vline(0, line={"color": GREY, "width": 1.5}, layer="below")
    return figure


def _draw(draft: Draft, rows: pd.DataFrame, names: list[str], measures: list[str], panel: Panel) -> None:
    """One panel: the measures of each row, one under the other."""
    for number, measure in enumerate(measures):
        own = rows[rows["measure"].map(str) == measure]
        offset = APART * (number - (len(measures) - 1) / 2)
        texts = [
            f"<b>{plain(name, 60)}</b><br>{plain(measure, 60)} {value:+.3f} [{low:+.3f}, {high:+.3f}]"
            .replace(" [+nan, +nan]", "")
            for name, value, low, high in own[["name", "value", "low", "high"]].itertuples(index=False)
        ]  # fmt: skip
        above, below = own["high"] - own["value"], own["value"] - own["low"]
        trace = go.Scatter(
            x=own["value"], y=[names.index(str(name)) + offset for name in own["name"]], mode="markers",
            name=plain(measure, 60), legendgroup=measure, hovertext=texts, hovertemplate="%{hovertext}<extra></extra>",
            marker={"size": 9, "color": OKABE_ITO[number % len(OKABE_ITO)], "symbol": SYMBOLS[number % len(SYMBOLS)]},
            error_x={"array": above, "arrayminus": below, "symmetric": False, "thickness": 1.6, "width": 0},
        )  # fmt: skip
        draft.add_traces([trace], **panel)
    labels = [plain(shortened(name), 99) for name in names] if panel["col"] == 1 else [""] * len(names)
    draft.update_yaxes(rows_axis(labels), **panel)
