"""Text of tasks, models and files as characters that terminals, tables and pages can show."""

import html
import re
from collections.abc import Iterable
from difflib import get_close_matches

# Control characters, marks that reverse the reading direction of what follows, and halves of surrogate pairs, which
# are what Python makes of file names that are not UTF-8.
UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with control characters and direction marks escaped, like ``\\x1b``.

    Line feeds and tabs are kept.
    """
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def escaped(text: str) -> str:
    """``text`` escaped for HTML."""
    return html.escape(visible(text))


def one_line(text: str, letters: int | None = None) -> str:
    """``text`` on one line, with line feeds and tabs escaped, cut after ``letters`` characters."""
    shown = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    return shown if letters is None or len(shown) <= letters else f"{shown[: letters - 1]}…"


def plural(n: int, noun: str) -> str:
    """A number of things in words: ``plural(1, "head")`` is "1 head", ``plural(2, "head")`` "2 heads"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def plus_minus(error: float, otherwise: str = "", digits: int = 2) -> str:
    """A standard error to write after a mean, such as " ± 0.05"; ``otherwise`` where it is not a number: n is 1."""
    return otherwise if error != error else f" ± {error:.{digits}f}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question after the known word that is most like ``word``, with its capitals or without; empty if none is."""
    words = list(known)
    small = {each.lower(): each for each in words}
    close = get_close_matches(word, words, n=1) or [small[each] for each in get_close_matches(word.lower(), small, n=1)]
    return f"did you mean {close[0]!r}?" if close else ""
