"""The papers' claims on planted comparisons: told where they hold, where they do not, and where nothing can be said."""

from typing import Any

import pandas as pd
import pytest
import torch

from ivlens.records import CheckpointComparison, findings
from ivlens.records.claims import INSTRUCTION, RECOVERY
from ivlens.vocabulary import Head

TASKS = ("one", "two", "three", "four")
NAMES = ("base", "first", "second", "third")


def comparison(
    tasks: tuple[str, ...] = TASKS, learned: tuple[str, ...] = (), sign: float = 1.0, **columns: float
) -> CheckpointComparison:
    """Accuracy falls by .25 a checkpoint, and .01 less a task; the cosine with it, or where sign is -1 against it."""
    rows = []
    for at, name in enumerate(NAMES):
        for place, task in enumerate(tasks):
            fall = at * 0.25 - 0.01 * place * (at > 0)
            row = {
                "checkpoint": name, "task": task, "accuracy": 0.9 - fall, "forgetting": fall,
                "probability": 0.8 * (1 - fall), "knowledge": 0.4 * (1 - 0.5 * fall), "recovered": 0.6,
                "recovered_random": 0.1, "alignment_change": -fall, "cosine": 1 - sign * fall, "norm_ratio": 1.0,
            }  # fmt: skip
            rows.append(row | (columns if at else {}))
    n, cells = len(NAMES), torch.zeros(len(NAMES), len(tasks), 1)
    return CheckpointComparison(
        tuple(rows), (), cells[..., None], cells[..., None], torch.zeros(n, 4, 1, 1), cells, cells, cells, cells, cells,
        NAMES, tasks, ((Head(0, 0),),) * len(tasks), "probability", learned,
    )  # fmt: skip


def by_claim(*comparisons: CheckpointComparison) -> pd.DataFrame:
    return findings(*comparisons).set_index("claim")


def test_planted_claims_are_confirmed_with_their_numbers() -> None:
    found = by_claim(comparison())
    falls = [at * 0.25 - 0.01 * place for at in (1, 2, 3) for place in range(4)]
    told = found.loc[INSTRUCTION]
    assert told["value"] == pytest.approx(sum(0.5 * fall for fall in falls) / 12)
    assert told["low"] <= told["value"] <= told["high"]
    assert (told["pairs"], told["tasks"], told["finding"]) == (12, 4, "confirmed")
    back = found.loc[RECOVERY]
    assert back["value"] == pytest.approx(0.5)
    assert back["pairs"] == sum(fall >= 0.2 for fall in falls)
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


def test_what_is_unknown_constant_or_of_few_tasks_is_undecided() -> None:
    found = by_claim(comparison())
    assert found.loc["aie correlation tracks forgetting", ["pairs", "finding"]].tolist() == [0, "undecided"]
    assert found.loc["norm ratio tracks forgetting", ["pairs", "finding"]].tolist() == [12, "undecided"]
    few = by_claim(comparison(tasks=("one", "two")))
    assert few["low"].isna().all()
    assert set(few["finding"]) == {"undecided"}
    assert few.loc[RECOVERY, "value"] == pytest.approx(0.5)


def test_learned_tasks_and_what_the_base_could_not_do_do_not_count() -> None:
    assert by_claim(comparison(learned=("two", "four"))).loc[INSTRUCTION, "pairs"] == 6
    weak = comparison()
    for row in weak.rows:
        row["accuracy"] -= 0.7
    assert by_claim(weak)["pairs"].max() == 0


def test_several_comparisons_are_pooled() -> None:
    found: Any = by_claim(comparison(), comparison(sign=-1.0))
    assert found.loc[INSTRUCTION, "pairs"] == 24
    assert found.loc["cosine tracks forgetting", "finding"] == "undecided"
    assert found.loc["alignment change tracks forgetting", "value"] == pytest.approx(-1)
