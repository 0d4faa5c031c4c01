"""The built-in tasks' data: tasks of a word or two, and general abilities."""

import json
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from ..checks import checked
from .examples import Example
from .judging import OptionScoring

TaskKind = Literal[
    "classification", "extractive", "factual", "general ability", "grammatical", "lexical", "translation"
]  # fmt: skip
GENERAL: TaskKind = "general ability"
_DATA = files(__package__) / "data"


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(file.name.removesuffix(".json") for file in _DATA.iterdir() if file.name.endswith(".json")))


@checked
def list_tasks(kind: TaskKind | None = None) -> list[str]:
    """The names of the built-in tasks, sorted.

    Args:
        kind: "general ability": arithmetic, reading, commonsense and the like, most of them multiple choice; or what a
            task of a word or two asks for: "factual", "grammatical", "lexical", "extractive", "classification" or
            "translation"; None: tasks of every kind.

    Returns:
        Names that ``load_task`` takes.

    Raises:
        ArgumentError: another kind.

    Example:
        >>> "country-capital" in iv.list_tasks()
        True
        >>> iv.list_tasks("general ability")[:3]
        ['arithmetic', 'code-output', 'commonsense']
    """
    return [name for name in _names() if kind in (None, read_builtin(name)["kind"])]


def word_tasks() -> list[str]:
    """The names of the built-in tasks of a word or two: all but general abilities."""
    return [name for name in _names() if read_builtin(name)["kind"] != GENERAL]


def members(name: str) -> list[str]:
    """The tasks that a name on the command line stands for: "general" for the general abilities, else itself."""
    return list_tasks(GENERAL) if name == "general" else [name]


@cache
def read_builtin(name: str) -> dict[str, Any]:
    """The fields of the built-in task ``name``; a row of its file is an input, its answers and possibly its options."""
    fields: dict[str, Any] = json.loads((_DATA / f"{name}.json").read_text(encoding="utf-8"))
    scoring = fields.get("scoring")
    examples = tuple(Example(*row) for row in fields["examples"])
    return {**fields, "examples": examples, "scoring": None if scoring is None else OptionScoring(**scoring)}
