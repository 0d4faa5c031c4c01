"""Records in a notebook: small HTML that needs no plotting, lines being drawn in the colour of the text."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .visible import escaped

ROWS, FIRST = 24, 10  # a longer table shows its first rows only
LETTERS, FACTS = 60, 240  # of a longer text in a table, or beside it, the beginning is shown
POINTS = 120  # a longer line shows means of neighbours
PAD = 3  # pixels around a line
LEFT, RIGHT = ' style="text-align: left"', ' style="text-align: right"'
SCROLLING = "overflow-x: auto; max-width: 100%"


class Drawn(str):
    """HTML that goes into a table as it is."""


def text(value: object, letters: int = LETTERS) -> str:
    """A value as escaped text: numbers to three digits, a text cut after ``letters``."""
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    words = str(value)
    return escaped(words if len(words) <= letters else f"{words[: letters - 1]}…")


def block(heading: str, facts: str, *parts: str) -> str:
    """What a notebook shows of a record: its class, facts beside it, then tables and lines, which are HTML."""
    said = f"<b>{text(heading)}</b> {text(facts, FACTS)}".strip()
    return f'<div style="{SCROLLING}"><div>{said}</div>{"".join(parts)}</div>'


def note(words: str) -> str:
    """A small line of text."""
    return f'<div style="opacity: 0.75; font-size: smaller">{text(words, FACTS)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a table; of a long one the first rows, and how many there are; nothing where there is no row."""
    if not rows:
        return ""
    shown = rows if len(rows) <= ROWS else rows[:FIRST]
    sides = [RIGHT if all(isinstance(row[at], int | float) for row in shown) else LEFT for at in range(len(columns))]
    head = "".join(f"<th{side}>{text(name)}</th>" for name, side in zip(columns, sides, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row, sides))}</tr>" for row in shown)
    more = note(f"the first {FIRST} of {len(rows)} rows") if len(rows) > len(shown) else ""
    return f'<table style="color: inherit"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'


def frame_table(frame: pd.DataFrame) -> str:
    """A frame as a table without its index."""
    return table(list(map(str, frame.columns)), list(frame.itertuples(index=False, name=None)))


def line(
    values: Sequence[float], said: str, *, limits: tuple[float, float] | None = None, size: tuple[int, int] = (120, 22)
) -> Drawn:
    """Values as a line of ``size`` pixels, from one of ``limits`` to the other (without: as far as they reach).

    Values that are not finite leave a gap; the last one has a dot. ``said`` is what the line shows, as plain text.
    """
    points = _thinned(np.asarray(values, float))
    finite = points[np.isfinite(points)]
    low, high = limits or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    width, height = size[0] - 2 * PAD, size[1] - 2 * PAD
    across = width / max(1, len(points) - 1)
    up = height / (high - low) if high > low else 0.0
    places = [
        f"{PAD + at * across:.1f},{PAD + height - up * (min(max(value, low), high) - low):.1f}"
        if math.isfinite(value) else "" for at, value in enumerate(points.tolist())
    ]  # fmt: skip
    runs = " ".join(places).split("  ")  # a gap is an empty place, and so two spaces
    lines = "".join(f'<polyline points="{run} {run.split()[-1]}"/>' for run in runs if run.split())  # one point too
    ends = [place for place in places if place][-1:]
    dots = "".join('<circle cx="{}" cy="{}" r="2.2" fill="currentColor"/>'.format(*place.split(",")) for place in ends)
    return Drawn(
        f'<svg width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}" role="img" fill="none" '
        f'stroke="currentColor" stroke-width="1.4" stroke-linejoin="round" stroke-linecap="round">'
        f"<title>{text(said)}</title>{lines}{dots}</svg>"
    )


def _cell(value: object, side: str) -> str:
    return f"<td{side}>{value if isinstance(value, Drawn) else text(value)}</td>"


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most ``POINTS`` values: the means of neighbours where there are more."""
    if len(values) <= POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, POINTS)])
