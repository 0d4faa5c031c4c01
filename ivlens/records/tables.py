"""The tables behind figures and reports, computed from records; ``views/`` only draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from ..errors import RecordError
from ..stats import Interval, t_quantile
from ..vocabulary import RECOVERY_CONDITIONS, Condition
from .checkpoints import MATRICES, CheckpointComparison
from .effects import Head
from .training import TrainingRun

NOT_TERMS = ("learning_rate", "gradient_norm", "seconds")  # columns of a run that are not terms of its loss
PAIR_TENSORS = ("aie", "stderr", "alignment", "stream_cosine", "cka", "head_cosine", "head_norm")
ABILITY_MEASURES = ("accuracy", "cosine", "norm_ratio", "alignment")


def measure_table(comparison: CheckpointComparison, column: str) -> pd.DataFrame:
    """One column of the comparison as [checkpoint, task], missing where unknown."""
    checkpoints, tasks = list(comparison.checkpoints), list(comparison.tasks)
    found = {(row["checkpoint"], row["task"]): row.get(column, np.nan) for row in comparison.rows}
    if len(found) < len(comparison.rows):
        raise RecordError("one row per checkpoint and task", f"{len(comparison.rows)} rows for {len(found)} of them")
    return pd.DataFrame(
        [[found.get((each, task), np.nan) for task in tasks] for each in checkpoints], checkpoints, tasks
    )


def measure_values(comparison: CheckpointComparison, column: str) -> pd.DataFrame:
    """``measure_table`` of numbers, not a number where unknown."""
    table = measure_table(comparison, column)
    numbers = pd.to_numeric(pd.Series(table.to_numpy(object).ravel()), errors="coerce").to_numpy(float, na_value=np.nan)
    return pd.DataFrame(numbers.reshape(table.shape), table.index, table.columns)


def is_measured(comparison: CheckpointComparison, column: str) -> bool:
    """Whether the measure is known for at least one task of one checkpoint."""
    return bool(measure_values(comparison, column).notna().to_numpy().any())


def measure_interval(comparison: CheckpointComparison, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The 95% interval of a measure, each bound as [checkpoint, task]: its own, or from its standard error."""
    value, counts = measure_values(comparison, column), measure_values(comparison, "n")
    margin = measure_values(comparison, f"{column}_stderr") * counts.map(_half_width)
    low, high = measure_values(comparison, f"{column}_low"), measure_values(comparison, f"{column}_high")
    return low.fillna(value - margin), high.fillna(value + margin)


def interval_in(row: Mapping[str, Any], measure: str) -> Interval:
    """A measure in one row of a comparison with its 95% interval, as ``measure_interval`` has it; NaN where unknown."""
    value, error, low, high, n = (
        float(found) if isinstance(found := row.get(name), int | float) else float("nan")
        for name in (*(f"{measure}{end}" for end in ("", "_stderr", "_low", "_high")), "n")
    )
    margin = error * _half_width(n)
    return Interval(value, value - margin if low != low else low, value + margin if high != high else high)


def _half_width(n: float) -> float:
    """Standard errors on either side of a mean over ``n`` prompts that make its 95% interval (Student's t)."""
    return t_quantile(0.975, int(n) - 1) if n >= 2 else float("nan")


def prompt_counts(comparison: CheckpointComparison) -> list[int]:
    """The distinct numbers of prompts per task, in rising order."""
    return sorted({int(row["n"]) for row in comparison.rows if row.get("n")})


def was_trained_on(comparison: CheckpointComparison, checkpoint: int, task: str) -> bool:
    """Whether the checkpoint of this index is known to have been trained on the task."""
    return comparison.learned[checkpoint - 1 : checkpoint] == (task,)


def shows_training(comparison: CheckpointComparison) -> bool:
    """Whether any checkpoint is known to have been trained on one of the comparison's tasks."""
    learned = comparison.learned[: len(comparison.checkpoints) - 1]
    return not set(learned).isdisjoint(comparison.tasks)


def pair_of(comparison: CheckpointComparison, task: str, checkpoint: str) -> CheckpointComparison:
    """What a comparison holds of one task on one checkpoint, and of the task on the base."""
    names = tuple(dict.fromkeys((comparison.checkpoints[0], checkpoint)))
    numbers, of_task = [comparison.checkpoints.index(name) for name in names], comparison.tasks.index(task)
    tensors = {name: getattr(comparison, name)[numbers][:, [of_task]] for name in PAIR_TENSORS}
    rows: dict[str, Any] = {
        name: tuple(row for row in getattr(comparison, name) if row["task"] == task and row["checkpoint"] in names)
        for name in ("rows", "recovery", "evidence", "replies")
    }
    return replace(
        comparison, **tensors, **rows, weights=comparison.weights[numbers], checkpoints=names, tasks=(task,),
        heads=(comparison.heads[of_task],), spectrum=(), general=(), failures={},
        learned=comparison.learned[numbers[-1] - 1 : numbers[-1]] if numbers[-1] else (),
        prompts=tuple(row for row in comparison.prompts if row["task"] == task),
    )  # fmt: skip


def answers_table(pair: CheckpointComparison) -> pd.DataFrame:
    """The answers of a ``pair_of``: one row per test prompt, first those that the base alone answers rightly.

    Columns: text, bare, answer, and for the base, the checkpoint and the checkpoint steered with the base's vector the
    reply and whether it is right: base, base_right, reply, right, steered, steered_right.
    """
    replies = pair.replies_frame().set_index("prompt")
    before = replies[replies["checkpoint"] == pair.checkpoints[0]]
    now = replies[replies["checkpoint"] == pair.checkpoints[-1]]
    table = now[["text", "bare", "answer"]].assign(
        base=before["reply"], base_right=before["correct"], reply=now["reply"], right=now["correct"],
        steered=now["steered"], steered_right=now["steered_correct"],
    )  # fmt: skip
    lost = table["base_right"].eq(True) & table["right"].eq(False)
    return pd.concat([table[lost], table[~lost]])


def head_maps(comparison: CheckpointComparison, task: str, what: str) -> np.ndarray:
    """Maps [checkpoint, layer, head]: the task's effects ("aie"), these minus the base's ("aie-change"), or weights.

    For weights ("W_Q", "W_K", "W_V", "W_O"): how far each head's matrix is from the base's, relative to the base's.
    """
    if what in MATRICES:
        weights: np.ndarray = comparison.weights[:, MATRICES.index(what)].double().numpy()
        return weights
    effects: np.ndarray = comparison.aie[:, comparison.tasks.index(task)].double().numpy()
    return effects - effects[:1] if what == "aie-change" else effects


def heads_gained(comparison: CheckpointComparison, checkpoint: int, task: str) -> list[Head]:
    """The heads that are among the strongest on the checkpoint of this index but not on the base."""
    pair = (comparison.checkpoints[checkpoint], task)
    rows = [row for row in comparison.rows if (row["checkpoint"], row["task"]) == pair]
    return [Head(layer, head) for row in rows for layer, head in row.get("heads_gained") or ()]


def recovery_table(comparison: CheckpointComparison, task: str) -> pd.DataFrame:
    """Recovery of a task, one row per checkpoint and condition; the random vectors are one condition.

    Columns: checkpoint, condition, accuracy with its 95% interval (low, high), probability, n, and vectors, the number
    of vectors. For random vectors, accuracy and probability are means, and low and high the lowest and highest
    accuracy.

    Raises:
        RecordError: an unknown condition.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in comparison.recovery:
        if row["task"] == task and row["checkpoint"] in comparison.checkpoints:
            groups.setdefault((row["checkpoint"], _known_condition(row["condition"])), []).append(row)
    columns = ["checkpoint", "condition", "accuracy", "low", "high", "probability", "n", "vectors"]
    return pd.DataFrame([_one_condition(*names, rows) for names, rows in groups.items()], columns=columns)


def _one_condition(checkpoint: str, condition: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """A checkpoint's rows under one condition as one row."""
    first, accuracies = rows[0], [row["accuracy"] for row in rows]
    random = condition == Condition.RANDOM_VECTOR
    return {
        "checkpoint": checkpoint, "condition": condition, "accuracy": fmean(accuracies),
        "low": min(accuracies) if random else first["low"], "high": max(accuracies) if random else first["high"],
        "probability": fmean(row["probability"] for row in rows), "n": first["n"], "vectors": len(rows),
    }  # fmt: skip


def _known_condition(name: str) -> str:
    if Condition.RANDOM_VECTOR.among([name]):
        return Condition.RANDOM_VECTOR
    if name not in RECOVERY_CONDITIONS:
        raise RecordError(f"a condition of recovery to be one of {', '.join(RECOVERY_CONDITIONS)}", repr(name))
    return name


def training_table(runs: Mapping[str, TrainingRun]) -> pd.DataFrame:
    """Runs in long form, one row per value that was logged or measured.

    Columns: run, section ("terms" of the loss, or one of ``ABILITY_MEASURES``), name (of the term or the ability),
    role ("new" or "keep" for abilities), step, value, and for accuracy low, high and n. The loss comes before its
    terms.
    """
    parts = []
    for name, run in runs.items():
        terms = sorted((term for term in run.columns if term not in NOT_TERMS), key=lambda term: term != "loss")
        logged = run.to_frame().melt("step", terms, "name")
        parts.append(logged.assign(section="terms", role="", run=name))
        abilities = run.abilities()
        if not abilities.empty:
            step, role = abilities.get("step", run.steps), abilities.get("role", "")
            abilities = abilities.assign(step=step, role=role).sort_values("step")
            kept = [each for each in ("step", "ability", "role", "low", "high", "n") if each in abilities]
            measures = [each for each in ABILITY_MEASURES if each in abilities]
            measured = abilities.melt(kept, measures, "section").rename(columns={"ability": "name"})
            parts.append(measured.assign(run=name))
    return pd.concat(parts, ignore_index=True).dropna(subset=["value"])


def pareto_frontier(points: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both ``learned`` and ``kept``, in rising order of ``learned``."""
    best = points.sort_values(["learned", "kept"], ascending=False)
    return best[best["kept"] > best["kept"].cummax().shift(fill_value=-1.0)][::-1]
