"""Models and the arguments of Python functions from the parsed options."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..effects.checks import check_method, check_race, check_stream_dtype
from ..errors import ArgumentError
from ..models import Model, load_model, provenance
from ..records import Record, check_replaceable
from ..tasks import AnyFormat, Chat, Task, clean_instruction
from .options import DTYPES
from .task_reading import cut_counts

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


def check_records(model: Model, files: Mapping[Path, type[Record]]) -> None:
    """Try that records of this model may replace what is there, before they are measured.

    Raises: RecordError that names a record of other weights, or something else.
    """
    for file, kind in files.items():
        check_replaceable(file, kind, provenance(model))


def check_locating(options: argparse.Namespace, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """The arguments of ``locate_heads`` for each task, refused as it would before a model is loaded for them.

    The chat format needs the model's tokenizer, so the labelled format stands in for it here.
    """
    asked = given(options, "locate_heads") | {"k": options.k}
    check_method(asked["method"], asked["steps"], asked["stream_dtype"])
    check_race(asked["race"], asked["method"])
    check_stream_dtype(given(options, "load_model")["dtype"] or torch.float32, asked["stream_dtype"])
    counts = {asked["split"]: {name: asked[name] for name in ("n_clean", "n_corrupted")}}
    cuts = cut_counts(tasks, counts, options.verb.defaults())
    return [_locating(task, asked | cut) for task, cut in zip(tasks, cuts, strict=True)]


def _locating(task: Task, settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments for one task, once its prompts can be drawn."""
    instruction = clean_instruction(task, None, settings["shots"])
    drawn = {name: settings[name] for name in ("shots", "split", "seed", "corruption")}
    task.prompts(settings["n_corrupted"], instruction=instruction, **drawn)
    return settings
