"""Frames as HTML tables."""

from collections.abc import Sequence
from numbers import Integral, Real

import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from ..checks import checked
from ..errors import ArgumentError
from .markup import render

MOST_CHARACTERS = 2000  # a longer text is cut


@checked
def frame_table(frame: pd.DataFrame, caption: str = "") -> str:
    """A frame as an HTML table, all text in it escaped: numbers to three digits, a longer text cut.

    Args:
        frame: any frame; its index is shown unless it is the default one.
        caption: plain text over the table.

    Returns:
        The table as HTML.

    Example:
        >>> import pandas as pd
        >>> "<td>a &lt; b</td>" in iv.views.frame_table(pd.DataFrame({"task": ["a < b"]}))
        True
    """
    if list(frame.index.names) != [None] or not is_integer_dtype(frame.index.dtype):
        frame = frame.reset_index()
    numeric = [is_numeric_dtype(kind) and not is_bool_dtype(kind) for kind in frame.dtypes]
    rows = [list(zip(map(_text, row), numeric, strict=True)) for row in frame.itertuples(index=False, name=None)]
    header = list(zip(map(_text, frame.columns), numeric, strict=True))
    return render("table.html", caption=caption, header=header, rows=rows)


def check_columns(frame: pd.DataFrame, needed: Sequence[str]) -> None:
    """Raise ArgumentError where a frame lacks a column."""
    missing = [name for name in needed if name not in frame]
    if missing:
        raise ArgumentError(f"a frame with the columns {', '.join(needed)}", f"one without {', '.join(missing)}")


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_text, value)).strip()
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return "n/a"
    if not isinstance(value, Real) or isinstance(value, Integral):
        text = str(value)
        return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
    number = float(value)
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:#.3g}".removesuffix(".")
