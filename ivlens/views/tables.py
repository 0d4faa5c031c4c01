"""Frames as HTML tables."""

from collections.abc import Sequence
from numbers import Integral, Real

import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from ..checks import checked
from ..errors import ArgumentError
from .markup import render

MOST_CHARACTERS = 2000  # a longer text is cut
LONGEST_WORD, SHORT = 24, 60  # characters of a word that is kept whole, and of a text that a narrow column may hold


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
    header, *rows = [
        [(text, _look(text, kind)) for text, kind in zip(map(_text, row), numeric, strict=True)]
        for row in [tuple(frame.columns), *frame.itertuples(index=False, name=None)]
    ]
    return render("table.html", caption=caption, header=header, rows=rows)


def _look(text: str, is_number: bool) -> str:
    """The class of a text in a table: a number, a word that is not broken at its hyphens, a long text, or none."""
    if is_number:
        return "number"
    if "-" in text and len(text) <= LONGEST_WORD and len(text.split()) == 1:
        return "word"
    return "long" if len(text) > SHORT else ""


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
