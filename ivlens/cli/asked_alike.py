"""Options that differ from their defaults, as words of another command line that is to ask alike."""

import argparse
import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from .options import Parameter

LOADING = ("device", "dtype", "tokenizer")
CHAT = ("format", "system", "assistant_prefix", "date")
CHOSEN_ANEW = ("n_test", "general")  # by the further command itself


def changed(options: argparse.Namespace, names: Iterable[str], generated: Mapping[str, Parameter]) -> list[str]:
    """The options of these names that were given, as another verb's ``generated`` ones."""
    words = []
    for name in names:
        value = getattr(options, name)
        if value is not None and value != generated[name].default:
            words += _option(generated[name].flag, value)
    return words


def of_template(options: argparse.Namespace) -> list[str]:
    """The options of the chat template."""
    return [word for each in options.template_option for word in ("--template-option", _assigned(each))]


def of_files(options: argparse.Namespace) -> list[str]:
    """How task files are read and asked, but for a cloze, which not every verb takes."""
    words = []
    for name in ("fields", "labels"):
        words += [f"--{name}", *getattr(options, name)] if getattr(options, name) else []
    if options.scoring:
        words += ["--scoring", *map(_assigned, options.scoring)]
    return words


def of_instruction(options: argparse.Namespace) -> list[str]:
    """The instruction of tasks that hold none; it is refused where every task has its own."""
    return _option("--instruction", options.instruction) if options.instruction else []


def of_cloze(options: argparse.Namespace) -> list[str]:
    """The cloze of task files, which not every verb takes."""
    return _option("--cloze", options.cloze) if options.cloze else []


def of_comparison(options: argparse.Namespace) -> dict[str, str]:
    """How ``ivlens compare`` was asked, in the groups that further commands take: the report's advice repeats them."""
    generated = options.verb.by_name()
    prompts = ("shots", *CHAT)
    measures = [name for name in options.verb.names("CheckpointConfig") if name not in (*prompts, *CHOSEN_ANEW)]
    groups = {
        "loading": changed(options, LOADING, generated),
        "prompts": [*changed(options, prompts, generated), *of_template(options)],
        "task files": of_files(options),
        "instruction": of_instruction(options),
        "cloze": of_cloze(options),
        "measures": changed(options, measures, generated),
        "test prompts": changed(options, ["n_test"], generated),
    }
    return {name: shlex.join(words) for name, words in groups.items() if words}


def _option(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _assigned(option: tuple[str, object]) -> str:
    name, value = option
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"
