"""What was measured in a Trainer's run: abilities, their rows since the first step, and the files that keep them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.gating import Limit
from ..errors import ArgumentError, MismatchError, RecordError, few
from ..files import safe_name, short_hash
from ..records import TrainingRun
from ..records.abilities import is_ability
from ..records.tables import interval_in
from ..scoring import mean_chance
from ..stats import Interval, paired_drop
from ..training import Ability
from ..vectors import InstructionVector

OF_VECTOR = ("cosine", "norm_ratio", "alignment")  # measures of abilities with a vector alone
MEASURES = ("accuracy", "forgetting", "probability", *OF_VECTOR)
RECORD, VECTORS = "run.safetensors", "vectors"


@dataclass
class WatchedRun:
    """The measures of a run, one row per ability and measurement, kept in ``folder`` as a ``TrainingRun``.

    ``provenance`` is the base's. ``last_good`` is the name of the last checkpoint that was ``within`` all limits.
    """

    folder: Path
    abilities: tuple[Ability, ...]
    provenance: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    last_good: str | None = None

    @classmethod
    def begun(cls, folder: Path, abilities: Sequence[Ability], provenance: Mapping[str, Any]) -> "WatchedRun":
        """A run before its first step, its vectors saved."""
        for ability in abilities:
            if ability.vector is not None:
                ability.vector.save(_vector_file(folder, ability), overwrite=True)
        return cls(folder, tuple(abilities), dict(provenance))

    @classmethod
    def resumed(cls, folder: Path, abilities: Sequence[Ability], k: int, step: int) -> "WatchedRun":
        """A run that goes on after ``step`` steps, with what was measured up to there, and its base's vectors.

        Raises:
            RecordError: there is no record of its first steps, or a vector of its base is missing.
            MismatchError: other prompts were measured, or vectors of another number of heads.
        """
        if not (folder / RECORD).is_file():
            raise RecordError(
                f"the measures before the first step in {folder / RECORD}, to go on with", "no such file",
                "resume a run that had the callback from its first step, or leave the callback out",
            )  # fmt: skip
        record = TrainingRun.load(folder / RECORD)
        settings = record.provenance.get("settings", {})
        if settings.get("measured") != measured(abilities, k):
            raise MismatchError(
                f"a callback for the prompts and heads that {folder / RECORD} is about", "other ones",
                "give the callback the tasks and options that the run began with",
            )  # fmt: skip
        rows = [row for row in record.measured if row["step"] <= step]
        compared = {row["ability"] for row in rows if "cosine" in row}  # others' vectors are of an earlier run
        with_vectors = (_with_saved_vector(folder, each) if each.name in compared else each for each in abilities)
        good = settings.get("last_good_checkpoint")
        good = good if good is None or int(good.rpartition("-")[2]) <= step else None
        return cls(folder, tuple(with_vectors), dict(record.provenance), rows, last_good=good)

    @property
    def last_step(self) -> int:
        """The step at which abilities were measured last, -1 before the first time."""
        return max((row["step"] for row in self.rows), default=-1)

    def add(self, step: int, measures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Add what was measured after ``step`` steps; return its rows, with what was forgotten since the first ones."""
        first = self._first_rows()
        rows = []
        for row in measures:
            drop = paired_drop(*(_bits(each["correct"]) for each in (first.get(row["ability"], row), row)))
            lost = {"forgetting": drop.value, "forgetting_low": drop.low, "forgetting_high": drop.high}
            rows.append({"step": step, "role": "keep"} | dict(row) | lost)
        self.rows += rows
        return rows

    def exceeded(self, limits: Sequence[Limit]) -> str:
        """In words, the limits that were exceeded when abilities were measured last, after the first step.

        As for ``gate``, the whole 95% interval must lie beyond a limit; a measure without one counts as it is.
        """
        return ", ".join(text for limit in limits for row in self._held_to(limit) for text in _beyond(row, limit))

    def within(self, limits: Sequence[Limit]) -> bool:
        """Whether every limit could be judged when abilities were measured last, and none was exceeded.

        A limit on forgetting is judged where the model had something to forget, as for ``gate``.
        """
        for limit in limits:
            held = self._held_to(limit)
            if not held or any(isnan(row.get(limit.measure, nan)) for row in held):
                return False
        return not self.exceeded(limits)

    @property
    def able(self) -> set[str]:
        """The names of the abilities that the model showed when they were measured first."""
        chance = {each.name: mean_chance(each.prompts) for each in self.abilities}
        first = self._first_rows()
        return {
            name for name, row in first.items()
            if is_ability(Interval(row["accuracy"], row["low"], row["high"]), chance[name])
        }  # fmt: skip

    def _first_rows(self) -> dict[str, dict[str, Any]]:
        return {row["ability"]: row for row in reversed(self.rows)}

    def _held_to(self, limit: Limit) -> list[dict[str, Any]]:
        """The rows of the last measurement after the first step that a limit is for."""
        step, able = self.last_step, self.able
        rows = [row for row in self.rows if row["step"] == step] if step > 0 else []
        return [row for row in rows if limit.measure != "forgetting" or row["ability"] in able]

    def save(self, log_history: Sequence[Mapping[str, Any]]) -> Path:
        """Write the record, with the losses that the Trainer has logged."""
        losses = torch.tensor(mean_losses(log_history), dtype=torch.float64)[:, None]
        origin = dict(self.provenance)
        origin["settings"] = {**origin.get("settings", {}), "last_good_checkpoint": self.last_good}
        record = TrainingRun(losses, ("loss",), tuple(self.rows), self.stopped, provenance=origin)
        return record.save(self.folder / RECORD, overwrite=True)


def measured(abilities: Sequence[Ability], k: int) -> dict[str, Any]:
    """What the numbers of a run are about: its prompts, and how many heads its vectors have."""
    return {"prompts": {each.name: short_hash(each.prompts) for each in abilities}, "k": k}


def check_limits(limits: Sequence[Limit], without: Sequence[str]) -> None:
    """Raise ArgumentError for a limit on a measure that the abilities ``without`` a vector do not have.

    It would never be exceeded, however much is forgotten.
    """
    if without and (refused := [str(limit) for limit in limits if limit.measure in OF_VECTOR]):
        raise ArgumentError(
            f"limits on accuracy, forgetting or probability of what has no vector: {few(without)}",
            ", ".join(refused),
            "k=10 gives a task the vector of its 10 strongest heads, training.with_vector an Ability one of yours; "
            "else leave out the limit, or what has no vector",
        )


def mean_losses(log_history: Sequence[Mapping[str, Any]]) -> list[float]:
    """The loss of each step up to the last that a Trainer logged: what it logs is the mean since its log before."""
    losses: list[float] = []
    for row in log_history:
        if "loss" in row:
            losses += [float(row["loss"])] * (int(row["step"]) - len(losses))
    return losses


def _beyond(row: Mapping[str, Any], limit: Limit) -> Iterator[str]:
    value, low, high = interval_in({"accuracy_low": row["low"], "accuracy_high": row["high"], **row}, limit.measure)
    known = low == low
    if limit.outcome(*((low, high) if known else (value, value))) == "failed":
        interval = f", 95% interval {low:.3g} to {high:.3g}" if known else ""
        yield f"{limit} of {row['ability']} ({value:.3g}{interval})"


def _bits(correct: str) -> torch.Tensor:
    return torch.tensor([each == "1" for each in correct])


def _vector_file(folder: Path, ability: Ability) -> Path:
    return folder / VECTORS / f"{safe_name(ability.name)}.safetensors"


def _with_saved_vector(folder: Path, ability: Ability) -> Ability:
    return replace(ability, vector=InstructionVector.load(_vector_file(folder, ability)))
