"""The built-in tasks' data."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

_DATA = files(__package__) / "data"


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(file.name.removesuffix(".json") for file in _DATA.iterdir() if file.name.endswith(".json")))


def list_tasks() -> list[str]:
    """The names of the built-in tasks, sorted.

    Returns:
        Names that ``load_task`` takes.

    Example:
        >>> "country-capital" in iv.list_tasks()
        True
    """
    return list(_names())


@cache
def read_builtin(name: str) -> dict[str, Any]:
    """The fields of the built-in task ``name``."""
    fields: dict[str, Any] = json.loads((_DATA / f"{name}.json").read_text(encoding="utf-8"))
    return fields
