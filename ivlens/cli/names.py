"""Names on the command line that lead to nothing, refused before libraries are imported, which takes seconds."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import SourceError
from ..tasks import list_tasks, load_task, members
from ..text import did_you_mean

MODELS = ("model", "base")
TASKS = ("task", "tasks", "keep", "learned", "others")
PACKAGED = ("smollm2", "gemma3-270m")  # written out: the packaged models are known to a room that imports torch


def check_names(options: argparse.Namespace) -> None:
    """Check that no name is almost that of a built-in task or of a packaged model.

    What else is wrong with them is found when they are read.

    Raises:
        TaskError: a task's name is almost that of a built-in one, and no file has it.
        SourceError: a model's name is almost that of a packaged one, and could not be one on the hub.
    """
    for model in _values(options, MODELS):
        _check_model(model)
    for task in _values(options, TASKS):
        for name in members(task):
            known = list_tasks()
            if name not in known and did_you_mean(name, known) and not Path(name).expanduser().exists():
                load_task(name)  # says which is meant


def _values(options: argparse.Namespace, names: Sequence[str]) -> Iterable[str]:
    """What is given for these arguments, one by one."""
    for name in names:
        value = vars(options).get(name) or ()
        yield from [value] if isinstance(value, str) else value


def _check_model(name: str) -> None:
    """Raise SourceError for a misspelt packaged model; the hub has no new names without an owner and a slash."""
    question = did_you_mean(name, PACKAGED)
    if name in PACKAGED or not question or any(each in name for each in "/\\") or Path(name).expanduser().exists():
        return
    remedy = f"{question} If not, give a Hugging Face hub name, OWNER/NAME, a local folder, or a .gguf file"
    raise SourceError(f"a readable model at {name}", "no such folder and no packaged model of that name", remedy)
