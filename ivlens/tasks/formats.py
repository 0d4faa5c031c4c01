"""How a prompt is written: a format is any callable from ``Turns`` to the text of a prompt.

A ``Composed`` text also gives the prompt's parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .examples import Example
from .parts import DEMONSTRATION, INSTRUCTION, QUERY, SEPARATOR, Composed, Part

NEUTRAL = ("Input", "Output")


@dataclass(frozen=True)
class Turns:
    """The input of a format: an instruction or None, the names of the fields, demonstrations, and the query.

    ``options`` are those shown after the query; ``history`` are earlier turns, pairs of a role and a text.
    """

    instruction: str | None
    labels: tuple[str, str]
    demonstrations: tuple[Example, ...]
    query: str
    options: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()


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


def _fields(turns: Turns, labels: tuple[str, str]) -> Composed:
    input_label, output_label = (f"{label}:" for label in labels)
    blocks: list[list[Part]] = [] if turns.instruction is None else [[(INSTRUCTION, turns.instruction)]]
    for shot in turns.demonstrations:
        texts = input_label, f" {shot.input}", f"\n{output_label}", f" {shot.answers[0]}"
        blocks.append([*zip(DEMONSTRATION, texts, strict=True)])
    blocks.append([*zip(QUERY, (input_label, f" {turns.query}", f"\n{output_label}"), strict=True)])
    return Composed([part for block in blocks for part in [(SEPARATOR, "\n\n"), *block]][1:])
