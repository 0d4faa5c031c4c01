"""``ivlens tasks``: the built-in tasks, or one task and a prompt of it."""

import argparse
import json

import pandas as pd

from ..tasks import list_tasks, load_task
from ..text import one_line, visible
from .tables import as_text


def run(options: argparse.Namespace) -> None:
    """Print one task, or the list of those built in."""
    if options.task is not None:
        _print_task(options.task, options.json)
        return
    tasks = [load_task(name) for name in list_tasks()]
    rows = [
        {"task": task.name, "kind": task.kind, "examples": len(task.examples), "instruction": task.instructions[0]}
        for task in tasks
    ]
    print(json.dumps(rows, indent=2) if options.json else as_text(pd.DataFrame(rows)))


def _print_task(name: str, as_json: bool) -> None:
    task = load_task(name)
    prompt = task.prompts(1)[0]
    facts = {
        "name": task.name,
        "kind": task.kind,
        "instructions": task.instructions,
        "labels": task.labels,
        "cloze": task.cloze,
        "examples": len(task.examples),
        "prompt": prompt.text,
        "answers": prompt.answers,
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    lines = [one_line(f"{name}: {value}") for name, value in facts.items() if name != "prompt"]
    print(visible("\n".join([*lines, "", f"{prompt.text}{prompt.answers[0]}"])))
