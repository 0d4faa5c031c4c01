"""Frames as HTML tables."""

import html
from numbers import Integral, Real

import pandas as pd


def frame_table(frame: pd.DataFrame, caption: str = "") -> str:
    """A frame as an escaped HTML table: numbers to three digits, its index shown where it says something."""
    if list(frame.index.names) != [None] or not pd.api.types.is_integer_dtype(frame.index):
        frame = frame.reset_index()
    head = "".join(f"<th>{_text(name)}</th>" for name in frame.columns)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in frame.itertuples(index=False, name=None))
    title = f"<caption>{html.escape(caption)}</caption>\n" if caption else ""
    return f'<div class="table"><table>\n{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, Real) and not isinstance(value, bool):
        return f'<td class="number">{_number(value)}</td>'
    return f"<td>{_text(value)}</td>"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_text, value)).strip()
    return "n/a" if value is None or value is pd.NA or value is pd.NaT else html.escape(str(value))


def _number(value: Real) -> str:
    if value != value:
        return "n/a"
    if isinstance(value, Integral):
        return str(value)
    number = float(value)
    text = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:#.3g}".removesuffix(".")
    return text.replace("-", "−", 1) if number < 0 else text
