"""Tasks from the parsed options; nothing here needs a model, or torch, which takes seconds to import."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import ArgumentError, few
from ..tasks import Task, check_available, list_tasks, load_task, members
from ..tasks.judging import Scoring, read_scoring
from ..vocabulary import Split
from .options import columns_of

OF_FILES = ("fields", "labels", "cloze", "scoring")  # options that say how task files are read
log = logging.getLogger("ivlens")


def read_task(name: str, options: argparse.Namespace) -> Task:
    """The task that the options name; a file without an instruction gets the one given."""
    check_one(name)
    return read_tasks([name], options)[0]


def check_one(name: str) -> None:
    """Raise ArgumentError for a name of several tasks."""
    if len(members(name)) > 1:
        raise ArgumentError("the name of one task", f"{name!r}, which are {len(members(name))}", "name one of them")


def read_tasks(names: Sequence[str], options: argparse.Namespace) -> list[Task]:
    """The tasks that the options name, "general" for all abilities; those without an instruction get the one given.

    Raises: ArgumentError where an instruction is given, but every task has its own; or what is said of task files, but
        every task is built in.
    """
    fields, own = columns_of(options.fields), overrides(options)
    sources = [each for name in names for each in members(name)]
    check_for_files(sources, options)
    tasks = [load_task(each, **{} if each in list_tasks() else {"fields": fields, **own}) for each in sources]
    return instructed(tasks, options.instruction)


def instructed(tasks: Sequence[Task], instruction: str | None) -> list[Task]:
    """The tasks; those without an instruction get the one given.

    Raises: ArgumentError where one is given, but every task has its own.
    """
    if instruction is None:
        return [*tasks]
    if all(map(_instruction, tasks)):
        held = few(f"{task.name!r}, which has {_instruction(task)!r}" for task in tasks)
        raise ArgumentError("--instruction for a task that holds none", held, "leave the option out")
    return [task if _instruction(task) else replace(task, instructions=(instruction,)) for task in tasks]


def check_for_files(sources: Sequence[str], options: argparse.Namespace) -> None:
    """Raise ArgumentError for an option about task files where every task is built in."""
    given = [name for name in OF_FILES if vars(options).get(name) is not None]
    if given and all(source in list_tasks() for source in sources):
        built_in = f"{few(sources)}, built in with its own"
        raise ArgumentError(f"--{given[0]} with a task file", built_in, "leave the option out")


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of task files in place of what these hold."""
    said = {name: vars(options).get(name) for name in ("labels", "cloze")} | {"scoring": read_judging(options)}
    return {name: tuple(value) if name == "labels" else value for name, value in said.items() if value is not None}


def read_judging(options: argparse.Namespace) -> Scoring | None:
    """How answers of task files are judged, where the options say so."""
    if options.scoring is None:
        return None
    return read_scoring({name.replace("-", "_"): value for name, value in options.scoring}, "--scoring")


def _instruction(task: Task) -> str | None:
    """The instruction that a task holds, or the first of its examples' where all of them have one."""
    if task.instructions:
        return task.instructions[0]
    own = [example.instruction for example in task.examples]
    return own[0] if all(own) else None


def cut_counts(task: Task, split: Split, **counts: int) -> dict[str, int]:
    """Numbers of prompts, by the names of their options; those larger than a split of the task are cut, and it is said.

    Raises: ArgumentError where the split is empty.
    """
    size = len(task.split(split))
    if not size:
        check_available(task, split, counts)
    for name, n in counts.items():
        if n > size:
            flag = f"--{name.replace('_', '-')}"
            log.info(f"{task.name}: {flag} is cut from {n} to {size}, the number of examples in {split!r}")
    return {name: min(n, size) for name, n in counts.items()}


def cut_to_splits(task: Task, config: Any) -> dict[str, int]:
    """The counts of a config, cut to the splits of one task, which is said."""
    of_splits: dict[Split, tuple[str, ...]] = {
        "train": ("n_clean", "n_corrupted"), "validation": ("n_validation",), "test": ("n_test",),
    }  # fmt: skip
    cut: dict[str, int] = {}
    for split, names in of_splits.items():
        cut |= cut_counts(task, split, **{name: getattr(config, name) for name in names if hasattr(config, name)})
    return cut
