"""Records in a notebook: small HTML that needs no plotting; lines have the colour of the text."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..text import escaped

MOST_ROWS, FIRST_ROWS = 24, 10  # a table with more rows shows only the first ones
CELL_LENGTH, FACTS_LENGTH = 60, 240  # characters of a text in a table, or beside it, at most
POINTS = 120  # points of a line, at most; a longer one shows means of neighbours
PAD = 3  # pixels around a line
LEFT, RIGHT = ' style="text-align: left"', ' style="text-align: right"'
SCROLLING = "overflow-x: auto; max-width: 100%"


class Drawn(str):
    """HTML that a table contains unescaped."""


def text(value: object, length: int = CELL_LENGTH) -> str:
    """A value as escaped text: numbers to three digits, a text cut after ``length`` characters."""
    if value is None or value is pd.NA or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    words = str(value)
    return escaped(words if len(words) <= length else f"{words[: length - 1]}…")


def block(heading: str, facts: str, *parts: str) -> str:
    """A notebook's view of a record: its class and facts, then tables and lines as HTML."""
    header = f"<b>{text(heading)}</b> {text(facts, FACTS_LENGTH)}".strip()
    return f'<div style="{SCROLLING}"><div>{header}</div>{"".join(parts)}</div>'


def note(words: str) -> str:
    """A small line of text."""
    return f'<div style="opacity: 0.75; font-size: smaller">{text(words, FACTS_LENGTH)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a table, empty without rows; a long table shows its first rows and the number of all."""
    if not rows:
        return ""
    first = rows if len(rows) <= MOST_ROWS else rows[:FIRST_ROWS]
    styles = [
        RIGHT if all(isinstance(value, int | float) for value in values) else LEFT
        for values in zip(*first, strict=True)
    ]
    head = "".join(f"<th{style}>{text(name)}</th>" for name, style in zip(columns, styles, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row, styles))}</tr>" for row in first)
    more = note(f"the first {FIRST_ROWS} of {len(rows)} rows") if len(rows) > len(first) else ""
    return f'<table style="color: inherit"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'


def frame_table(frame: pd.DataFrame) -> str:
    """A frame as a table without its index."""
    return table(list(map(str, frame.columns)), list(frame.itertuples(index=False, name=None)))


def line(
    values: Sequence[float],
    caption: str,
    *,
    limits: tuple[float, float] | None = None,
    size: tuple[int, int] = (120, 22),
) -> Drawn:
    """Values as a line of ``size`` pixels, scaled to ``limits`` (None: to the values' own range).

    Values that are not finite leave a gap; a dot marks the last one. ``caption`` is plain text that describes the line.
    """
    segments = _segments(_thinned(np.asarray(values, float)), limits, size)
    # the last point is repeated, so that a segment of one point is visible
    lines = "".join(f'<polyline points="{" ".join([*segment, segment[-1]])}"/>' for segment in segments)
    dot = ""
    if segments:
        x, y = segments[-1][-1].split(",")
        dot = f'<circle cx="{x}" cy="{y}" r="2.2" fill="currentColor"/>'
    return Drawn(
        f'<svg width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}" role="img" fill="none" '
        f'stroke="currentColor" stroke-width="1.4" stroke-linejoin="round" stroke-linecap="round">'
        f"<title>{text(caption)}</title>{lines}{dot}</svg>"
    )


def _segments(points: np.ndarray, limits: tuple[float, float] | None, size: tuple[int, int]) -> list[list[str]]:
    """The points as "x,y" in pixels, in a new list after each gap."""
    finite = points[np.isfinite(points)]
    low, high = limits or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    width, height = size[0] - 2 * PAD, size[1] - 2 * PAD
    across = width / max(1, len(points) - 1)
    up = height / (high - low) if high > low else 0.0
    segments: list[list[str]] = [[]]
    for number, value in enumerate(points.tolist()):
        if math.isfinite(value):
            clipped = min(max(value, low), high)
            segments[-1].append(f"{PAD + number * across:.1f},{PAD + height - up * (clipped - low):.1f}")
        else:
            segments.append([])
    return [segment for segment in segments if segment]


def _cell(value: object, style: str) -> str:
    return f"<td{style}>{value if isinstance(value, Drawn) else text(value)}</td>"


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most ``POINTS`` values: means of neighbours if there are more."""
    if len(values) <= POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, POINTS)])
