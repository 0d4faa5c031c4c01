"""The papers' claims on forgetting, tested on comparisons of checkpoints and on tasks learned one after the other."""

from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..checks import checked
from ..errors import ArgumentError
from ..files import short_hash
from ..stats import NOTHING, Columns, Interval, bootstrap_groups, spearman, t_interval
from ..vocabulary import Finding
from .abilities import ABILITY
from .checkpoints import CheckpointComparison
from .continual import ContinualRun

KNOWN = 0.05  # probability from which the base counts as knowing the answers without an instruction
LEAST_TASKS = 3  # two may be equal by chance, since accuracies are counts
FALLEN = 0.2  # drop of accuracy from which a task counts as forgotten
INSTRUCTION = "instruction following falls more than knowledge"
RECOVERY = "the base's vector brings a forgotten ability back"
SUBTRACTION = "subtracting the new task's vector brings a forgotten ability back"
SPILLOVER = "wrong answers are the new task's, more than in the base"
FIRST_TOKEN = "an answer's first token falls more than the rest"
RELEARNING = "a lost ability is relearned faster than a task is learned anew"
TRACKING = "{} tracks forgetting"
# measures of change, and the sign of their correlation with forgetting if they track it
TRACKERS = {
    "alignment_change": -1, "cosine": -1, "centred_cosine": -1, "norm_ratio": -1, "aie_correlation": -1,
    "weight_change_top": 1, "weight_distance": 1, "kl_new": 1, "kl_text": 1,
}  # fmt: skip
# what a measure is called in a claim, where its column does not say it
CALLED = {"weight_distance": "distance in weights", "kl_new": "KL on the new task's prompts",
          "kl_text": "KL on a plain text"}  # fmt: skip

OF_BASE = ("accuracy", "accuracy_low", "chance", "probability", "knowledge")
NEEDED = ["checkpoint", "task", *OF_BASE, "forgetting", "recovered", "recovered_random",
          "subtracted", "subtracted_random", "spillover", "spillover_base", "first_token_change", "rest_change",
          "relearned_gain", "anew_gain", *TRACKERS]  # fmt: skip
SEQUENCE_ROW = ("checkpoint", "task", "stage", "accuracy", "accuracy_low", "chance", "probability", "knowledge",
                "cosine", "norm_ratio", "alignment")  # fmt: skip


@checked
def findings(*records: CheckpointComparison | ContinualRun) -> pd.DataFrame:
    """Test the papers' claims over all pairs of a checkpoint and a task in the records.

    The checkpoints of a sequence are the model after each of its tasks, on the abilities to keep. The base itself,
    tasks that it could not do or, as far as a record says it, may have guessed, and tasks that were trained on are left
    out. Instruction against knowledge: how much more the probability of the instructed answer fell than that of the
    cloze, each relative to the base. Recovery: accuracy on bare prompts of forgotten tasks with the base's vector,
    minus that with random ones. Subtraction: accuracy on clean prompts of forgotten tasks with the new task's vector
    subtracted, minus the higher of that without and that with random ones subtracted. Spillover: the fraction of wrong
    answers of forgotten tasks that are the new task's or copies, minus the base's. First token: how much more its
    log-probability fell than that of the rest of the answer, in forgotten tasks. Relearning: accuracy that a few
    examples add, minus what as many add on a task that the base never had. Tracking: Spearman's correlation with the
    fall of accuracy (2406.12227, section 4; 2502.11019, section 3; KL and distance in weights: 2509.04259).

    Args:
        records: comparisons, or runs of ``continual``, one or more, whose pairs are pooled; a row that several have
            counts once. Checkpoints of one source, or without it of one name, are one.

    Returns:
        One row per claim: claim, measure, value with its 95% interval (low, high), pairs, tasks and checkpoints (how
        many there are), and finding: "confirmed" or "refuted" where the interval lies on one side of 0, else
        "undecided". A mean is that over tasks of each one's mean over checkpoints, with Student's t over three or more
        tasks. A correlation's interval holds what a bootstrap of whole tasks gives and what one of whole checkpoints
        gives, where there are several; it is not a number for fewer than six of either. The claims are tested one by
        one: of many, one in forty is confirmed by chance.

    Raises:
        ArgumentError: no records, or something else.

    Example:
        >>> set(iv.records.findings(comparison)["finding"])
        {'undecided'}
    """
    if not records:
        raise ArgumentError("one comparison or run of a sequence, or more", "none")
    pairs = pd.concat([_pairs(each) for each in records], ignore_index=True).drop_duplicates()
    means = [
        (INSTRUCTION, "fall of probability, instructed - cloze", _instruction_falls(pairs)),
        (RECOVERY, "accuracy, with the vector - random", _recoveries(pairs)),
        (SUBTRACTION, "accuracy, vector subtracted - not, or random", _subtractions(pairs)),
        (SPILLOVER, "fraction of wrong answers, now - base", _fallen(pairs, "spillover", "spillover_base")),
        (FIRST_TOKEN, "fall of log P, first - rest", _fallen(pairs, "rest_change", "first_token_change")),
        (RELEARNING, "accuracy gained, relearned - anew", _difference(pairs, "relearned_gain", "anew_gain")),
    ]
    rows = [_finding(claim, measure, values, _mean(values), sign=1) for claim, measure, values in means]
    for measure, sign in TRACKERS.items():
        known = pairs[["checkpoint", "task", "forgetting", measure]].dropna().rename(columns={measure: "value"})
        claim = TRACKING.format(CALLED.get(measure, measure.replace("_", " ")))
        rows.append(_finding(claim, "Spearman's rho", known, _correlation(known), sign))
    return pd.DataFrame(rows)


@singledispatch
def _pairs(record: Any) -> pd.DataFrame:
    """One row per checkpoint and ability, with accuracy, probability and knowledge of the checkpoint and the base."""
    raise TypeError(f"no pairs of checkpoints and tasks in {type(record).__name__}")


@_pairs.register
def _of_comparison(comparison: CheckpointComparison) -> pd.DataFrame:
    frame = comparison.to_frame()
    base = frame["checkpoint"] == comparison.checkpoints[0]
    own = frame[~base & ~frame["task"].isin(comparison.learned)]
    return _beside_base(own.assign(checkpoint=own["checkpoint"].map(_sources(comparison))), frame[base])


@_pairs.register
def _of_sequence(run: ContinualRun) -> pd.DataFrame:
    knowledge = run.matrix("knowledge", "probabilities").stack()
    name = short_hash(run.provenance.get("key", run.measured))
    rows = [
        row | {"checkpoint": f"{name} after {row['stage']}", "task": row["ability"], "accuracy_low": row["low"],
               "knowledge": knowledge.get((row["stage"], row["ability"]), float("nan"))}
        for row in run.measured if row["role"] == "keep"
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=[*SEQUENCE_ROW])
    base = frame[frame["stage"] == 0]
    own = frame[frame["stage"] > 0].merge(base[["task", "accuracy", "alignment"]], on="task", suffixes=("", "_before"))
    changes = {
        "forgetting": own["accuracy_before"] - own["accuracy"],
        "alignment_change": own["alignment"] - own["alignment_before"],
    }
    return _beside_base(own.assign(**changes), base)


def _beside_base(own: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """The checkpoints' rows with the base's accuracy, probability and knowledge, where the base had the ability."""
    own, base = own.reindex(columns=NEEDED), base.reindex(columns=["task", *OF_BASE])
    pairs = own.merge(base, on="task", suffixes=("", "_base"))
    able = (pairs["accuracy_base"] >= ABILITY) & ~(pairs["accuracy_low_base"] <= pairs["chance_base"])
    later = [f"{name}{of}" for name in ("accuracy_low", "chance") for of in ("", "_base")]  # not all versions have them
    return pairs[able].drop(columns=later)


def _sources(comparison: CheckpointComparison) -> dict[str, str]:
    """What each checkpoint was loaded from, or else its name: one that is in two comparisons is still one."""
    found: Any = comparison.provenance.get("checkpoints") or {}
    return {name: str(found.get(name, name)) for name in comparison.checkpoints}


def _instruction_falls(pairs: pd.DataFrame) -> pd.DataFrame:
    """How much more the instructed answer's probability fell than the cloze's, each relative to the base."""
    known = pairs.dropna(subset=["knowledge"])
    known = known[known["knowledge_base"] >= KNOWN]
    instructed, cloze = (1 - known[name] / known[f"{name}_base"] for name in ("probability", "knowledge"))
    return known[["checkpoint", "task"]].assign(value=instructed - cloze)


def _recoveries(pairs: pd.DataFrame) -> pd.DataFrame:
    """How much more the base's vector recovers than random ones, where the task was forgotten."""
    return _fallen(pairs, "recovered", "recovered_random")


def _subtractions(pairs: pd.DataFrame) -> pd.DataFrame:
    """How much more subtracting the new task's vector restores than doing nothing, and than random vectors."""
    control = pairs[["accuracy", "subtracted_random"]].max(axis=1)
    return _fallen(pairs.assign(control=control), "subtracted", "control")


def _fallen(pairs: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """The first column minus the second, where the task was forgotten."""
    return _difference(pairs[pairs["forgetting"] >= FALLEN], one, other)


def _difference(pairs: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """The first column minus the second, where both were measured."""
    known = pairs.dropna(subset=[one, other])
    return known[["checkpoint", "task"]].assign(value=known[one].astype(float) - known[other].astype(float))


def _finding(claim: str, measure: str, pairs: pd.DataFrame, found: Interval, sign: int) -> dict[str, Any]:
    """A claim's row; the claim holds if what was found has this ``sign``."""
    return {
        "claim": claim, "measure": measure, **found._asdict(), "pairs": len(pairs), "tasks": pairs["task"].nunique(),
        "checkpoints": pairs["checkpoint"].nunique(), "finding": _finding_of(found.low, found.high, sign).value,
    }  # fmt: skip


def _finding_of(low: float, high: float, sign: int) -> Finding:
    """The finding from an interval, for a claim that holds if the measure has this ``sign``."""
    if low > 0 or high < 0:
        positive = low > 0
        return Finding.CONFIRMED if positive == (sign > 0) else Finding.REFUTED
    return Finding.UNDECIDED


def _mean(pairs: pd.DataFrame) -> Interval:
    """The mean over tasks, which are what is sampled: a task's checkpoints are not independent."""
    by_task = torch.tensor(pairs.groupby("task")["value"].mean().to_numpy(dtype=float))
    low, high = t_interval(by_task) if len(by_task) >= LEAST_TASKS else NOTHING[1:]
    return Interval(by_task.mean().item(), float(low), float(high))


def _correlation(pairs: pd.DataFrame) -> Interval:
    """Over all pairs; tasks share what a checkpoint did to all of them, and checkpoints what is special of a task."""
    columns = {str(name): pairs[name].to_numpy() for name in pairs}
    groups = [columns["task"], columns["checkpoint"]] if pairs["checkpoint"].nunique() > 1 else [columns["task"]]
    found = [bootstrap_groups(columns, each, _rho) for each in groups]
    low, high = np.min([each.low for each in found]), np.max([each.high for each in found])
    return Interval(found[0].value, float(low), float(high))


def _rho(columns: Columns) -> float:
    return spearman(columns["forgetting"].astype(float), columns["value"].astype(float))
