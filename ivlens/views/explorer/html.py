"""The widget's pieces of HTML, with all text escaped."""

import html
from typing import Any

import pandas as pd
from markupsafe import Markup

from ...records import Head, HeadEffects, heads_by_effect
from ...text import escaped, one_line
from ..attention import Html
from ..layout import Size
from ..markup import render
from ..style import EFFECT_UNITS
from ..tables import frame_table

LABEL_LENGTH = 40  # characters


def style(size: Size | None = None) -> str:
    """The explorers' style sheets: colours, and how panels stand about a map of this size, if there is one."""
    layout = "" if size is None else render(
        "explorer_layout.css", size_class=size_class(size), width=size.width, height=size.height
    )  # fmt: skip
    return "<style>\n" + render("explorer.css") + layout + "</style>"


def size_class(size: Size) -> str:
    """The CSS class of maps of this size."""
    return f"ivlens-map-{size.width}-{size.height}"


def note(text: str, kind: str = "faint") -> str:
    """A line of plain text as HTML of a class."""
    return f'<p class="{kind}">{escaped(text)}</p>'


def announcement(text: str, kind: str = "faint") -> str:
    """A line of plain text as HTML that screen readers announce when it appears."""
    return f'<p class="{kind}" role="status">{escaped(text)}</p>'


def label(prompt: Any) -> str:
    """A prompt in few characters: its input, or how its text ends."""
    return ending(prompt.input or prompt.text, LABEL_LENGTH)


def ending(text: str, length: int) -> str:
    """A text on one line, its end where it has more characters than ``length``."""
    line = one_line(" ".join(text.split()))
    return line if len(line) <= length else f"…{line[1 - length :]}"


def effect_line(effects: HeadEffects, head: Head) -> str:
    """The head's mean effect with its standard error, and its rank, as a line of HTML."""
    mean, error = effects.aie[head].item(), effects.stderr[head].item()
    rank, count = heads_by_effect(effects.aie).index(head) + 1, effects.aie.numel()
    standard_error = f" ± {error:.2g}" if effects.n > 1 else ""
    unit = EFFECT_UNITS[effects.metric]
    return note(f"mean effect {mean:.3g}{standard_error} {unit}, rank {rank} of {count}, n = {effects.n}")


def framed(view: Html, height: int) -> str:
    """A view in its own frame, so that its scripts cannot reach the rest of the page."""
    document = render("attention_frame.html", view=Markup(view.html))
    return render("iframe.html", height=height, document=Markup(html.escape(document)))


def tokens_table(tokens: pd.DataFrame) -> str:
    """The likeliest next tokens side by side, a pair of columns per condition, with visible spaces and line breaks."""
    columns: dict[str, Any] = {}
    for condition, rows in tokens.groupby("condition", sort=False):
        columns[str(condition)] = [repr(token) for token in rows["token"]]
        columns[f"P({condition})"] = rows["probability"].to_numpy()
    return frame_table(pd.DataFrame(columns), "likeliest next tokens")
