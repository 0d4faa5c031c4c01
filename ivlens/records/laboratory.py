"""The laboratory's records on one model, and their tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from ..checks import checked
from ..files import safe_name
from ..vocabulary import Condition
from .effects import HeadEffects
from .steering import ConditionComparison, SteeringSweep, TransferMatrix
from .store import Record

R = TypeVar("R", bound=Record)

# columns of the tables -> their conditions, of which those of several seeds or tasks are averaged
CONTROLS = {
    **{name: name for name in (Condition.BARE, Condition.VECTOR, Condition.CLEAN, Condition.CLEAN_VECTOR)},
    **{name: name for name in (Condition.MEAN_DIFFERENCE, Condition.RANDOM_VECTOR, Condition.RANDOM_HEADS)},
    Condition.OTHER_VECTOR: Condition.TASK_VECTOR,
}
REMOVED = {
    "zero-ablated": Condition.ZERO_HEADS, "mean-ablated": Condition.MEAN_HEADS,
    "vector subtracted": Condition.MINUS_VECTOR,
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Laboratory:
    """The records of ``laboratory`` on one model, by the tasks' names.

    Args:
        effects: indirect effects of all heads on train prompts.
        sweeps: accuracy on validation prompts by layer, scale and number of heads.
        controls: on test prompts: bare, clean, with the vector, and with each control instead of it.
        necessity: on clean test prompts: with each task's heads ablated, or each task's vector subtracted.
        transfer: what the tasks share.

    Example:
        >>> list(lab.controls)
        ['next-word', 'its twin']
    """

    effects: dict[str, HeadEffects]
    sweeps: dict[str, SteeringSweep]
    controls: dict[str, ConditionComparison]
    necessity: dict[str, ConditionComparison]
    transfer: TransferMatrix

    @classmethod
    @checked
    def load(cls, folder: str | Path, tasks: Sequence[str]) -> "Laboratory":
        """Load the records that ``laboratory`` kept in a folder, without a model.

        Args:
            folder: the ``out`` of ``laboratory``.
            tasks: names of its tasks.

        Raises:
            RecordError: a record is missing or broken.
        """

        def read(what: str, kind: type[R]) -> dict[str, R]:
            return {task: kind.load(record_path(folder, what, task)) for task in tasks}

        return cls(
            read("effects", HeadEffects),
            read("sweep", SteeringSweep),
            read("controls", ConditionComparison),
            read("necessity", ConditionComparison),
            TransferMatrix.load(record_path(folder, "transfer")),
        )

    def controls_frame(self) -> pd.DataFrame:
        """One row per task: layer, scale and k, then accuracy under each condition, and the number of prompts n.

        Random vectors and random heads are means over seeds, those of another task over the other tasks.
        """
        rows = []
        for task, comparison in self.controls.items():
            row = {"task": task} | comparison.provenance["settings"]["steering"]
            row |= {str(name): _mean_accuracy(comparison, condition) for name, condition in CONTROLS.items()}
            rows.append(row | {"n": comparison.n})
        return pd.DataFrame(rows)

    def necessity_frame(self) -> pd.DataFrame:
        """One row per task: accuracy on clean prompts, whole and with heads ablated or a vector subtracted.

        Each intervention has two columns: with the task's own heads or vector, and the mean over the other tasks'.
        """
        rows = []
        for task, comparison in self.necessity.items():
            row = {"task": task, "clean": comparison.accuracy(Condition.CLEAN)}
            for name, condition in REMOVED.items():
                row[f"{name}, own"] = comparison.accuracy(condition.of(task))
                row[f"{name}, others"] = _mean_accuracy(comparison, condition, but=condition.of(task))
            row["random heads zeroed"] = _mean_accuracy(comparison, Condition.ZERO_RANDOM_HEADS)
            rows.append(row | {"n": comparison.n})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Laboratory({len(self.effects)} tasks: {', '.join(self.effects)})"


def record_path(folder: str | Path, what: str, task: str = "") -> Path:
    """The path of a record of one task, or of all tasks."""
    return Path(folder) / (f"{safe_name(task)}.{what}.safetensors" if task else f"{what}.safetensors")


def _mean_accuracy(comparison: ConditionComparison, condition: Condition, but: str = "") -> float:
    """Mean accuracy over the seeds or tasks of a condition."""
    names = [each for each in condition.among(comparison.conditions) if each != but]
    return sum(map(comparison.accuracy, names)) / len(names)
