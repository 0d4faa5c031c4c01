"""An example of a task, and checks of a task's texts."""

import re
from dataclasses import dataclass

from ..errors import TaskError, brief, few

SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Example:
    """An input and its accepted answers, the first of them canonical, all stripped of whitespace.

    ``options`` are the answers to choose from, the accepted ones among them; () where there is no choice.
    ``instruction`` is one of the example's own, which replaces its task's. ``history`` are the turns of a conversation
    before the input, pairs of a role ("system", "user" or "assistant") and a text.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", as_text("the input of an example", self.input))
        object.__setattr__(self, "answers", as_texts(f"the answers of the example {brief(self.input)}", self.answers))
        if not self.answers:
            raise TaskError(f"the example {brief(self.input)} to have one answer or more", "none")
        object.__setattr__(self, "options", as_texts(f"the options of the example {brief(self.input)}", self.options))
        if self.options and not {*self.answers} < {*self.options}:
            raise TaskError(
                f"the answers of the example {brief(self.input)} to be some of its options, not all",
                f"{few(map(brief, self.answers))} of {few(map(brief, self.options))}",
            )
        if self.instruction is not None:
            own = as_text(f"the instruction of the example {brief(self.input)}", self.instruction)
            object.__setattr__(self, "instruction", own)


def as_text(what: str, value: object) -> str:
    """``value`` without surrounding whitespace, or a TaskError naming ``what`` if it is not a text or is blank."""
    if not isinstance(value, str):
        raise TaskError(f"{what} to be a text", f"{brief(value)} ({type(value).__name__})")
    if not value.strip():
        raise TaskError(f"{what} to be a text that is not blank", repr(value))
    if not is_unicode(value):
        raise TaskError(f"{what} to be valid unicode", f"{brief(value)}, which holds half of a surrogate pair")
    return value.strip()


def is_unicode(text: str) -> bool:
    """Whether ``text`` can be encoded, that is, has no lone surrogates."""
    return SURROGATE.search(text) is None


def as_texts(what: str, value: object) -> tuple[str, ...]:
    """One text, or a list or tuple of them, as a tuple without repetitions, or a TaskError that names ``what``."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        raise TaskError(f"{what} to be a text or a list of texts", f"{brief(value)} ({type(value).__name__})")
    return tuple(dict.fromkeys(as_text(what, text) for text in texts))
