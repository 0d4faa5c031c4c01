"""``ivlens tasks``: the built-in tasks, read from their files alone, since importing torch takes seconds."""

import argparse
import json
from importlib.resources import files
from typing import Any

from ..errors import ArgumentError

OF_ONE = ("fields", "labels", "cloze", "scoring", "instruction")  # options about one task
DATA = files(__package__.partition(".")[0]) / "tasks" / "data"


def run(options: argparse.Namespace) -> None:
    """Print one task, or the list of those built in."""
    if options.task is not None:
        from . import one_task

        one_task.run(options)
        return
    if given := [name for name in OF_ONE if vars(options)[name] is not None]:
        raise ArgumentError(f"a task beside --{given[0]}", "none", f"name it first: ivlens tasks TASK --{given[0]} ...")
    rows = built_in()
    print(json.dumps(rows, indent=2) if options.json else _as_text(rows))


def built_in() -> list[dict[str, Any]]:
    """Name, kind, number of examples and instruction of each built-in task, by name."""
    read = (json.loads(file.read_text(encoding="utf-8")) for file in DATA.iterdir() if file.name.endswith(".json"))
    rows = [
        {
            "task": task["name"],
            "kind": task["kind"],
            "examples": len(task["examples"]),
            "instruction": task["instructions"][0],
        }
        for task in read
    ]
    return sorted(rows, key=lambda row: str(row["task"]))


def _as_text(rows: list[dict[str, Any]]) -> str:
    """The rows under their names in columns, numbers right-aligned."""
    columns = [[name, *(str(row[name]) for row in rows)] for name in rows[0]]
    widths = [max(map(len, column)) for column in columns]
    numeric = [isinstance(value, int) for value in rows[0].values()]
    lines = zip(*columns, strict=True)
    return "\n".join(
        " ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )
