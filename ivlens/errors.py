"""Every error that ivlens raises on purpose, each saying what was expected, what came, and what to do.

IvlensError
|-- ArgumentError       an argument outside its allowed values (also a ValueError)
|-- SourceError         a model source that cannot be found or read
|-- DownloadError       a packaged model could not be fetched or failed its checksum
|-- UnsupportedError    a model family or feature that would not be represented faithfully
|-- MismatchError       things that do not belong together: a vector and a model, two weight processings
|-- TaskError           a task, or a file of a task, that is malformed
|-- PromptError         a prompt or answer that cannot be tokenised or scored, or on which numbers are not finite
|-- HookError           a hook that never ran, or cannot run where it was asked to
|-- RecordError         a saved record that is missing, truncated, or of another kind
|-- WorkerError         a worker process that died, or that cannot do its work
`-- DivergedError       training whose loss or gradient is no finite number

FallbackWarning: a slower method is used than the one requested. PrecisionWarning: a number is near the noise of its
dtype. SourceWarning: what is loaded may not be what was meant.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from numbers import Number, Real
from pathlib import PurePath
from reprlib import Repr
from typing import Any

from .text import did_you_mean

NAMED, NAMED_BY = 3, 40  # prompts named in an error, at most, and the last characters that name one


class IvlensError(Exception):
    """Base of all ivlens errors; built from what was expected, what came, and what to do."""

    def __init__(self, expected: str, came: str = "", do: str = "") -> None:
        self.expected, self.came, self.do = expected, came, do
        parts = [f"expected {expected}", f"got {came}" if came else "", do]
        super().__init__("; ".join(part for part in parts if part))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.expected, self.came, self.do)


class ArgumentError(IvlensError, ValueError):
    """An argument outside its allowed values."""


class SourceError(IvlensError):
    """A model source that cannot be found or read."""


class DownloadError(IvlensError):
    """A packaged model could not be fetched or failed its checksum."""


class UnsupportedError(IvlensError):
    """A model family or feature that would not be represented faithfully."""


class MismatchError(IvlensError):
    """Things that do not belong together."""


class TaskError(IvlensError):
    """A task, or a file of a task, that is malformed."""


class PromptError(IvlensError):
    """A prompt or answer that cannot be tokenised or scored."""


class HookError(IvlensError):
    """A hook that never ran, or cannot run where it was asked to."""


class RecordError(IvlensError):
    """A saved record that is missing, truncated, or of another kind."""


class WorkerError(IvlensError):
    """A worker process that died, or that cannot do its work."""


class DivergedError(IvlensError):
    """Training whose loss or gradient is no finite number."""


class FallbackWarning(UserWarning):
    """A slower method is used, because the requested one would not represent the model faithfully."""


class PrecisionWarning(UserWarning):
    """A number is near the noise of the precision that it was computed in."""


class SourceWarning(UserWarning):
    """What is loaded may not be what was meant: another base, another tokenizer, code that is not run."""


def with_article(name: str) -> str:
    """A class name with "a" or "an" by its first letter; U counts as a consonant, as in "universal"."""
    return f"an {name}" if name[0] in "AEIOaeio" else f"a {name}"


class _Brief(Repr):
    """Short texts of values for messages; models and tensors by type and shape, since their own text is long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = 60

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python refuses to write out thousands of digits
            return f"<an integer of {x.bit_length():,} bits>"

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, tuple):  # one with names, such as a Head
            return self.repr_tuple(x, level)
        if x is None or isinstance(x, (Number, PurePath)):
            with suppress(ValueError):  # a fraction with thousands of digits
                return repr(x)[:60]
        shape = getattr(x, "shape", None)
        if not isinstance(shape, tuple):
            return with_article(type(x).__name__)
        facts = [str(getattr(x, name)) for name in ("dtype", "layout", "device") if hasattr(x, name)]
        return ", ".join([f"{with_article(type(x).__name__)} of shape {tuple(shape)}", *facts])


brief = _Brief().repr


def few(texts: Iterable[object], shown: int = 4) -> str:
    """The first few texts, shortened, and how many more there are, for a message."""
    listed = list(texts)
    more = f" and {len(listed) - shown:,} more" if len(listed) > shown else ""
    short = [_shortened(text) if isinstance(text, str) else brief(text) for text in listed[:shown]]
    return ", ".join(short) + more or "(none)"


def _shortened(text: str, letters: int = 60) -> str:
    return text if len(text) <= letters else f"{text[: letters - 3]}..."


def reason(error: BaseException, letters: int = 300) -> str:
    """The type and text of an error from Python or another library, in one line, for a message."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:letters]}{'...' if len(text) > letters else ''}"


def refuse_odd(what: str, prompts: Sequence[str], odd: Iterable[int], of: str = "") -> None:
    """Raise PromptError naming the prompts with the numbers ``odd``, if any: ``what`` is not finite on them.

    ``of`` says where in the model, if known.
    """
    numbers = sorted(set(odd))
    if not numbers:
        return
    names = [f"prompt {number + 1} ({prompts[number][-NAMED_BY:]!r})" for number in numbers[:NAMED]]
    more = [f"{len(numbers) - NAMED} more"] if len(numbers) > NAMED else []
    raise PromptError(
        f"finite {what} on every prompt", f"infinite values or not-a-numbers{of} on {', '.join(names + more)}",
        "half precision may overflow: load the model with dtype=torch.float32; or look for damaged weights",
    )  # fmt: skip


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ArgumentError unless ``value`` is among the ``allowed`` values of the option ``name``."""
    if value not in allowed:
        question = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise ArgumentError(f"{name} to be one of {', '.join(map(repr, allowed))}", brief(value), question)


def at_least(name: str, value: float, least: float) -> None:
    """Raise ArgumentError unless the option ``name`` is a number of ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, Real) or not value >= least:
        raise ArgumentError(f"{name} to be a number of {least} or more", brief(value))
