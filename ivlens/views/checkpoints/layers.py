"""Maps with a row per layer side by side: heads by their numbers, or named parts of layers, each with its colours."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from ..axes import colour_bar, number_axis, outlines, text_axis
from ..layout import WIDEST, Board, Box, Margins, Size, layout_around
from ..style import DIVERGING, INK, plain

MARGINS = Margins(left=56, right=96, bottom=52)
ABOVE, GAP, BAR_ROOM = 26, 40, 128  # pixels: over a map, between maps, and for a colour bar between maps
HEAD, NAMED = 26, 64  # pixels: width of a column, at most
NARROWEST = 150  # pixels: width of a map of few heads
TALLEST, LOWEST, ROW = 480, 140, 14  # pixels: height of a map, at most and at least, and of a row


class LayerMap(NamedTuple):
    """Values of the columns of each layer, the first layer at the bottom; neighbours of one unit and limit share a bar.

    ``values`` and ``hover``, texts for plotly, are [layer, column]; ``columns`` are names, () for numbered heads;
    colours reach from -``limit`` to ``limit``; ``outlined`` are (layer, column).
    """

    name: str
    values: np.ndarray
    hover: np.ndarray
    columns: tuple[str, ...]
    unit: str
    limit: float
    outlined: tuple[tuple[int, int], ...] = ()


def layer_maps(maps: Sequence[LayerMap], title: str, facts: str) -> go.Figure:
    """Maps of the same layers side by side, the parts of one model beside those of another measurement.

    ``title`` and ``facts`` are plain text.
    """
    barred = [before[4:6] != after[4:6] for before, after in pairwise(maps)] + [True]
    gaps = [BAR_ROOM if bar else GAP for bar in barred[:-1]]
    widths = _widths(maps, WIDEST - MARGINS.left - MARGINS.right - sum(gaps))
    n_layers = max(len(each.values) for each in maps)
    size = Size(sum(widths) + sum(gaps), max(LOWEST, min(TALLEST, ROW * n_layers)))
    board = Board(size.width)
    board.height = size.height + ABOVE
    left = 0
    for number, (each, width, gap) in enumerate(zip(maps, widths, [*gaps, 0], strict=True)):
        box = Box(left, ABOVE, width, size.height)
        bar = {"x": (left + width) / size.width, "y": 1 - ABOVE / board.height} if barred[number] else None
        numbers = number_axis("" if number else "layer", n_layers, size.height, 16)
        board.add_panel(_traces(each, width, size.height, bar), box, each.name, _columns(each, width), numbers)
        left += width + gap
    layout = layout_around(Size(size.width, int(board.height)), MARGINS, title, facts)
    return board.finished(layout)


def _widths(maps: Sequence[LayerMap], room: int) -> list[int]:
    """The maps' widths: as wide as their columns may be, or narrower heads where there is no room."""
    wanted = [
        NAMED * len(each.columns) if each.columns else max(NARROWEST, HEAD * each.values.shape[1]) for each in maps
    ]
    named = sum(width for width, each in zip(wanted, maps, strict=True) if each.columns)
    shrink = min(1.0, (room - named) / max(1, sum(wanted) - named))
    return [width if each.columns else int(shrink * width) for width, each in zip(wanted, maps, strict=True)]


def _columns(each: LayerMap, width: int) -> dict[str, Any]:
    if not each.columns:
        return number_axis("head", each.values.shape[1], width, 24)
    return text_axis([plain(name, 99) for name in each.columns]) | {"range": [-0.5, len(each.columns) - 0.5]}


def _traces(each: LayerMap, width: int, height: int, bar: dict[str, Any] | None) -> list[go.Heatmap | go.Scatter]:
    layers, columns = each.values.shape
    side = min(width / columns, height / layers)
    heatmap = go.Heatmap(
        z=each.values.astype(np.float32), customdata=each.hover, hovertemplate="%{customdata}<extra></extra>",
        colorscale=DIVERGING, zmin=-each.limit, zmid=0, zmax=each.limit, xgap=int(side >= 9), ygap=int(side >= 9),
        showscale=bar is not None, colorbar=colour_bar(each.unit, min(height, 300)) | {"thickness": 12} | (bar or {}),
    )  # fmt: skip
    return [heatmap, outlines(each.outlined, "outlines", INK, width=2)] if each.outlined else [heatmap]
