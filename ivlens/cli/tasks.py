"""``ivlens tasks``: the built-in tasks, or one task, a prompt of it, and how its file was read."""

import argparse
import json
import warnings
from typing import Any

import pandas as pd

from ..tasks import GenerationScoring, OptionScoring, Prompt, list_tasks, load_task, option_count, read_source
from ..tasks.judging import Scoring
from ..text import one_line, visible
from .loading import read_judging
from .options import columns_of
from .tables import as_text


def run(options: argparse.Namespace) -> None:
    """Print one task, or the list of those built in."""
    if options.task is not None:
        _print_task(options.task, columns_of(options.fields), read_judging(options.task, options), options.json)
        return
    tasks = [load_task(name) for name in list_tasks()]
    rows = [
        {"task": task.name, "kind": task.kind, "examples": len(task.examples), "instruction": task.instructions[0]}
        for task in tasks
    ]
    print(json.dumps(rows, indent=2) if options.json else as_text(pd.DataFrame(rows)))


def _judging(prompt: Prompt) -> str:
    """What decides whether this prompt is answered right."""
    if isinstance(prompt.scoring, GenerationScoring):
        return f"the generated text ({prompt.scoring})"
    per = prompt.scoring.normalise if isinstance(prompt.scoring, OptionScoring) else "sum"
    if prompt.options:
        return "the option of highest log-likelihood" + ("" if per == "sum" else f" per {per}")
    return "greedy decoding, which is to give an accepted answer"


def _print_task(name: str, fields: Any, scoring: Scoring | None, as_json: bool) -> None:
    reading = read_source(name, fields, {} if scoring is None else {"scoring": scoring})
    task = reading.task
    for note in reading.notes:
        warnings.warn(note, stacklevel=2)
    shots = 2 if len(task.examples) >= 6 else 0  # half of them are for demonstrations, and one is the query
    prompt = task.prompts(1, shots=shots)[0]
    facts = {
        "name": task.name,
        "kind": task.kind,
        "read as": reading.format,
        "instructions": task.instructions,
        "labels": task.labels,
        "cloze": task.cloze,
        "examples": len(task.examples),
        "rows": reading.rows,
        "rows without an answer": reading.unanswered,
        "columns not read": [str(each) for each in reading.unread],
        "own instructions": sum(example.instruction is not None for example in task.examples),
        "with earlier turns": sum(bool(example.history) for example in task.examples),
        "options": option_count(task) if any(example.options for example in task.examples) else None,
        "judged by": _judging(prompt),
        "prompt": prompt.text,
        "answers": prompt.answers,
        "its options": prompt.options,
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    lines = [one_line(f"{name}: {value}") for name, value in facts.items() if name != "prompt"]
    print(visible("\n".join([*lines, "", f"{prompt.text}{prompt.answers[0]}"])))
