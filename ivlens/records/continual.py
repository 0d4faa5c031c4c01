"""Record of tasks learned one after the other: what was measured of every ability after each of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import checked
from ..stats import Interval, change_over_tasks, mean_over_tasks, ratio_over_tasks, wilson_interval
from ..vocabulary import ContinualRole
from .html import block, frame_table
from .store import Record

OF_VECTORS = ("cosine", "norm_ratio", "alignment")
# columns with an entry for every prompt
PER_PROMPT = ("correct", "scores", "probabilities", *(f"{name}s" for name in OF_VECTORS))
COLUMNS = ["measure", "before", "after", "change", "low", "high", "tasks"]  # of the summary
# The measures of a sequence: the role and the value per prompt that each is a mean of.
MEANS: dict[str, tuple[ContinualRole, str]] = {
    "kept": ("keep", "scores"),
    "GP": ("zero-shot", "scores"),
    "IP": ("in-context", "scores"),
    "instruction probability": ("keep", "probabilities"),
    "knowledge probability": ("knowledge", "probabilities"),
}


@dataclass(frozen=True, eq=False)
class ContinualRun(Record):
    """A sequence of tasks as it was learned, and how all abilities fared.

    ``tasks`` are the names of the learned tasks in their order. ``measured`` has a mapping for each stage and ability:
    ``stage`` (how many tasks were learned before it was measured, 0 for the base), ``role`` ("new" for the tasks of the
    sequence; "keep" for old abilities; "zero-shot" and "in-context" for general ones; "knowledge" for old ones asked
    without an instruction), what ``training.measure`` returns, the accuracy of guesses (``chance``), and per prompt
    ``scores`` (0 to 1) and ``probabilities`` of the answer, and with a vector ``cosines``, ``norm_ratios`` and
    ``alignments``.

    Example:
        >>> sequence.tasks, sequence.stages
        (('first', 'second'), 2)
    """

    tasks: tuple[str, ...]
    measured: tuple[dict[str, Any], ...] = ()

    @property
    def stages(self) -> int:
        """How many tasks were learned when all abilities were last measured; some may have been measured since."""
        measured = Counter(int(row["stage"]) for row in self.measured)
        return max((stage for stage, count in measured.items() if count == max(measured.values())), default=0)

    def to_frame(self) -> pd.DataFrame:
        """One row per stage and ability."""
        return pd.DataFrame(list(self.measured)).drop(columns=[*PER_PROMPT], errors="ignore")

    @checked
    def matrix(self, role: ContinualRole = "new", what: Literal["scores", "probabilities"] = "scores") -> pd.DataFrame:
        """Mean score, or probability of the answer, of each ability of a role (columns) after each stage (rows).

        Args:
            role: "new", "keep", "knowledge", "zero-shot" or "in-context".
            what: "scores" or "probabilities".

        Returns:
            The frame, its index the number of learned tasks.
        """
        rows = [row for row in self.measured if row["role"] == role]
        values = {(row["ability"], row["stage"]): sum(row[what]) / len(row[what]) for row in rows}
        abilities, stages = (list(dict.fromkeys(row[name] for row in rows)) for name in ("ability", "stage"))
        frame = pd.DataFrame({each: [values.get((each, at)) for at in stages] for each in abilities}, dtype="float64")
        return frame.set_axis(pd.Index(stages, name="stage"))

    def curves(self) -> pd.DataFrame:
        """One row per measure and stage: stage, measure, value, low, high (95% interval over prompts), tasks.

        "learned" is the mean over the tasks learned so far, of the base over all of them; "AP" that of their scores
        right after each, and "Forget" what they have lost since, AP minus learned (from the second task on); "kept",
        "GP", "IP", the two probabilities and the measures of vectors are means over the abilities of their role, as in
        ``summary``. There is no row after a task where not all of these were measured, as with
        ``measure_after="last"``.
        """
        rows = []
        for stage in range(self.stages + 1):
            known = {row["ability"] for row in self.measured if (row["role"], row["stage"]) == ("new", stage)}
            # of the base, all that it will learn, as far as they are measured
            done = [task for task in self.tasks if task in known] if stage == 0 else self.tasks[:stage]
            now = [self._values("new", task, stage, "scores") for task in done if {*done} <= known]
            found = {"learned": now, "AP": self._right_after(stage) if now else [], "Forget": now if stage > 1 else []}
            found |= {name: self._all(role, stage, what) for name, (role, what) in MEANS.items()}
            found |= {name: self._of_vectors(stage, name) for name in OF_VECTORS}
            for name, values in found.items():
                if values:
                    mean = change_over_tasks(now, found["AP"]) if name == "Forget" else mean_over_tasks(values)
                    rows.append({"stage": stage, "measure": name, **mean._asdict(), "tasks": len(values)})
        return pd.DataFrame(rows)

    def _right_after(self, stage: int) -> list[Float[Tensor, " prompt"]]:
        """The scores on each of the first tasks right after it was learned."""
        return [self._values("new", task, at, "scores") for at, task in enumerate(self.tasks[:stage], 1)]

    def summary(self) -> pd.DataFrame:
        """One row per measure of the whole sequence: its value before and after, and the change with its interval.

        AP is the score on each new task right after it was learned, beside the base's; FP that on the same tasks at the
        end, beside AP, so that its change is minus what the papers call Forget; "kept" is the score on old abilities at
        the end, beside the base's, and "retained" that relative to the base's; "still right" is the share that is
        answered at the end of the old abilities' prompts that the base answers, so that what is newly right does not
        make up for what is lost (Wilson interval). GP and IP are the scores on general abilities without and with
        demonstrations; the probabilities are those of the answer to old abilities, with and without their instruction
        (arXiv 2406.12227, 2502.11019). Cosine, norm ratio and alignment are those of old abilities' vectors, each over
        as many prompts as were watched. Other intervals are 95% bootstraps over prompts, for a vector's measures of its
        jackknife values.
        """
        end = self.stages
        learned = self.tasks[:end]
        first = [self._values("new", task, 0, "scores") for task in learned]
        right_after = self._right_after(end)
        last = [self._values("new", task, end, "scores") for task in learned]
        rows = [_row("AP", first, right_after), _row("FP", right_after, last)]
        for name, (role, what) in MEANS.items():
            before, after = self._all(role, 0, what), self._all(role, end, what)
            rows.append(_row(name, before, after))
            if name == "kept":
                ratio = ratio_over_tasks(after, before) if after else None
                rows += [{**_row("retained", before, after), **_change(1.0, ratio)}, self._still_right(end)]
        for name in OF_VECTORS:
            rows.append(_row(name, *_alike(self._of_vectors(0, name), self._of_vectors(end, name))))
        return pd.DataFrame([row for row in rows if row["tasks"]], columns=COLUMNS)

    def _still_right(self, end: int) -> dict[str, Any]:
        """Of the prompts of old abilities that the base answers, the share that is answered after ``end`` tasks."""
        before, after = (
            {row["ability"]: row["correct"] for row in self.measured if (row["role"], row["stage"]) == ("keep", stage)}
            for stage in (0, end)
        )
        answered = [name for name in after if "1" in before[name]]
        right, n = still_right(*("".join(each[name] for name in answered) for each in (before, after)))
        share = Interval(right / n, *wilson_interval(right, n)) if n else None
        return {"measure": "still right", **_change(1.0, share), "tasks": len(answered)}

    def _of_vectors(self, stage: int, name: str) -> list[Float[Tensor, " prompt"]]:
        """The values of a measure of old abilities' vectors; of older records, the measure alone."""
        rows = [row for row in self.measured if (row["role"], row["stage"]) == ("keep", stage) and name in row]
        return [torch.tensor(row.get(f"{name}s", [row[name]]), dtype=torch.float64) for row in rows]

    @checked
    def final_scores(self, role: ContinualRole) -> dict[str, Float[Tensor, " prompt"]]:
        """The score of every prompt at the end, by the abilities of a role.

        Args:
            role: "new", "keep", "knowledge", "zero-shot" or "in-context".
        """
        return self._by_ability(role, self.stages, "scores")

    def _by_ability(self, role: ContinualRole, stage: int, what: str) -> dict[str, Tensor]:
        """A value per prompt of every ability of a role after a stage."""
        rows = [row for row in self.measured if row["role"] == role and row["stage"] == stage]
        return {row["ability"]: torch.tensor(row[what], dtype=torch.float64) for row in rows}

    def _values(self, role: ContinualRole, ability: str, stage: int, what: str) -> Float[Tensor, " prompt"]:
        """A value per prompt of one ability after a stage."""
        return self._by_ability(role, stage, what)[ability]

    def _all(self, role: ContinualRole, stage: int, what: str) -> list[Tensor]:
        """The values of all abilities of a role after a stage."""
        return [*self._by_ability(role, stage, what).values()]

    def _repr_html_(self) -> str:
        """What a notebook shows: the measures of the whole sequence."""
        shown = f"{self.stages} of {len(self.tasks)} tasks learned: {', '.join(self.tasks)}"
        return block("ContinualRun", shown, frame_table(self.summary()))


def still_right(before: str, after: str) -> tuple[int, int]:
    """How many prompts are right in both, and how many before: 1 for a right answer to a prompt, 0 for a wrong one."""
    both = [now == "1" for earlier, now in zip(before, after, strict=True) if earlier == "1"]
    return sum(both), len(both)


@checked
def compare_sequences(runs: Mapping[str, ContinualRun]) -> pd.DataFrame:
    """One row per run: what was learned, kept and known in general at the end of its sequence.

    Args:
        runs: by their names.

    Returns:
        The columns run, AP, FP, kept, retained, still_right, GP and IP, as ``ContinualRun.summary`` has them at the
        end; Forget, AP minus FP; and kept_change, what kept gained on the base, with its 95% interval, kept_low and
        kept_high.

    Example:
        >>> iv.compare_sequences({"plain": sequence})["run"].tolist()
        ['plain']
    """
    rows = []
    for name, run in runs.items():
        after = run.summary().set_index("measure")
        row: dict[str, Any] = {"run": name}
        named = ("AP", "FP", "kept", "retained", "still right", "GP", "IP")
        row |= {each.replace(" ", "_"): after["after"].get(each, float("nan")) for each in named}
        row["Forget"] = row["AP"] - row["FP"]
        row |= {f"kept_{name}": after[name].get("kept", float("nan")) for name in ("change", "low", "high")}
        rows.append(row)
    return pd.DataFrame(rows)


def _row(
    measure: str, before: Sequence[Float[Tensor, " prompt"]], after: Sequence[Float[Tensor, " prompt"]]
) -> dict[str, Any]:
    """A measure's means before and after, and the paired change."""
    before = before if after else []
    change = change_over_tasks(before, after)
    return {
        "measure": measure, "before": mean_over_tasks(before).value, "after": mean_over_tasks(after).value,
        "change": change.value, "low": change.low, "high": change.high, "tasks": len(after),
    }  # fmt: skip


def _alike(
    before: list[Float[Tensor, " _"]], after: list[Float[Tensor, " _"]]
) -> tuple[list[Float[Tensor, " prompt"]], list[Float[Tensor, " prompt"]]]:
    """Values of the same prompts; where a run was begun by a version that kept means alone, these."""
    if [each.shape for each in before] == [each.shape for each in after]:
        return before, after
    return [each.mean()[None] for each in before], [each.mean()[None] for each in after]


def _change(before: float, after: Interval | None) -> dict[str, float]:
    """A ratio beside 1: its change and that change's interval."""
    value, low, high = after or (float("nan"),) * 3
    return {"before": before, "after": value, "change": value - before, "low": low - before, "high": high - before}
