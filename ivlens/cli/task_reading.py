"""Tasks from the parsed options; nothing here needs a model, or torch, which takes seconds to import."""

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from ..errors import ArgumentError, few
from ..tasks import Task, check_available, list_tasks, load_task, members
from ..tasks.judging import Scoring, read_scoring
from ..vocabulary import Split
from .options import columns_of

OF_FILES = ("fields", "labels", "cloze", "scoring")  # options that say how task files are read
OF_SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("n_clean", "n_corrupted"), "validation": ("n_validation",), "test": ("n_test",),
}  # fmt: skip
log = logging.getLogger("ivlens")


class Cut(NamedTuple):
    """A task, and the option of a number of prompts of which its split has fewer."""

    task: str
    name: str
    n: int
    size: int
    split: Split

    @property
    def words(self) -> str:
        """Which option is cut."""
        return f"--{self.name.replace('_', '-')} is cut from {self.n}"


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
    return read_groups([names], options)[0]


def read_groups(groups: Sequence[Sequence[str]], options: argparse.Namespace) -> list[list[Task]]:
    """The tasks of each group of names, as ``read_tasks`` reads them; the options are for the tasks of all groups."""
    return instruct_groups(load_groups(groups, options), options.instruction)


def load_groups(groups: Sequence[Sequence[str]], options: argparse.Namespace) -> list[list[Task]]:
    """The tasks of each group of names, with no other instruction than their own."""
    fields, own = columns_of(options.fields), overrides(options)
    sources = [[each for name in names for each in members(name)] for names in groups]
    every = [each for group in sources for each in group]
    check_for_files(every, options)
    tasks = (load_task(each, **{} if each in list_tasks() else {"fields": fields, **own}) for each in every)
    return _grouped(tasks, sources)


def instruct_groups(groups: Sequence[Sequence[Task]], instruction: str | None) -> list[list[Task]]:
    """The tasks of each group; those without an instruction get the one given, which one of all has to need."""
    return _grouped(instructed([task for group in groups for task in group], instruction), groups)


def _grouped(tasks: Iterable[Task], groups: Sequence[Sequence[object]]) -> list[list[Task]]:
    """The tasks in groups of these groups' sizes."""
    rest = iter(tasks)
    return [[*islice(rest, len(group))] for group in groups]


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
        built_in = f"{few(sources)}, built in with its own" if sources else "none"
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


def cut_to_splits(tasks: Sequence[Task], config: Any) -> list[dict[str, int]]:
    """The counts of a config, cut to the splits of each task, which is said."""
    defaults = {each.name: each.default for each in fields_of(config)}
    counts: dict[Split, dict[str, int]] = {
        split: {name: getattr(config, name) for name in names if name in defaults} for split, names in OF_SPLITS.items()
    }
    return cut_counts(tasks, counts, defaults)


def cut_counts(
    tasks: Sequence[Task], counts: Mapping[Split, Mapping[str, int]], defaults: Mapping[str, Any]
) -> list[dict[str, int]]:
    """Numbers of prompts for each task; those larger than a split of it are cut, and it is said.

    Args:
        tasks: whose splits may be smaller.
        counts: by split, numbers of prompts by the names of their options.
        defaults: the defaults of these options.

    Raises: ArgumentError where a split is empty.
    """
    cuts: list[Cut] = []
    found: list[dict[str, int]] = []
    for task in tasks:
        cut: dict[str, int] = {}
        for split, asked in counts.items():
            size = len(task.split(split))
            if asked and not size:
                check_available(task, split, asked)
            cuts += [Cut(task.name, name, n, size, split) for name, n in asked.items() if n > size]
            cut |= {name: min(n, size) for name, n in asked.items()}
        found.append(cut)
    _say_cuts(cuts, defaults)
    return found


def _say_cuts(cuts: Sequence[Cut], defaults: Mapping[str, Any]) -> None:
    """A line for each count that was given, and one line for all that are defaults."""
    tasks: dict[str, dict[int, list[str]]] = {}
    for cut in cuts:
        if cut.n != defaults[cut.name]:
            log.info(f"{cut.task}: {cut.words} to {cut.size}, the number of examples in {cut.split!r}")
        else:
            tasks.setdefault(cut.words, {}).setdefault(cut.size, []).append(cut.task)
    if tasks:
        log.info(
            f"{'; '.join(f'{words} to {_by_size(each)}' for words, each in tasks.items())}; the splits hold no more"
        )


def _by_size(tasks: Mapping[int, Sequence[str]]) -> str:
    """Sizes of splits, each with its tasks."""
    return ", ".join(f"{size} ({', '.join(names)})" for size, names in tasks.items())
