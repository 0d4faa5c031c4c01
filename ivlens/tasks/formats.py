"""How a prompt is written: a format is any callable from ``Turns`` to the text of a prompt.

A ``Composed`` text also gives the prompt's parts.
"""

from collections.abc import Callable, Sequence

from ..errors import PromptError, brief, few
from .parts import DEMONSTRATION, HISTORY, INSTRUCTION, QUERY, SEPARATOR, Composed, Part
from .turns import NEUTRAL, Turns

Format = Callable[[Turns], str]


def labelled(turns: Turns) -> str:
    """The instruction, then every demonstration and the query under the task's own labels ("Verb:", "Past tense:")."""
    return _fields(turns, turns.labels)


def plain(turns: Turns) -> str:
    """The instruction, then every demonstration and the query under "Input:" and "Output:"."""
    return _fields(turns, NEUTRAL)


def qa(turns: Turns) -> str:
    """The instruction, then every demonstration and the query under "Q:" and "A:"."""
    return _fields(turns, ("Q", "A"))


FORMATS: dict[str, Format] = {"labelled": labelled, "plain": plain, "qa": qa}


def write(format: Format, turns: Turns) -> str:
    """The text of a format.

    Raises: PromptError where it is no text, or lacks the options that are to be shown.
    """
    text = format(turns)
    if not isinstance(text, str):
        raise PromptError("a format that gives a text", brief(text))
    missing = [line for line in turns.options if line not in text]
    if missing:
        came = f"a text without {few(map(brief, missing))}"
        raise PromptError("a format that writes the options of Turns.options", came, "or pass scoring= without shown=")
    return text


def _fields(turns: Turns, labels: tuple[str, str]) -> Composed:
    """Paragraphs: an instruction where it changes, the turns of a history, and a question with its options."""
    input_label, output_label = (f"{label}:" for label in labels)
    paragraphs: list[list[Part]] = []
    instruction = None
    for question in turns.questions:
        if question.instruction not in (None, instruction):
            paragraphs.append([(INSTRUCTION, str(question.instruction))])
        instruction = question.instruction
        paragraphs += _history(question.history, labels)
        options = "".join(f"\n{line}" for line in question.options)
        texts = [input_label, f" {question.input}", options, f"\n{output_label}"]
        roles = QUERY if question.answer is None else DEMONSTRATION
        texts += [] if question.answer is None else [f" {question.answer}"]
        paragraphs.append([part for part in zip(roles, texts, strict=True) if part[1]])
    return Composed([part for each in paragraphs for part in [(SEPARATOR, "\n\n"), *each]][1:])


def _history(turns: Sequence[tuple[str, str]], labels: tuple[str, str]) -> list[list[Part]]:
    """A conversation before a question, as demonstrations are written; a system's text stands by itself."""
    names = {"system": "", "user": f"{labels[0]}: ", "assistant": f"{labels[1]}: "}
    paragraphs: list[list[Part]] = []
    for before, (role, text) in zip([None, *turns], turns, strict=False):
        if role == "assistant" and before is not None and before[0] == "user":
            paragraphs[-1].append((HISTORY, f"\n{names[role]}{text}"))
        else:
            paragraphs.append([(HISTORY, f"{names[role]}{text}")])
    return paragraphs
