"""``ivlens tasks TASK``: one task, a prompt of it, and how its file was read."""

import argparse
import json
import warnings

from ..tasks import GenerationScoring, OptionScoring, Prompt, is_instructed, list_tasks, option_count, read_source
from ..text import one_line, visible
from .options import columns_of
from .task_reading import check_for_files, instructed, overrides


def run(options: argparse.Namespace) -> None:
    """Print one task."""
    name, own = options.task, overrides(options)
    check_for_files([name], options)
    reading = read_source(name, columns_of(options.fields), {} if name in list_tasks() else own)
    (task,) = instructed([reading.task], options.instruction)
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
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    lines = [one_line(f"{name}: {_as_words(value)}") for name, value in facts.items() if name != "prompt"]
    print(visible("\n".join([*lines, "", f"{prompt.text}{prompt.answers[0]}"])))
    if not is_instructed(task):
        print("\n(without an instruction; --instruction TEXT gives one, with which the task's labels are written)")


def _as_words(value: object) -> str:
    """The value of a fact; several texts with bars between them."""
    if isinstance(value, (tuple, list)):
        value = " | ".join(each.strip() for each in value)
    return "none" if value in (None, "") else str(value)


def _judging(prompt: Prompt) -> str:
    """What decides whether this prompt is answered right."""
    if isinstance(prompt.scoring, GenerationScoring):
        return f"the generated text ({prompt.scoring})"
    per = prompt.scoring.normalise if isinstance(prompt.scoring, OptionScoring) else "sum"
    if prompt.options:
        return "the option of highest log-likelihood" + ("" if per == "sum" else f" per {per}")
    return "greedy decoding, which is to give an accepted answer"
