"""What a prompt asks: ``Turns``, which a format turns into text, question by question."""

from dataclasses import dataclass, replace
from string import ascii_uppercase as LETTERS

from ..errors import TaskError
from .examples import Example
from .judging import GenerationScoring, OptionScoring, Scoring, ShownOptions

NEUTRAL = ("Input", "Output")


@dataclass(frozen=True)
class Question:
    """One question as a prompt writes it, with its answer if it is a demonstration.

    ``options`` are the lines that show the options, as they are written: "A. red", "B. blue".
    """

    instruction: str | None
    history: tuple[tuple[str, str], ...]
    input: str
    options: tuple[str, ...]
    answer: str | None


@dataclass(frozen=True)
class Turns:
    """The input of a format: an instruction or None, the names of the fields, demonstrations, and the query.

    ``options`` are the lines that show the query's options, as they are written; () where they are not shown.
    ``history`` are the turns of a conversation before the query, pairs of a role ("system", "user", "assistant") and a
    text. ``shown`` says how demonstrations show theirs. With ``shared`` the instruction is that of all questions;
    without, it is the query's, and demonstrations have their own, or none. ``questions`` has all of it in order.

    Example:
        >>> from ivlens.tasks import Turns
        >>> Turns("Say the opposite.", ("Input", "Output"), (iv.Example("hot", "cold"),), "big").questions[0].answer
        'cold'
    """

    instruction: str | None
    labels: tuple[str, str]
    demonstrations: tuple[Example, ...]
    query: str
    options: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    shown: ShownOptions = "none"
    shared: bool = True

    @property
    def questions(self) -> list[Question]:
        """The demonstrations with their answers, then the query."""
        asked = [
            Question(
                self.instruction if self.shared else shot.instruction,
                shot.history,
                shot.input,
                option_lines(shot.options, self.shown),
                written_answers(shot, self.shown)[0],
            )
            for shot in self.demonstrations
        ]
        return [*asked, Question(self.instruction, self.history, self.query, self.options, None)]


def shown_options(scoring: Scoring | None) -> ShownOptions:
    """How prompts show options: as the scoring says, and as letters where the letter is what is parsed."""
    if isinstance(scoring, OptionScoring):
        return scoring.shown
    return "letters" if isinstance(scoring, GenerationScoring) and scoring.parse == "option-letter" else "none"


def unshown(scoring: Scoring | None) -> Scoring | None:
    """The scoring of prompts that show no options."""
    if isinstance(scoring, OptionScoring):
        return replace(scoring, shown="none")
    return scoring if shown_options(scoring) == "none" else None


def option_lines(options: tuple[str, ...], shown: ShownOptions) -> tuple[str, ...]:
    """The lines that show options: none, one "A. red" per option, or "Options:" and one "- red" per option."""
    if shown == "none" or not options:
        return ()
    if shown == "texts":
        return ("Options:", *(f"- {option}" for option in options))
    return tuple(f"{letter}. {option}" for letter, option in zip(letters_of(options), options, strict=True))


def written_options(example: Example, shown: ShownOptions) -> tuple[str, ...]:
    """What is scored as the options: their letters where these are shown, else their texts."""
    return letters_of(example.options) if shown == "letters" else example.options


def written_answers(example: Example, shown: ShownOptions) -> tuple[str, ...]:
    """The accepted answers as they are written: their letters where these are shown, else their texts."""
    if shown != "letters" or not example.options:
        return example.answers
    letters = dict(zip(example.options, letters_of(example.options), strict=True))
    return tuple(letters[answer] for answer in example.answers)


def letters_of(options: tuple[str, ...]) -> tuple[str, ...]:
    """The letters of options, from A.

    Raises: TaskError for more options than letters.
    """
    if len(options) > len(LETTERS):
        raise TaskError(f"at most {len(LETTERS)} options, to be shown by letters", f"{len(options)}", "show the texts")
    return tuple(LETTERS[: len(options)])
