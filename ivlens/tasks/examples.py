"""An example of a task, and checks of a task's texts."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..errors import TaskError, brief, few
from ..vocabulary import SPLITS, Split

ROLES = ("system", "user", "assistant")
SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Example:
    """An input and its accepted answers, the first of them canonical, all stripped of whitespace.

    ``options`` are the answers to choose from, the accepted ones among them; () where there is no choice.
    ``instruction`` is one of the example's own, which replaces its task's. ``history`` are the turns of a conversation
    before the input, pairs of a role ("system", "user" or "assistant") and a text. ``split`` is where a data set that
    comes in splits has the example.

    Raises:
        TaskError: a text is missing or blank, or the accepted answers are not some of the options.

    Example:
        >>> iv.Example("2 + 2 = ?", ("4",), options=("3", "4", "5")).answers
        ('4',)
    """

    input: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    instruction: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    split: Split | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", as_text("the input of an example", self.input))
        object.__setattr__(self, "answers", as_texts("the answers of the example", self.answers, self.input))
        if not self.answers:
            raise TaskError(f"the example {brief(self.input)} to have one answer or more", "none")
        object.__setattr__(self, "options", as_texts("the options of the example", self.options, self.input))
        if self.options and not {*self.answers} < {*self.options}:
            raise TaskError(
                f"the answers of the example {brief(self.input)} to be some of its options, not all",
                f"{few(map(brief, self.answers))} of {few(map(brief, self.options))}",
            )
        if self.instruction is not None:
            own = as_text("the instruction of the example", self.instruction, self.input)
            object.__setattr__(self, "instruction", own)
        if self.split not in (None, *SPLITS):
            raise TaskError(
                f"the split of the example {brief(self.input)} to be {', '.join(SPLITS)}", brief(self.split)
            )
        if self.history:
            object.__setattr__(self, "history", _as_history(self.history, self.input))

    @property
    def asked(self) -> tuple[Any, ...]:
        """The question, under any instruction."""
        return self.input, self.history, self.options

    @property
    def key(self) -> tuple[Any, ...]:
        """What examples of a task differ in."""
        return self.instruction, *self.asked


def as_text(what: str, value: object, of: str | None = None) -> str:
    """``value`` without surrounding whitespace, or a TaskError naming ``what`` if it is not a text or is blank.

    ``of`` is the input of the example that it belongs to.
    """
    if isinstance(value, str) and value.strip() and is_unicode(value):
        return value.strip()
    what = what if of is None else f"{what} {brief(of)}"
    if not isinstance(value, str):
        raise TaskError(f"{what} to be a text", f"{brief(value)} ({type(value).__name__})")
    if not value.strip():
        raise TaskError(f"{what} to be a text that is not blank", repr(value))
    raise TaskError(f"{what} to be valid unicode", f"{brief(value)}, which holds half of a surrogate pair")


def is_unicode(text: str) -> bool:
    """Whether ``text`` can be encoded, that is, has no lone surrogates."""
    return SURROGATE.search(text) is None


def as_texts(what: str, value: object, of: str | None = None) -> tuple[str, ...]:
    """One text, or a list or tuple of them, as a tuple without repetitions, or a TaskError that names ``what``."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        what = what if of is None else f"{what} {brief(of)}"
        raise TaskError(f"{what} to be a text or a list of texts", f"{brief(value)} ({type(value).__name__})")
    return tuple(dict.fromkeys(as_text(what, text, of) for text in texts))


def as_examples(what: str, value: object) -> tuple[Example, ...]:
    """``value`` as examples that ask for different things, or a TaskError that names ``what``."""
    if not isinstance(value, (list, tuple)) or not value:
        raise TaskError(f"{what} to be a list of one or more", brief(value))
    examples = tuple(_as_example(what, item) for item in value)
    repeated, times = Counter(example.key for example in examples).most_common(1)[0]
    if times > 1:
        raise TaskError(
            f"{what} to have different inputs", f"{brief(repeated[1])} {times} times", "merge their answers"
        )
    return examples


def _as_example(what: str, item: object) -> Example:
    if isinstance(item, Example):
        return item
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise TaskError(f"{what} to be Examples, or pairs of an input and its answers", brief(item))
    return Example(*item)


def _as_history(value: object, of: str) -> tuple[tuple[str, str], ...]:
    turns: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(turn, (list, tuple)) and len(turn) == 2 and turn[0] in ROLES for turn in turns):
        expected = f"the history of the example {brief(of)} to be pairs of a role ({', '.join(ROLES)}) and a text"
        raise TaskError(expected, brief(value))
    return tuple((turn[0], as_text("a turn before the example", turn[1], of)) for turn in turns)
