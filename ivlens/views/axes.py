"""Axes of numbers, texts, tasks and checkpoints, outlines of squares, and colour bars, all measured in pixels."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .style import plain, shortened

LETTER = 6.2  # about the width of a character of a label
SLANT = 0.72  # how far a slanted label reaches down and to the left, relative to its length
TICK_STEPS = (1, 2, 5, 10, 20, 50)
UNIT_AXIS = {"range": [-0.04, 1.04], "tickvals": [0, 0.5, 1], "zeroline": False}  # of values from 0 to 1


def tick_step(pixels: float, room: int) -> int:
    """The smallest round step between ticks that leaves ``room`` pixels per label, where one unit has ``pixels``."""
    return next((step for step in TICK_STEPS if step * pixels >= room), TICK_STEPS[-1])


def number_axis(title: str, count: int, pixels: int, room: int) -> dict[str, Any]:
    """An axis of the numbers 0, 1, 2 ... below ``count`` in ``pixels``, its ticks at least ``room`` pixels apart."""
    ticks = {"tick0": 0, "dtick": tick_step(pixels / count, room), "showgrid": False, "zeroline": False}
    return {"title": {"text": title}, "range": [-0.5, count - 0.5]} | ticks


def text_axis(texts: Sequence[str]) -> dict[str, Any]:
    """An axis labelled with ``texts`` (HTML) at 0, 1, 2 ...; without texts it has no ticks."""
    ticks = {"tickvals": list(range(len(texts))), "ticktext": list(texts), "tickfont": {"size": 11}}
    return {"showgrid": False, "zeroline": False, "ticks": "outside" if texts else ""} | ticks


def rows_axis(texts: Sequence[str]) -> dict[str, Any]:
    """An axis of rows from the top down, labelled with ``texts`` (HTML)."""
    return text_axis(texts) | {"range": [len(texts) - 0.5, -0.5], "ticks": "", "ticklabelstandoff": 6}


def task_axis(tasks: Sequence[str]) -> dict[str, Any]:
    """An axis of tasks from the top down."""
    return rows_axis([plain(shortened(task), 99) for task in tasks])


def name_axis(names: Sequence[str], pixels: float) -> tuple[dict[str, Any], int]:
    """An axis labelled with names at 0, 1, 2 ..., and the pixels below it; names slant where they are too long."""
    texts = [shortened(name) for name in names]
    longest, each = LETTER * max(map(len, texts)), pixels / len(names)
    slanting = longest > each - 8
    step = math.ceil(15 / max(1, int(each))) if slanting else 1  # slanting names need 15 pixels each
    axis = {
        "tickvals": list(range(len(texts))), "tickangle": -45 if slanting else 0, "tickfont": {"size": 11},
        "ticktext": ["" if number % step else plain(text, 99) for number, text in enumerate(texts)],
        "range": [-0.6, len(texts) - 0.4], "showgrid": False, "zeroline": False,
    }  # fmt: skip
    return axis, int(SLANT * longest if slanting else 14) + 22


def under_lowest(axis: dict[str, Any], lowest: bool) -> dict[str, Any]:
    """A panel's axis of names, which are written only under the lowest panel of its column."""
    return axis if lowest else axis | {"showticklabels": False}


def value_axis(traces: Iterable[Any]) -> dict[str, Any]:
    """An axis whose range covers the values of all traces with their error bars."""
    reached = [np.zeros(0)]
    for trace in traces:
        values = np.array(trace.y, float)
        bars = trace.error_y.array, trace.error_y.arrayminus
        above, below = (0 if bar is None else np.array(bar, float) for bar in bars)
        reached += [values + above, values - below]
    ends = np.concatenate(reached)
    ends = ends[np.isfinite(ends)]
    low, high = (ends.min(), ends.max()) if ends.size else (0.0, 1.0)
    pad = 0.08 * (high - low) or 0.05
    return {"range": [low - pad, high + pad], "tickformat": "~g", "nticks": 6, "zeroline": False}


def outlines(squares: Sequence[tuple[int, int]], name: str, colour: str, width: int, reach: float = 0.46) -> go.Scatter:
    """Open squares around squares given as (row, column), in one trace: the corners of each, then a break."""
    right, up = (-reach, reach, reach, -reach, -reach), (-reach, -reach, reach, reach, -reach)
    return go.Scatter(
        x=[x for _, column in squares for x in (*(column + step for step in right), None)],
        y=[y for row, _ in squares for y in (*(row + step for step in up), None)],
        mode="lines",
        line={"color": colour, "width": width},
        hoverinfo="skip",
        name=name,
    )


def colour_bar(title: str = "", height: int | None = None) -> dict[str, Any]:
    """A colour bar at the right, with its title; as tall as the panels, or ``height`` pixels from the top."""
    bar: dict[str, Any] = {"outlinewidth": 0, "thickness": 14}
    if title:
        bar["title"] = {"text": title, "side": "right"}
    if height is not None:
        bar |= {"lenmode": "pixels", "len": height, "y": 1, "yanchor": "top", "ypad": 0}
    return bar
