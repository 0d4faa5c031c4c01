"""What figures of several panels share: colours from 0 to 1, a heading with its facts, panels of one size in rows."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import ArgumentError
from .style import LINES, plain

Size = tuple[int, int]
Edges = tuple[int, int, int]
Place = dict[str, int]

SEQUENTIAL = ((0.0, "#f7f7f5"), (0.25, "#c7e9b4"), (0.5, "#41b6c4"), (0.75, "#225ea8"), (1.0, "#081d58"))
NARROWEST, WIDEST = 440, 1080
TITLE_LINE, PANEL_LINE = 21, 17
LETTER = 6.2  # pixels: about the width of a letter of a label


def check_columns(frame: pd.DataFrame, needed: Sequence[str]) -> None:
    """Raise ArgumentError where a frame lacks a column."""
    missing = [name for name in needed if name not in frame]
    if missing:
        raise ArgumentError(f"a frame with the columns {', '.join(needed)}", f"one without {', '.join(missing)}")


def columns_for(count: int, width: int, gap: int, edges: Edges) -> int:
    """How many of ``count`` panels of ``width`` pixels to put in a row, so that the rows are evenly filled."""
    fitting = max(1, (WIDEST - edges[0] - edges[1] + gap) // (width + gap))
    return -(-count // -(-count // fitting))


def panels(
    names: Sequence[str], size: Size, columns: int, gaps: Size, edges: Edges, title: str, facts: str
) -> tuple[go.Figure, list[Place]]:
    """Empty panels, one a name, and the place of each; all measures are in pixels.

    ``size`` is that of one panel; ``gaps`` are those between columns and between rows, the latter without the names;
    ``edges`` are the left, right and bottom margins. ``names``, ``title`` and the ``facts`` under it are plain text.
    """
    rows = -(-len(names) // columns)
    titles = [f"<b>{plain(name, size[0] // 8)}</b>" for name in names]
    above = PANEL_LINE * (1 + max(name.count("<br>") for name in titles)) + 8
    across, drop = gaps[0], gaps[1] + above
    whole = size[0] * columns + across * (columns - 1), size[1] * rows + drop * (rows - 1)
    figure = make_subplots(
        rows,
        columns,
        specs=[[{} if row * columns + at < len(names) else None for at in range(columns)] for row in range(rows)],
        subplot_titles=titles,
        horizontal_spacing=min(1, across / whole[0]),
        vertical_spacing=min(1, drop / whole[1]),
    )
    figure.update_annotations(font_size=13)
    places = [{"row": index // columns + 1, "col": index % columns + 1} for index in range(len(names))]
    return figure.update_layout(layout_around(whole, edges, title, facts, above)), places


def layout_around(size: Size, edges: Edges, title: str, facts: str, above: int = 0) -> dict[str, Any]:
    """The layout around plots that take ``size`` pixels, with ``above`` pixels between the heading and them."""
    left, right, bottom = edges
    right = max(right, NARROWEST - left - size[0])
    wide = size[0] + right - 10
    heading, small = plain(title, wide // 10), plain(facts, wide // 6, 2 * LINES)
    text = f'{heading}<br><span style="font-size:12px">{small}</span>'
    top = 24 + TITLE_LINE * (1 + text.count("<br>")) + above
    return {
        "template": "ivlens",
        "width": left + size[0] + right,
        "height": top + size[1] + bottom,
        "margin": {"l": left, "r": right, "t": top, "b": bottom},
        # the pad is that of the first line's foot, where a title has several lines
        "title": {"text": text, "pad": {"t": 26}},
    }


def labels(texts: Sequence[str]) -> dict[str, Any]:
    """An axis whose ticks 0, 1, 2 ... bear ``texts``, which are HTML; without texts it has no ticks."""
    ticks = {"tickvals": list(range(len(texts))), "ticktext": list(texts), "tickfont": {"size": 11}}
    return {"showgrid": False, "zeroline": False, "ticks": "outside" if texts else ""} | ticks
