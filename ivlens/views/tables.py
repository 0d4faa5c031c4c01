"""Frames as HTML tables."""

from numbers import Integral, Real

import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from ..checks import checked
from ..records.visible import escaped

LETTERS = 2000  # of a longer text the beginning is shown


@checked
def frame_table(frame: pd.DataFrame, caption: str = "") -> str:
    """A frame as an escaped HTML table: numbers to three digits, its index shown where it says something."""
    if list(frame.index.names) != [None] or not is_integer_dtype(frame.index.dtype):
        frame = frame.reset_index()
    marks = [' class="number"' if is_numeric_dtype(kind) and not is_bool_dtype(kind) else "" for kind in frame.dtypes]
    title = f"<caption>{escaped(caption)}</caption>\n" if caption else ""
    body = "\n".join(_row("td", row, marks) for row in frame.itertuples(index=False, name=None))
    head = _row("th", tuple(frame.columns), marks)
    return f'<div class="table"><table>\n{title}<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _row(tag: str, values: tuple[object, ...], marks: list[str]) -> str:
    cells = zip(values, marks, strict=True)
    return f"<tr>{''.join(f'<{tag}{mark}>{escaped(_text(value))}</{tag}>' for value, mark in cells)}</tr>"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_text, value)).strip()
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return "n/a"
    if not isinstance(value, Real) or isinstance(value, Integral):
        text = str(value)
        return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
    number = float(value)
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:#.3g}".removesuffix(".")
