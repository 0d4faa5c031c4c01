"""What the papers say of forgetting, tested on comparisons of checkpoints."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from ..stats import Columns, bootstrap_groups, spearman
from ..vocabulary import Finding
from .checkpoints import CheckpointComparison

ABILITY = 0.3  # accuracy from which a task counts as an ability of the base
KNOWN = 0.05  # probability from which the base knows the answers without an instruction
FALLEN = 0.2  # drop of accuracy from which there is something to bring back
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


def findings(*comparisons: CheckpointComparison) -> pd.DataFrame:
    """One row per claim: measure, value with 95% interval (low, high), cells and tasks that it rests on, finding.

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
    columns = {str(name): cells[name].to_numpy() for name in cells}
    value, low, high = bootstrap_groups(columns, columns["task"], statistic)
    return {
        "claim": claim, "measure": measure, "value": value, "low": low, "high": high, "cells": len(cells),
        "tasks": cells["task"].nunique(),
        "finding": _finding_of(low, high, sign).value,
    }  # fmt: skip


def _finding_of(low: float, high: float, sign: int) -> Finding:
    """What an interval on one side of 0 says of a claim whose measure has this ``sign`` where it holds."""
    if low > 0 or high < 0:
        positive = low > 0
        return Finding.CONFIRMED if positive == (sign > 0) else Finding.REFUTED
    return Finding.UNDECIDED


def _correlation(columns: Columns) -> float:
    return spearman(columns["forgetting"].astype(float), columns["value"].astype(float))
