"""How answers of a task are judged: as options by likelihood, or as generated text; otherwise by greedy decoding."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal
from uuid import uuid4

from ..checks import Count, Fraction, checked
from ..errors import ArgumentError, TaskError, brief
from ..files import short_hash

Normalisation = Literal["sum", "token", "character"]
ShownOptions = Literal["none", "letters", "texts"]
ParserName = Literal["text", "first-line", "option-letter", "yes-no", "last-number"]
ScoreName = Literal["exact-match", "f1", "rouge-l"]


@checked
@dataclass(frozen=True)
class OptionScoring:
    """Multiple choice: the option of highest log-likelihood is the answer.

    Args:
        normalise: what options are compared by: "sum", the log-likelihood of the whole option; "token" or "character",
            the same per token or character, which does not favour short options.
        shown: how a prompt shows the options: "none"; "letters", a list from A, whose letters are then what is scored;
            "texts", a list whose texts are scored.

    Example:
        >>> iv.OptionScoring(normalise="character").shown
        'none'
    """

    normalise: Normalisation = "sum"
    shown: ShownOptions = "none"


@checked
@dataclass(frozen=True)
class GenerationScoring:
    """Generated text: greedy decoding, parsed, and scored against the accepted answers.

    Args:
        max_tokens: generated tokens, at most.
        stop: texts that end the answer and are not part of it; the end-of-text token always does.
        parse: what counts of the text: all of it, its first line, the letter of an option, yes or no, its last
            number; or a function from the text to what counts.
        score: how that is scored against the answers, the best of which counts: "exact-match" without regard to case,
            articles and punctuation, "f1" of words, "rouge-l" with stemming; or a function of the parsed text and the
            answers, from 0 to 1. A text in which nothing was found, "", scores 0.
        threshold: score from which an answer counts as correct.

    Raises:
        ArgumentError: a stop text that is empty.

    Example:
        >>> iv.GenerationScoring(max_tokens=64, stop=("\\n\\n",), score="rouge-l").parse
        'first-line'
    """

    max_tokens: Count = 32
    stop: tuple[str, ...] = ("\n",)
    parse: ParserName | Callable[[str], str] = "first-line"
    score: ScoreName | Callable[[str, Sequence[str]], float] = "exact-match"
    threshold: Fraction = 0.5

    def __post_init__(self) -> None:
        if not all(self.stop):
            raise ArgumentError("stop to be texts that are not empty", brief(self.stop))

    def __repr__(self) -> str:
        """As the dataclass has it, but for functions: keys of kept results are made of it."""
        values = (f"{each.name}={_named(getattr(self, each.name))}" for each in fields(self))
        return f"GenerationScoring({', '.join(values)})"


Scoring = OptionScoring | GenerationScoring


def read_scoring(facts: Any, origin: str) -> Scoring:
    """The scoring whose fields a task's file gives, those of options or of generated text.

    Raises: TaskError for fields that neither has, and values that they cannot have.
    """
    for kind in (OptionScoring, GenerationScoring):
        if isinstance(facts, Mapping) and facts.keys() <= {each.name for each in fields(kind)}:
            values: dict[str, Any] = {
                name: tuple(each) if isinstance(each, list) else each for name, each in facts.items()
            }
            try:
                return kind(**values)
            except ArgumentError as error:
                raise TaskError(f"the scoring of {origin}: {error.expected}", error.came) from error
    raise TaskError(f"the scoring of {origin} to have the fields of OptionScoring or GenerationScoring", brief(facts))


def is_lasting(judged: Iterable[Any]) -> bool:
    """Whether the repr of these prompts, or tasks, names for good the functions that judge them, if any.

    It does where a function has a name, and its source is known and all there is to it: no lambda, no closure, no
    names from outside but those of modules.
    """
    scorings = (each.scoring for each in judged)
    functions = (
        function for scoring in scorings if isinstance(scoring, GenerationScoring)
        for function in (scoring.parse, scoring.score) if callable(function)
    )  # fmt: skip
    return all(_identity(function) is not None for function in functions)


_unnamed: list[tuple[Callable[..., Any], str]] = []  # held, so that none is taken for another one


def _named(value: object) -> str:
    """A repr; a function's is by its module, name and source, or else a name that nothing else has."""
    if not callable(value):
        return repr(value)
    if identity := _identity(value):
        return identity
    if value not in (function for function, _ in _unnamed):
        _unnamed.append((value, uuid4().hex))
    return next(f"<{name}>" for function, name in _unnamed if function == value)


def _identity(function: Callable[..., Any]) -> str | None:
    if not inspect.isfunction(function) or function.__closure__ or "<lambda>" in function.__qualname__:
        return None
    if not all(map(inspect.ismodule, inspect.getclosurevars(function).globals.values())):
        return None
    source = _source_hash(function)
    return source and f"<{function.__module__}.{function.__qualname__} {source}>"


@cache
def _source_hash(function: Callable[..., Any]) -> str | None:
    try:
        return short_hash(inspect.getsource(function))
    except (OSError, TypeError):
        return None
