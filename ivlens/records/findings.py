"""What the papers say of forgetting, tested on comparisons of checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from .checkpoints import CheckpointComparison
from .ranks import spearman

ABILITY = 0.3  # accuracy from which a task counts as an ability of the base
KNOWN = 0.05  # probability from which the base knows the answers without an instruction
FALLEN = 0.2  # drop of accuracy from which there is something to bring back
RESAMPLES, LEAST_TASKS = 2000, 3
INSTRUCTION = "instruction following falls more than knowledge"
RECOVERY = "the base's vector brings a forgotten ability back"
TRACKING = "{} tracks forgetting"
# measures of change, and the sign of their correlation with the fall of accuracy where they track it
TRACKERS = {
    "alignment_change": -1, "cosine": -1, "centred_cosine": -1, "norm_ratio": -1, "aie_correlation": -1,
    "weight_change_top": 1,
}  # fmt: skip

NEEDED = ["checkpoint", "task", "accuracy", "probability", "knowledge", "forgetting", "recovered", "recovered_random",
          *TRACKERS]  # fmt: skip

Columns = Mapping[str, np.ndarray]


def findings(*comparisons: CheckpointComparison) -> pd.DataFrame:
    """One row a claim: its measure, value with 95% interval (low, high), cells and tasks it rests on, and the finding.

    Cells are checkpoints times tasks, without the base, what it could not do, and tasks that were trained on.
    Instruction against knowledge: by how much more the probability of the instructed answer fell than that of the
    cloze, each relative to the base. Recovery: accuracy on bare prompts of forgotten tasks with the base's vector,
    minus that with random ones. Tracking: Spearman's correlation with the fall of accuracy (2406.12227, section 4;
    2502.11019, section 3). Intervals resample tasks with all their checkpoints; of fewer than three tasks there is
    none. A claim is confirmed or refuted where its interval lies on one side of 0.
    """
    cells = pd.concat([_cells(each) for each in comparisons], ignore_index=True)
    rows = [
        _finding(INSTRUCTION, "fall of probability, instructed - cloze", _apart(cells), lambda of: of["value"].mean()),
        _finding(RECOVERY, "accuracy, with the vector - random", _back(cells), lambda of: of["value"].mean()),
    ]
    for measure, sign in TRACKERS.items():
        known = cells[["task", "forgetting", measure]].dropna().rename(columns={measure: "value"})
        rows.append(_finding(TRACKING.format(measure.replace("_", " ")), "Spearman's rho", known, _correlation, sign))
    return pd.DataFrame(rows)


def _cells(comparison: CheckpointComparison) -> pd.DataFrame:
    """Cells of abilities, with the base's accuracy, probability and knowledge beside the checkpoint's."""
    frame = comparison.to_frame().reindex(columns=NEEDED)
    base = frame["checkpoint"] == comparison.checkpoints[0]
    columns = ["task", "accuracy", "probability", "knowledge"]
    cells = frame[~base].merge(frame.loc[base, columns], on="task", suffixes=("", "_base"))
    return cells[(cells["accuracy_base"] >= ABILITY) & ~cells["task"].isin(comparison.learned)]


def _apart(cells: pd.DataFrame) -> pd.DataFrame:
    known = cells.dropna(subset=["knowledge"])
    known = known[known["knowledge_base"] >= KNOWN]
    told, bare = (1 - known[name] / known[f"{name}_base"] for name in ("probability", "knowledge"))
    return pd.DataFrame({"task": known["task"], "value": told - bare})


def _back(cells: pd.DataFrame) -> pd.DataFrame:
    fallen = cells[cells["forgetting"] >= FALLEN]
    return pd.DataFrame({"task": fallen["task"], "value": fallen["recovered"] - fallen["recovered_random"]})


def _finding(
    claim: str, measure: str, cells: pd.DataFrame, statistic: Callable[[Columns], float], sign: int = 1
) -> dict[str, Any]:
    value, low, high = _bootstrap(cells, statistic)
    confirmed, refuted = (low > 0, high < 0)[::sign]
    return {
        "claim": claim, "measure": measure, "value": value, "low": low, "high": high, "cells": len(cells),
        "tasks": cells["task"].nunique(),
        "finding": "confirmed" if confirmed else "refuted" if refuted else "undecided",
    }  # fmt: skip


def _bootstrap(cells: pd.DataFrame, statistic: Callable[[Columns], float]) -> tuple[float, float, float]:
    """A statistic of the cells, with the percentile bootstrap over tasks; what cannot be told is not a number."""
    nothing, columns = float("nan"), {str(name): cells[name].to_numpy() for name in cells}
    if cells.empty:
        return nothing, nothing, nothing
    of_task = [np.flatnonzero(columns["task"] == task) for task in dict.fromkeys(columns["task"])]
    value = float(statistic(columns))
    if len(of_task) < LEAST_TASKS:
        return value, nothing, nothing
    generator = np.random.default_rng(0)
    drawn = [np.concatenate([of_task[at] for at in row])
             for row in generator.integers(len(of_task), size=(RESAMPLES, len(of_task)))]  # fmt: skip
    values = np.array([statistic({name: column[places] for name, column in columns.items()}) for places in drawn])
    low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (nothing, nothing)
    return value, float(low), float(high)


def _correlation(columns: Columns) -> float:
    return spearman(columns["forgetting"].astype(float), columns["value"].astype(float))
