"""Models, tasks and the arguments of Python functions from the parsed options."""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from ..effects.checks import check_method, check_stream_dtype
from ..errors import ArgumentError, few
from ..models import PACKAGED, Model, load_model
from ..tasks import (
    AnyFormat,
    Chat,
    Task,
    check_available,
    clean_instruction,
    list_tasks,
    load_task,
    members,
)
from ..tasks.judging import Scoring, read_scoring
from ..vocabulary import Split
from .options import DTYPES, columns_of

CONFIG = "config.json"
OF_FILES = ("fields", "labels", "cloze", "scoring")  # options that say how task files are read
log = logging.getLogger("ivlens")


def given(options: argparse.Namespace, source: str) -> dict[str, Any]:
    """The arguments of a function or config that the options give, names of dtypes as torch's."""
    prefix = options.verb.options_of(source).prefix
    values = {name: getattr(options, prefix + name) for name in options.verb.names(source)}
    dtypes = {name: getattr(torch, value) for name, value in values.items() if name in DTYPES and value is not None}
    return values | dtypes | ({"format": _format(options)} if "format" in values else {})


def _format(options: argparse.Namespace) -> AnyFormat:
    """How the options say that tasks are asked."""
    chat = Chat(**given(options, "Chat"), template_options=dict(options.template_option))
    if options.format == "chat":
        return chat
    if chat.settings:
        flag = next(iter(chat.settings)).replace("_", "-").removesuffix("s")
        raise ArgumentError(f"--{flag} only with --format chat", f"--format {options.format}")
    return options.format


def read_model(options: argparse.Namespace, **others: Any) -> Model:
    """The model that the options name, with ``others`` in place of some options."""
    log.info(f"loading {options.model}")
    return load_model(options.model, **given(options, "load_model") | others)


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
    fields, own, instruction = columns_of(options.fields), overrides(options), options.instruction
    sources = [each for name in names for each in members(name)]
    check_for_files(sources, options)
    tasks = [load_task(each, **{} if each in list_tasks() else {"fields": fields, **own}) for each in sources]
    if instruction is None:
        return tasks
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


def check_locating(options: argparse.Namespace, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """The arguments of ``locate_heads`` for each task, refused as it would before a model is loaded for them.

    The chat format needs the model's tokenizer, so the labelled format stands in for it here.
    """
    asked = given(options, "locate_heads")
    check_method(asked["method"], asked["steps"], asked["stream_dtype"])
    check_stream_dtype(given(options, "load_model")["dtype"] or torch.float32, asked["stream_dtype"])
    return [_locating(task, asked) for task in tasks]


def _locating(task: Task, asked: dict[str, Any]) -> dict[str, Any]:
    """The arguments for one task."""
    settings = asked | cut_counts(task, asked["split"], **{name: asked[name] for name in ("n_clean", "n_corrupted")})
    instruction = clean_instruction(task, None, settings["shots"])
    drawn = {name: settings[name] for name in ("shots", "split", "seed", "corruption")}
    task.prompts(settings["n_corrupted"], instruction=instruction, **drawn)
    return settings


def model_shape(source: str, revision: str | None = None) -> tuple[int, int] | None:
    """Layers and heads per layer from the config of a local or cached model; None if it cannot be read."""
    try:
        local, packaged = Path(source).expanduser(), PACKAGED.get(source)
        folder = packaged.folder if packaged is not None and not local.exists() else local
        path = folder / CONFIG
        if not path.exists():
            path = Path(str(try_to_load_from_cache(source, CONFIG, revision=revision)))
        config = json.loads(path.read_text(encoding="utf-8"))
        return int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    except (OSError, ValueError, KeyError, TypeError):  # loading the model reports what is wrong
        return None
