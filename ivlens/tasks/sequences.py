"""Sequences of tasks to learn one after the other: the papers', on the user's copy of their data, and built-in ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from os.path import expanduser
from pathlib import Path
from typing import Any, Literal

from ..checks import checked
from ..errors import TaskError, few
from ..text import did_you_mean
from .judging import GenerationScoring, Scoring
from .loading import load_task
from .task import Task

SequenceData = Literal["built-in", "Super-NaturalInstructions", "TRACE"]
_SEQUENCES = files(__package__) / "data" / "sequences"


@dataclass(frozen=True)
class TaskSequence:
    """Tasks to learn in this order, by the names that their data set gives them, and how answers to each are judged.

    A scoring of None is the task's own.
    """

    name: str
    tasks: tuple[str, ...]
    data: SequenceData
    about: str
    scorings: tuple[Scoring | None, ...]


def list_sequences() -> list[str]:
    """The names of the sequences that ``load_sequence`` knows.

    Example:
        >>> from ivlens.tasks import list_sequences
        >>> list_sequences()[0]
        'NI-Seq-C1'
    """
    return sorted(each.name.removesuffix(".json") for each in _SEQUENCES.iterdir())


def find_sequence(name: str) -> TaskSequence:
    """The sequence of this name.

    Raises:
        TaskError: there is none.

    Example:
        >>> from ivlens.tasks import find_sequence
        >>> find_sequence("NI-Seq-C1").tasks[0]
        'task195'
    """
    if name not in list_sequences():
        known = f"the name of a sequence: {', '.join(list_sequences())}"
        raise TaskError(known, name, did_you_mean(name, list_sequences()))
    facts: dict[str, Any] = json.loads((_SEQUENCES / f"{name}.json").read_text(encoding="utf-8"))
    scorings = tuple(_scoring(facts, task) for task in facts["tasks"])
    return TaskSequence(name, tuple(facts["tasks"]), facts["data"], facts["about"], scorings)


def _scoring(facts: Mapping[str, Any], task: str) -> Scoring | None:
    """How answers to a task are judged: as those to all, but for what its own facts say."""
    if "scoring" not in facts:
        return None
    own = facts["scoring"] | facts.get("scoring_of", {}).get(task, {})
    return GenerationScoring(**own | {"stop": tuple(own["stop"])})


@checked
def load_sequence(name: str, folder: str | Path | None = None) -> list[Task]:
    """The tasks of a sequence, in its order.

    The six sequences of arXiv 2502.11019 (``NI-Seq-C1`` to ``NI-Seq-M2``) are of Super-NaturalInstructions, whose
    ``tasks`` folder holds a file like ``task195_sentiment140_classification.json`` for each. Those of TRACE (arXiv
    2310.06762) have a folder for each task, with ``train.json``, ``eval.json`` and ``test.json``.

    Args:
        name: of the sequence, as ``tasks.list_sequences`` lists it.
        folder: your copy of the data set, for sequences that are not built in.

    Returns:
        The tasks. Those of Super-NaturalInstructions and TRACE generate their answers, which Rouge-L scores; of
        TRACE's C-STANCE, FOMC and ScienceQA the option's letter counts, of NumGLUE the last number.

    Raises:
        TaskError: no such sequence, no folder, or one without a task's file or with two; or a file cannot be read.

    Example:
        >>> [task.name for task in iv.load_sequence("words-a")][:2]
        ['word-topic', 'choose-last-of-3']
    """
    sequence = find_sequence(name)
    if sequence.data == "built-in":
        return [load_task(each) for each in sequence.tasks]
    if folder is None:
        raise TaskError(f"the folder with your copy of {sequence.data}, for {name}", "none", "pass folder=, or --data")
    found = [_locate(each, Path(expanduser(folder)), sequence.data) for each in sequence.tasks]
    missing = [each for each, path in zip(sequence.tasks, found, strict=True) if path is None]
    if missing:
        raise TaskError(f"the tasks of {name} in {folder}", f"nothing of {few(missing)}", _EXPECTED[sequence.data])
    return [load_task(path, scoring=scoring) for path, scoring in zip(found, sequence.scorings, strict=True)]


_EXPECTED: dict[str, str] = {
    "Super-NaturalInstructions": "it is the folder 'tasks' of the data set, with files like task195_*.json",
    "TRACE": "it is the data set's folder, in which every task has one with train.json and test.json",
}


def _locate(task: str, folder: Path, data: SequenceData) -> Path | None:
    """The file or folder of a task; None where there is none.

    Raises:
        TaskError: there are several files.
    """
    for inside in (folder, folder / "tasks"):
        if data == "TRACE" and (inside / task).is_dir():
            return inside / task
        if data == "Super-NaturalInstructions":
            files: Sequence[Path] = sorted(inside.glob(f"{task}_*.json*"))
            if len(files) > 1:
                came = few([path.name for path in files])
                raise TaskError(f"one file of {task} in {inside}", came, "move the others away")
            if files:
                return files[0]
    return None
