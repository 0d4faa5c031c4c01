"""Models, tasks and the arguments of Python functions from the parsed options."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from ..errors import ArgumentError, few
from ..models import HookedTransformer, load_model
from ..tasks import Task, clean_instruction, load_task
from .options import DTYPES

CONFIG = "config.json"


def given(options: argparse.Namespace, source: str) -> dict[str, Any]:
    """The arguments of a function or config from the options, with names of dtypes as torch's dtypes."""
    values = {name: getattr(options, name) for name in options.verb.names(source)}
    dtypes = {name: getattr(torch, value) for name, value in values.items() if "dtype" in name and value in DTYPES}
    return values | dtypes


def read_model(options: argparse.Namespace) -> HookedTransformer:
    """The model that the options name."""
    return load_model(options.model, **given(options, "load_model"))


def read_task(name: str, instruction: str | None) -> Task:
    """The task that the options name; a file without an instruction gets the one given."""
    return read_tasks([name], instruction)[0]


def read_tasks(names: Sequence[str], instruction: str | None) -> list[Task]:
    """The tasks that the options name; those without an instruction get the one given.

    Raises: ArgumentError where an instruction is given, but every task has its own.
    """
    tasks = [load_task(name) for name in names]
    if instruction is None:
        return tasks
    if all(task.instructions for task in tasks):
        held = few(f"{task.name!r}, which has {task.instructions[0]!r}" for task in tasks)
        raise ArgumentError("--instruction for a task that holds none", held, "leave the option out")
    return [task if task.instructions else replace(task, instructions=(instruction,)) for task in tasks]


def check_prompts(task: Task, settings: dict[str, Any]) -> None:
    """Raise the errors that ``locate_heads`` would raise for the task's prompts, before a model is loaded.

    The chat format needs the model's tokenizer, so the labelled format stands in for it here.
    """
    clean_instruction(task, None, settings["shots"])
    draw = partial(task.prompts, shots=settings["shots"], split=settings["split"], seed=settings["seed"])
    draw(settings["n_clean"])
    draw(settings["n_corrupted"], corruption=settings["corruption"])


def model_shape(source: str, revision: str | None = None) -> tuple[int, int] | None:
    """Layers and heads per layer from the config of a local or cached model; None if it cannot be read."""
    try:
        local = Path(source).expanduser() / CONFIG
        path = local if local.exists() else try_to_load_from_cache(source, CONFIG, revision=revision)
        config = json.loads(Path(str(path)).read_text(encoding="utf-8"))
        return int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    except (OSError, ValueError, KeyError, TypeError):  # loading the model reports what is wrong
        return None
