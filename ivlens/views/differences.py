"""Differences from a baseline as intervals: a panel for each setting, a row for each name, a mark for each measure."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError
from .axes import LETTER, rows_axis
from .draft import Draft
from .layout import Margins, Panel, Size, columns_for, legend_around, legend_size, panel_grid
from .style import GREY, LINE_COLOURS, SYMBOLS, plain, shortened
from .tables import check_columns

NEEDED = ("name", "measure", "value")
WIDTH, GAPS = 290, Size(48, 52)
ROW, MARK = 40, 18  # pixels of a row, at least, and of each mark in it
APART, SHARE = 0.3, 0.7  # of a row: between two of its marks, at most; taken by all of them
LABEL_WIDTH = 40  # characters of a measure in a line of the legend


@checked
def difference_intervals(frame: pd.DataFrame, *, title: str, facts: str = "") -> go.Figure:
    """Differences from a baseline, which is at 0, with their intervals.

    Args:
        frame: the columns name (of a row), measure (a mark in each row) and value; where known low and high, both ends
            of the interval, and panel.
        title: plain text.
        facts: plain text under the title.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a column or a row is missing; a value or an end is not a finite number, or a value is not between
            its ends; two rows of one panel, name and measure.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"name": ["plain"], "measure": ["kept"], "value": [-0.1], "low": [-0.2], "high": [0]})
        >>> [trace.name for trace in iv.views.difference_intervals(frame, title="Beside l2").data]
        ['kept']
    """
    table = _checked(frame)
    names, measures = (list(dict.fromkeys(table[column])) for column in ("name", "measure"))
    groups = {str(panel): rows for panel, rows in table.groupby("panel", sort=False)}
    left = int(16 + LETTER * max(len(shortened(name)) for name in names))
    right, legend_height = legend_size([line for each in measures for line in plain(each, LABEL_WIDTH).split("<br>")])
    margins = Margins(left, right, 52)
    columns = columns_for(len(groups), WIDTH, GAPS.width, margins)
    size = Size(WIDTH, max(legend_height, len(names) * max(ROW, MARK * len(measures))))
    draft, panels = panel_grid(list(groups), size, columns, GAPS, margins, title, facts)
    for rows, panel in zip(groups.values(), panels, strict=True):
        _draw(draft, rows, names, measures, panel)
    reach = 1.08 * float(np.nanmax(table[["value", "low", "high"]].abs().to_numpy())) or 1.0
    zero = {"zeroline": True, "zerolinecolor": GREY, "zerolinewidth": 1.6}
    draft.update_xaxes({"range": [-reach, reach], "title": {"text": "difference"}} | zero)
    draft.layout |= legend_around(draft.traces, measures, itemsizing="trace")
    return draft.figure()


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns as texts and numbers, low and high not-a-number where unknown.

    Raises: ArgumentError, see ``difference_intervals``.
    """
    check_columns(frame, NEEDED)
    unknown = pd.Series(float("nan"), frame.index)
    numbers = {name: pd.to_numeric(frame.get(name, unknown), errors="coerce") for name in ("value", "low", "high")}
    texts = {name: frame[name].map(str) for name in NEEDED[:2]}
    texts["panel"] = frame.get("panel", unknown).astype(object).where(lambda panel: panel.notna(), "").map(str)
    table = pd.DataFrame({**texts, **numbers})
    value, low, high = (ends := table[["value", "low", "high"]].to_numpy(float)).T
    bounded = np.isfinite(ends).all(axis=1) & (low <= value) & (value <= high)
    right = bounded | (np.isfinite(value) & np.isnan(low) & np.isnan(high))
    if not (len(table) and right.all()):
        came = str(table[~right].iloc[0].to_dict()) if len(table) else "no row"
        raise ArgumentError("rows of a finite value, and of both ends of its interval or none", came)
    if table.duplicated(["panel", "name", "measure"]).any():
        twice = table[table.duplicated(["panel", "name", "measure"])].iloc[0]
        raise ArgumentError("one row for each panel, name and measure", f"two of {twice['name']}, {twice['measure']}")
    return table


def _draw(draft: Draft, rows: pd.DataFrame, names: list[str], measures: list[str], panel: Panel) -> None:
    """One panel: the measures of each row, one under the other."""
    for number, measure in enumerate(measures):
        own = rows[rows["measure"] == measure]
        if own.empty:
            continue
        offset = min(APART, SHARE / len(measures)) * (number - (len(measures) - 1) / 2)
        texts = [
            f"<b>{plain(name, 60)}</b><br>{plain(measure, 60)} {value:+.3f} [{low:+.3f}, {high:+.3f}]".replace(
                " [+nan, +nan]", ""
            )
            for name, value, low, high in own[["name", "value", "low", "high"]].itertuples(index=False)
        ]
        above, below = own["high"] - own["value"], own["value"] - own["low"]
        colour, symbol = LINE_COLOURS[number % len(LINE_COLOURS)], SYMBOLS[number % len(SYMBOLS)]
        trace = go.Scatter(
            x=own["value"], y=[names.index(name) + offset for name in own["name"]], mode="markers",
            marker={"size": 9, "color": colour, "symbol": symbol},
            name=plain(measure, LABEL_WIDTH), legendgroup=measure, hovertext=texts,
            hovertemplate="%{hovertext}<extra></extra>",
            error_x={"array": above, "arrayminus": below, "symmetric": False, "thickness": 1.6, "width": 0},
        )  # fmt: skip
        draft.add_traces([trace], **panel)
    labels = [plain(shortened(name), 99) for name in names] if panel["col"] == 1 else [""] * len(names)
    draft.update_yaxes(rows_axis(labels), **panel)
