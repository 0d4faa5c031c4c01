"""What the verbs share: their parsers, the model that they load, and how they print."""

import argparse
import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch

from ..errors import ArgumentError, few
from ..models import HookedTransformer, load_model
from ..records.text import one_line
from ..tasks import Task, load_task

DTYPES = ("float32", "float64", "bfloat16", "float16")
LONGEST = 1000  # letters of an error
WIDEST = 80  # letters of a text in a printed table


class Parser(argparse.ArgumentParser):
    """A parser, and those of its verbs, whose errors are a line of readable length."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what argparse would take for no value at all: an option with ``--`` as its value."""
        args = sys.argv[1:] if args is None else list(args)
        if empty := next((word for word in args if re.fullmatch("--[a-z-]+=--", word)), None):
            self.error(f"argument {empty.removesuffix('=--')}: '--' is no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with 2."""
        super().error(one_line(message, LONGEST))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and errors; argparse would go on in silence where a pipe is closed or a disk full."""
        print(message, end="", file=file or sys.stderr)


def add_verb(
    verbs: Any, name: str, run: Any, help: str, description: str, *, keeps: bool = False
) -> argparse.ArgumentParser:
    """A verb's parser, with --json, calling ``run`` with the parsed options; ``keeps``: finished parts in --out."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=description)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run, keeps=keeps)
    return parser


def a_path(text: str) -> Path:
    """A path that is not empty, as the name of an unset variable is."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


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
    add("--n-jobs", type=int, default=1, metavar="N", help="worker processes that share the work (default: 1)")


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
    return say_line


def say_line(words: str) -> None:
    """Print one line to stderr, whatever characters there are in names of tasks, models and files."""
    print(one_line(words), file=sys.stderr, flush=True)


@contextmanager
def shown_streams() -> Iterator[None]:
    """Within this context, characters that stdout and stderr have no encoding for are printed as escapes."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


@contextmanager
def short_warnings() -> Iterator[None]:
    """Within this context a warning that is shown is one line, without the place in the code that it comes from."""

    def shown(message: Warning | str, *_: Any, **__: Any) -> str:
        return f"ivlens: warning: {one_line(str(message).removeprefix('ivlens: '), LONGEST)}\n"

    before, warnings.formatwarning = warnings.formatwarning, shown
    try:
        yield
    finally:
        warnings.formatwarning = before


def show(options: argparse.Namespace, frames: dict[str, pd.DataFrame]) -> None:
    """Print frames under their titles, or with --json as one object of rows."""
    if options.json:
        rows = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}  # nan is null
        print(json.dumps(rows, indent=2))
    else:
        print("\n\n".join(f"{one_line(name)}\n\n{as_text(frame)}" for name, frame in frames.items()))


def as_text(frame: pd.DataFrame) -> str:
    """A frame as aligned text: texts to the left, on one line and not too long, numbers to the right."""
    left = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    texts = {name: [one_line(str(value), WIDEST) for value in frame[name]] for name in left}
    widths = {name: max(len(text) for text in [name, *texts[name]]) for name in left}
    shown = frame.assign(**texts).rename(columns={name: f"{name:<{width}}" for name, width in widths.items()})
    return shown.to_string(
        index=False,
        float_format="{:.3f}".format,
        formatters={f"{name:<{width}}": f"{{:<{width}}}".format for name, width in widths.items()},
    )
