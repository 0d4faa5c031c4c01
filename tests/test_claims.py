"""The papers' claims on planted comparisons: told where they hold, where they do not, and where nothing can be said."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ivlens.errors import ArgumentError
from ivlens.records import CheckpointComparison, ContinualRun, findings
from ivlens.records.claims import FIRST_TOKEN, INSTRUCTION, RECOVERY, RELEARNING, SPILLOVER, SUBTRACTION
from ivlens.vocabulary import Head

TASKS = ("one", "two", "three", "four", "five", "six")
NAMES = ("base", "first", "second", "third", "fourth", "fifth", "sixth")
STEP = 0.13  # by which accuracy falls from one checkpoint to the next
FALLS = [at * STEP - 0.01 * place for at in range(1, 7) for place in range(6)]


def comparison(
    tasks: tuple[str, ...] = TASKS, learned: tuple[str, ...] = (), sign: float = 1.0, **columns: float
) -> CheckpointComparison:
    """Accuracy falls with each checkpoint, and .01 less a task; the cosine with it, or where sign is -1 against it."""
    rows = []
    for at, name in enumerate(NAMES):
        for place, task in enumerate(tasks):
            fall = at * STEP - 0.01 * place * (at > 0)
            row = {
                "checkpoint": name, "task": task, "accuracy": 0.9 - fall, "forgetting": fall,
                "probability": 0.8 * (1 - fall), "knowledge": 0.4 * (1 - 0.5 * fall), "recovered": 0.6,
                "recovered_random": 0.1, "alignment_change": -fall, "cosine": 1 - sign * fall, "norm_ratio": 1.0,
            }  # fmt: skip
            rows.append(row | (columns if at else {}))
    n, cells = len(NAMES), torch.zeros(len(NAMES), len(tasks), 1)
    return CheckpointComparison(
        tuple(rows), (), cells[..., None], cells[..., None], torch.zeros(n, len(tasks), 1, 1), cells, cells, cells,
        cells, cells, NAMES, tasks, ((Head(0, 0),),) * len(tasks), "probability", learned,
    )  # fmt: skip


def sequence(accuracy: float = 0.9, chance: float = 0.0) -> ContinualRun:
    """The same fall of accuracy, probability, knowledge and cosine after each of six learned tasks."""
    rows = []
    for stage in range(7):
        for place, task in enumerate(TASKS):
            fall = stage * STEP - 0.01 * place * (stage > 0)
            row = {"stage": stage, "ability": task, "n": 2}
            instructed = [1.6 * (1 - fall), 0.0]
            rows += [
                row | {"role": "keep", "accuracy": accuracy - fall, "low": accuracy - fall - 0.1, "chance": chance,
                       "probability": 0.8 * (1 - fall), "probabilities": instructed, "cosine": 1 - fall,
                       "norm_ratio": 1.0, "alignment": 0.5 - fall},
                row | {"role": "knowledge", "probabilities": [0.8 * (1 - 0.5 * fall), 0.0]},
            ]  # fmt: skip
    return ContinualRun(NAMES[1:], tuple(rows))


def by_claim(*records: CheckpointComparison | ContinualRun) -> pd.DataFrame:
    return findings(*records).set_index("claim")


def test_a_sequence_says_of_its_old_abilities_what_a_comparison_does() -> None:
    """Those of its claims that it has measures for; the base's own row is no pair."""
    of_sequence, of_comparison = by_claim(sequence()), by_claim(comparison())
    measured = of_sequence[of_sequence["pairs"] > 0]
    tracking = [f"{name} tracks forgetting" for name in ("alignment change", "cosine", "norm ratio")]
    assert [*measured.index] == [INSTRUCTION, *tracking]
    pd.testing.assert_frame_equal(measured, of_comparison.loc[measured.index])


def test_what_a_sequence_s_base_may_have_guessed_is_no_pair() -> None:
    assert by_claim(sequence(chance=0.85)).loc[INSTRUCTION, "pairs"] == 0
    assert by_claim(sequence(accuracy=0.1)).loc[INSTRUCTION, "pairs"] == 0
    assert by_claim(sequence(), sequence()).loc[INSTRUCTION, "pairs"] == 36
    assert by_claim(ContinualRun(("first",))).loc[INSTRUCTION, "pairs"] == 0


@pytest.mark.parametrize(
    ("records", "why"),
    [((), "one comparison or run"), (({"a": 1},), "a CheckpointComparison or a ContinualRun")],
)
def test_claims_are_tested_on_records(records: tuple[Any, ...], why: str) -> None:
    with pytest.raises(ArgumentError, match=why):
        findings(*records)


def test_planted_claims_are_confirmed_with_their_numbers() -> None:
    found = by_claim(comparison())
    told = found.loc[INSTRUCTION]
    assert told["value"] == pytest.approx(sum(0.5 * fall for fall in FALLS) / 36)
    assert told["low"] <= told["value"] <= told["high"]
    assert (told["pairs"], told["tasks"], told["checkpoints"], told["finding"]) == (36, 6, 6, "confirmed")
    back = found.loc[RECOVERY]
    assert back["value"] == pytest.approx(0.5)
    assert back["pairs"] == sum(fall >= 0.2 for fall in FALLS)
    assert back["finding"] == "confirmed"
    tracked = found.loc["cosine tracks forgetting"]
    assert tracked["value"] == pytest.approx(-1)
    assert tracked["finding"] == "confirmed"


def test_what_goes_the_other_way_is_refuted() -> None:
    found = by_claim(comparison(sign=-1.0, probability=0.8, recovered=0.0))
    assert found.loc[INSTRUCTION, "finding"] == "refuted"
    assert found.loc[RECOVERY, "finding"] == "refuted"
    assert found.loc["cosine tracks forgetting", "value"] == pytest.approx(1)
    assert found.loc["cosine tracks forgetting", "finding"] == "refuted"


@pytest.mark.parametrize(("low", "pairs"), [(0.55, 36), (0.45, 0)])
def test_what_the_base_may_have_guessed_is_left_out(low: float, pairs: int) -> None:
    made = comparison()
    rows = tuple(row | {"accuracy_low": low, "chance": 0.5} for row in made.rows)
    assert by_claim(replace(made, rows=rows)).loc["cosine tracks forgetting", "pairs"] == pairs
    assert by_claim(made, replace(made, rows=rows)).loc["cosine tracks forgetting", "pairs"] == 36  # each once


def test_what_is_unknown_constant_or_of_few_tasks_is_undecided() -> None:
    found = by_claim(comparison())
    assert found.loc["aie correlation tracks forgetting", ["pairs", "finding"]].tolist() == [0, "undecided"]
    assert found.loc["norm ratio tracks forgetting", ["pairs", "finding"]].tolist() == [36, "undecided"]
    few = by_claim(comparison(tasks=("one",)))
    assert few["low"].isna().all()
    assert set(few["finding"]) == {"undecided"}
    assert few.loc[RECOVERY, "value"] == pytest.approx(0.5)
    five = by_claim(comparison(tasks=TASKS[:5]))
    assert five.loc["cosine tracks forgetting", "value"] == pytest.approx(-1)
    assert five.loc["cosine tracks forgetting", "finding"] == "undecided"


def test_a_single_checkpoint_is_no_sample_of_checkpoints() -> None:
    made = comparison()
    rows = tuple(row for row in made.rows if row["checkpoint"] in ("base", "third"))
    one = replace(made, rows=rows)
    found = by_claim(one).loc["cosine tracks forgetting"]
    assert (found["checkpoints"], found["finding"]) == (1, "confirmed")
    twice = by_claim(one, one).loc["cosine tracks forgetting"]  # the same pairs: nothing new
    assert (twice["checkpoints"], twice["pairs"]) == (1, 6)
    named = replace(one, provenance={"checkpoints": {"third": "another run/third"}})
    assert by_claim(one, named).loc["cosine tracks forgetting", "checkpoints"] == 2


def test_two_tasks_of_the_same_value_decide_nothing() -> None:
    found = by_claim(comparison(tasks=TASKS[:2])).loc[RECOVERY]
    assert (found["value"], found["finding"]) == (pytest.approx(0.5), "undecided")


@pytest.mark.parametrize("trials", [40])
def test_what_checkpoints_or_tasks_share_is_no_tracking(trials: int) -> None:
    """Measures of nothing: of each checkpoint a number, or one for each pair with what tasks share."""
    generator = np.random.default_rng(0)
    confirmed = 0
    for _ in range(trials):
        made = comparison()
        by_checkpoint = dict(zip(NAMES, generator.normal(size=len(NAMES)), strict=True))
        by_task = dict(zip(TASKS, generator.normal(size=len(TASKS)), strict=True))
        falls = dict(zip(NAMES, generator.uniform(0, 0.5, size=len(NAMES)), strict=True))
        for row in made.rows:
            if row["checkpoint"] != "base":
                row["forgetting"] = falls[row["checkpoint"]] + 0.05 * generator.normal()
                row["weight_distance"] = by_checkpoint[row["checkpoint"]]
                row["norm_ratio"] = by_task[row["task"]] + by_checkpoint[row["checkpoint"]]
        found = by_claim(made)
        for name in ("distance in weights", "norm ratio"):
            confirmed += found.loc[f"{name} tracks forgetting", "finding"] != "undecided"
    assert confirmed <= 0.1 * 2 * trials  # a bootstrap of tasks alone decides more than half


def test_means_over_tasks_of_nothing_are_seldom_decided() -> None:
    """Recovery of nothing on average, on three tasks: a bootstrap of tasks decides 23 of 100."""
    generator = np.random.default_rng(0)
    decided = 0
    for _ in range(100):
        made = comparison(tasks=TASKS[:3])
        by_task = dict(zip(TASKS, 0.1 * generator.normal(size=len(TASKS)), strict=True))
        for row in made.rows:
            row |= {"recovered": 0.3 + by_task[row["task"]], "recovered_random": 0.3}
        decided += by_claim(made).loc[RECOVERY, "finding"] != "undecided"
    assert decided <= 10


def test_learned_tasks_and_what_the_base_could_not_do_do_not_count() -> None:
    assert by_claim(comparison(learned=("two", "four"))).loc[INSTRUCTION, "pairs"] == 24
    weak = comparison()
    for row in weak.rows:
        row["accuracy"] -= 0.7
    assert by_claim(weak)["pairs"].max() == 0


def test_several_comparisons_are_pooled() -> None:
    other = replace(comparison(sign=-1.0), provenance={"checkpoints": {name: f"other/{name}" for name in NAMES[1:]}})
    found: Any = by_claim(comparison(), other)
    assert found.loc[INSTRUCTION, ["pairs", "tasks", "checkpoints"]].tolist() == [72, 6, 12]
    assert found.loc["cosine tracks forgetting", "finding"] == "undecided"
    assert found.loc["alignment change tracks forgetting", "value"] == pytest.approx(-1)


def test_further_evidence_is_tested_on_forgotten_tasks() -> None:
    planted = {
        "subtracted": 0.9, "subtracted_random": 0.1, "spillover": 0.8, "spillover_base": 0.2, "rest_change": -0.5,
        "first_token_change": -2.0, "relearned_gain": 0.6, "anew_gain": 0.1,
    }  # fmt: skip
    found = by_claim(comparison(**planted))
    fallen = [fall for fall in FALLS if fall >= 0.2]
    # beside doing nothing, and beside random vectors: the mean over tasks of means over checkpoints
    gains = [[0.9 - max(0.9 - fall, 0.1) for fall in FALLS[place::6] if fall >= 0.2] for place in range(len(TASKS))]
    assert found.loc[SUBTRACTION, "value"] == pytest.approx(sum(sum(each) / len(each) for each in gains) / len(gains))
    assert found.loc[SPILLOVER, "value"] == pytest.approx(0.6)
    assert found.loc[FIRST_TOKEN, "value"] == pytest.approx(1.5)
    assert found.loc[RELEARNING, "value"] == pytest.approx(0.5)
    assert found.loc[[SUBTRACTION, SPILLOVER, FIRST_TOKEN], "pairs"].tolist() == [len(fallen)] * 3
    assert found.loc[RELEARNING, "pairs"] == 36
    assert set(found.loc[[SUBTRACTION, SPILLOVER, FIRST_TOKEN, RELEARNING], "finding"]) == {"confirmed"}
    other = by_claim(
        comparison(**planted | {"spillover": 0.1, "subtracted": 0.0, "anew_gain": 0.9, "rest_change": -3.0})
    )
    assert set(other.loc[[SUBTRACTION, SPILLOVER, FIRST_TOKEN, RELEARNING], "finding"]) == {"refuted"}
    none = by_claim(comparison())
    assert none.loc[[SUBTRACTION, SPILLOVER, FIRST_TOKEN, RELEARNING], "pairs"].tolist() == [0] * 4


def test_distances_track_forgetting_where_they_rise_with_it() -> None:
    made = comparison()
    for row in made.rows:
        row |= {"kl_new": row["forgetting"] ** 2, "weight_distance": 1 - row["forgetting"], "kl_text": 0.3}
    found = by_claim(made)
    assert found.loc["KL on the new task's prompts tracks forgetting", ["value", "finding"]].tolist() == [
        1,
        "confirmed",
    ]
    assert found.loc["distance in weights tracks forgetting", "finding"] == "refuted"
    assert found.loc["KL on a plain text tracks forgetting", "finding"] == "undecided"
