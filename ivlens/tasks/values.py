"""What a value in a row is: a text, several, the options of a choice, or the turns of a conversation."""

import sys
from ast import literal_eval
from collections.abc import Mapping
from math import isfinite, isnan
from numbers import Integral, Real
from string import ascii_uppercase as LETTERS
from typing import Any, Literal

from ..errors import TaskError, brief, few
from .examples import as_text

Kind = Literal["label", "text", "index", "letter"]
KINDS: tuple[Kind, ...] = ("label", "text", "index", "letter")
# What data sets call the speakers of a conversation.
SPEAKERS = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant",
}  # fmt: skip


def a_text(value: Any, column: Any, where: str) -> str:
    """A text, or a finite number as text.

    Raises: TaskError for anything else.
    """
    if isinstance(value, str) and value.strip():
        return as_text(f"field {column!r} in {where}", value)
    what = f"field {brief(column)} in {where}"
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            value = str(value) if isinstance(value, Integral) or isfinite(value) else value
        except (ValueError, OverflowError) as error:  # Python refuses to write out thousands of digits
            raise TaskError(f"{what} to be a text or a number", f"a number too long to write out: {error}") from error
    return as_text(what, value)


def texts(value: Any, column: Any, where: str) -> tuple[str, ...]:
    """One text, or a list of them, without repetitions; of SQuAD's answers their texts."""
    if isinstance(value, Mapping) and "text" in value:
        value = value["text"]
    values = [each["text"] if isinstance(each, Mapping) and "text" in each else each for each in as_list(value)]
    if not values:
        raise TaskError(f"field {column!r} in {where} to have one answer or more", "an empty list")
    return tuple(dict.fromkeys(a_text(each, column, where) for each in values))


def as_list(value: Any) -> list[Any]:
    """The items of a list, a tuple or an array; anything else as the only item."""
    if getattr(value, "ndim", 0) == 1:
        value = value.tolist()
    return list(value) if isinstance(value, (list, tuple)) else [value]


def is_missing(value: Any) -> bool:
    """Whether a value is missing: None, NaN, pandas' NA and NaT, blank text, or an empty list."""
    if isinstance(value, float):
        return isnan(value)
    pandas = sys.modules.get("pandas")  # not imported for this: a value of its own comes from a caller who did
    if value is None or (pandas is not None and (value is pandas.NA or value is pandas.NaT)):
        return True
    return isinstance(value, (str, list, tuple, Mapping)) and not (value and str(value).strip())


def is_hidden(value: Any, hides: bool, numbered: bool) -> bool:
    """Whether an answer is one that a test set hides: a missing one, or -1 for what is numbered."""
    if isinstance(value, Mapping) and "text" in value:
        value = value["text"]
    return (numbered and isinstance(value, (Real, str)) and value in (-1, "-1")) or (hides and is_missing(value))


def choices(value: Any, column: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options in a value and their labels, () where it has none.

    A value is a list of texts, or of {"label", "text"}; a mapping {"label": [...], "text": [...]}, or one of labels to
    texts, or of texts to scores; or any of these written as text in a table. Numbers by "A", "B" are options, not
    scores, unless the column has scores in its name.
    """
    value = _parsed(value) if isinstance(value, str) else value
    if isinstance(value, Mapping) and {"label", "text"} <= value.keys():
        labels, found = as_list(value["label"]), as_list(value["text"])
    elif isinstance(value, Mapping) and _are_scores(value, column):
        labels, found = [], list(value)
    elif isinstance(value, Mapping):
        labels, found = list(value), list(value.values())
    else:
        found = as_list(value)
        pairs = [each for each in found if isinstance(each, Mapping) and {"label", "text"} <= each.keys()]
        labels = [each["label"] for each in pairs]
        found = [each["text"] for each in pairs] or found
    options = tuple(a_text(each, column, where) for each in found)
    if len(options) < 2 or (labels and len(labels) != len(options)):
        raise TaskError(f"field {brief(column)} in {where} to be a list of options", brief(value))
    if len({*map(str, labels)}) < len(labels):
        raise TaskError(f"field {brief(column)} in {where} to label every option differently", brief(value))
    return options, tuple(a_text(each, column, where) for each in labels)


def _are_scores(mapping: Mapping[Any, Any], column: Any) -> bool:
    """Whether a mapping is one of texts to scores, rather than of labels to options that are numbers."""
    if not mapping or not all(map(_is_number, mapping.values())):
        return False
    return "score" in str(column) or any(len(str(name)) > 1 for name in mapping)


def _parsed(text: str) -> Any:
    """The list or mapping that a text spells, as tables hold them; else the text."""
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    try:
        return literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def best(scores: Any, where: str) -> list[str]:
    """The options of the highest score.

    Raises: TaskError for anything but a mapping of options to scores.
    """
    if not isinstance(scores, Mapping) or not scores or not all(map(_is_number, scores.values())):
        raise TaskError(f"field 'target_scores' in {where} to be a mapping of options to scores", brief(scores))
    return [option for option, score in scores.items() if score == max(scores.values())]


def chosen(value: Any, options: tuple[str, ...], labels: tuple[str, ...], kind: Kind) -> str | None:
    """The option that an answer names, read as one kind of name; None where it names none."""
    if isinstance(value, float) and value.is_integer():  # as pandas has whole numbers in a column with missing ones
        value = int(value)
    text = str(value).strip() if isinstance(value, (str, Real)) and not isinstance(value, bool) else ""
    if kind == "label":
        return dict(zip(labels, options, strict=False)).get(text)
    if kind == "text":
        return text if isinstance(value, str) and text in options else None
    if kind == "letter":
        at = LETTERS.find(text.upper()) if len(text) == 1 else -1
    else:
        at = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else -1
    return options[at] if 0 <= at < len(options) else None


def conversation(value: Any, column: Any, where: str) -> list[tuple[str, str]]:
    """The turns of a conversation, pairs of a role and a text, from OpenAI's or ShareGPT's messages."""
    turns = []
    for message in as_list(value):
        if isinstance(message, (list, tuple)) and len(message) == 2:
            message = dict(zip(("role", "content"), message, strict=True))
        keys = [("role", "content"), ("from", "value")]
        known = next((pair for pair in keys if isinstance(message, Mapping) and {*pair} <= message.keys()), None)
        if known is None:
            expected = f"field {column!r} in {where} to be messages with role and content, or from and value"
            raise TaskError(expected, brief(message))
        role, text = (message[key] for key in known)
        if role not in SPEAKERS:
            expected = f"a message in {where} to be of one of {few(SPEAKERS, len(SPEAKERS))}"
            raise TaskError(expected, brief(role), "leave such conversations out")
        turns.append((SPEAKERS[role], a_text(_without_parts(text), column, where)))
    return turns


def _without_parts(content: Any) -> Any:
    """The text of a message whose content is a list of text parts; other content as it is."""
    parts = as_list(content)
    if all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        return "".join(str(part.get("text", "")) for part in parts)
    return content
