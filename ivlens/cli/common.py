"""What the verbs share: their parsers, the model that they load, and how they print."""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from ..errors import ArgumentError, few
from ..models import HookedTransformer, load_model
from ..tasks import Task, load_task

DTYPES = ("float32", "float64", "bfloat16", "float16")


def add_verb(verbs: Any, name: str, run: Any, help: str, description: str) -> argparse.ArgumentParser:
    """A verb's parser, with --json, calling ``run`` with the parsed options."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=description)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)
    return parser


def add_model(add: Any) -> None:
    """The model argument and the options of how it is loaded."""
    add("model", metavar="MODEL", help="'smollm2', a Hugging Face hub name, a local folder, or a .gguf file")
    add("--adapter", help="PEFT adapter folder to merge into the model")
    add("--revision", help="revision on the Hugging Face hub")
    add_loading(add)


def add_loading(add: Any) -> None:
    """Where, in which precision and with which tokenizer models are loaded."""
    add("--tokenizer", help="folder, hub name or .gguf file with the tokenizer, in place of the model's own")
    add("--device", help="default: cuda where there is one")
    add("--dtype", choices=DTYPES, default="float32", metavar="DTYPE", help=f"{', '.join(DTYPES)} (default: float32)")


def add_jobs(add: Any) -> None:
    """How many processes share the work."""
    add("--jobs", type=int, default=1, metavar="N", help="worker processes that share the work (default: 1)")


def read_model(options: argparse.Namespace) -> HookedTransformer:
    """The model that the options name."""
    return load_model(
        options.model,
        device=options.device,
        dtype=getattr(torch, options.dtype),
        revision=options.revision,
        adapter=options.adapter,
        tokenizer=options.tokenizer,
    )


def read_task(name: str, instruction: str | None) -> Task:
    """The task that the options name, with the instruction for files that hold none."""
    return read_tasks([name], instruction)[0]


def read_tasks(names: list[str], instruction: str | None) -> list[Task]:
    """The tasks that the options name; those that hold no instruction get the one given.

    Raises: ArgumentError where an instruction is given, and every task holds its own.
    """
    tasks = [load_task(name) for name in names]
    if instruction is None:
        return tasks
    if all(task.instructions for task in tasks):
        held = few(f"{task.name!r}, which has {task.instructions[0]!r}" for task in tasks)
        raise ArgumentError("--instruction for a task that holds none", held, "leave the option out")
    return [task if task.instructions else replace(task, instructions=(instruction,)) for task in tasks]


def progress(options: argparse.Namespace) -> Any:
    """Progress goes to stderr, so that what is printed can be piped."""
    return lambda line: print(line, file=sys.stderr, flush=True)


def show(options: argparse.Namespace, frames: dict[str, pd.DataFrame]) -> None:
    """Print frames under their titles, or with --json as one object of rows."""
    if options.json:
        rows = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}  # nan is null
        print(json.dumps(rows, indent=2))
    else:
        print("\n\n".join(f"{name}\n\n{as_text(frame)}" for name, frame in frames.items()))


def as_text(frame: pd.DataFrame) -> str:
    """A frame as aligned text: texts to the left, numbers to the right."""
    left = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    widths = {name: max([len(name), *frame[name].astype(str).map(len)]) for name in left}
    formatters = {name: f"{{:<{width}}}".format for name, width in widths.items()}
    shown = frame.rename(columns={name: f"{name:<{width}}" for name, width in widths.items()})
    return shown.to_string(
        index=False,
        float_format="{:.3f}".format,
        formatters={f"{name:<{widths[name]}}": formatter for name, formatter in formatters.items()},
    )
