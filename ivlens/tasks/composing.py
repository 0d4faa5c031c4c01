"""The turns of each query of a task: its instruction, and the demonstrations before it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .examples import Example
from .judging import Scoring
from .turns import NEUTRAL, Turns, option_lines, shown_options

if TYPE_CHECKING:
    from .task import Task


def has_own_instructions(task: "Task") -> bool:
    """Whether an example has an instruction of its own."""
    return any(example.instruction is not None for example in task.examples)


def is_instructed(task: "Task") -> bool:
    """Whether a task has instructions, or its examples have some of their own."""
    return bool(task.instructions) or has_own_instructions(task)


def own_instruction(task: "Task") -> str | None:
    """The instruction for a query of another task, where this one has none but those of its examples."""
    own = (example.instruction for example in task.examples if example.instruction is not None)
    return None if task.instructions else next(own, None)


def turns_of(
    task: "Task",
    queries: Sequence[Example],
    shots: int,
    instruction: bool | int | str,
    seed: int,
    scoring: Scoring | None,
) -> list[Turns]:
    """What a task asks for each query; ``scoring`` is that of the queries' task, and says how their options are shown.

    Raises: ArgumentError for more shots than there are, or an instruction that the task has not.
    """
    text = _instruction(task, instruction)
    labels = NEUTRAL if instruction is False else task.labels
    pool = [*task.split("train"), *task.demonstrations]
    same = Counter(example.asked for example in pool)
    own = not isinstance(instruction, str) and instruction is not False and has_own_instructions(task)
    shown, query_shown = shown_options(task.scoring), shown_options(scoring)
    all_turns = []
    for query in queries:
        alike = max(1, sum(same[asked] for asked in _answered_by(query)))
        drawn = _demonstrations(task.name, pool, query, shots, alike, seed)
        if own:
            drawn = tuple(replace(shot, instruction=shot.instruction or text) for shot in drawn)
        asked = (query.instruction if own else None) or text
        lines = option_lines(query.options, query_shown)
        all_turns.append(Turns(asked, labels, drawn, query.input, lines, query.history, shown, not own))
    return all_turns


def _answered_by(query: Example) -> set[tuple[Any, ...]]:
    """The questions, see ``Example.asked``, whose answer may be the query's: its own, and the same without options."""
    return {query.asked, replace(query, options=()).asked}


def _demonstrations(
    name: str, pool: list[Example], query: Example, shots: int, same: int, seed: int
) -> tuple[Example, ...]:
    """Some examples, determined by seed and query, without the ``same`` of them that would give its answer away."""
    drawn = Random(f"{name}:{seed}:{query.input}").sample(pool, min(shots + same, len(pool)))
    kept = tuple(example for example in drawn if example.asked not in _answered_by(query))[:shots]
    if len(kept) < shots:
        raise ArgumentError(
            f"shots to be at most {len(kept)}, the examples in the training half of {name!r} beside the query",
            str(shots),
        )
    return kept


def _instruction(task: "Task", instruction: bool | int | str) -> str | None:
    if instruction is False:
        return None
    if isinstance(instruction, str):
        if not instruction.strip():
            raise ArgumentError("instruction to be a text that is not blank", repr(instruction), "False is none")
        return instruction
    if instruction is True and not task.instructions and has_own_instructions(task):
        return None
    if not task.instructions:
        raise ArgumentError(
            f"a task with instructions, since instruction={instruction!r}",
            f"{task.name!r} without any",
            "pass instructions= to load_task, --instruction to a command, your own text as instruction=, or "
            "instruction=False",
        )
    if instruction is True:
        return task.instructions[0]
    if not 0 <= instruction < len(task.instructions):
        raise ArgumentError(f"instruction to be from 0 to {len(task.instructions) - 1}", repr(instruction))
    return task.instructions[instruction]
