"""Universal sets and random heads: pure functions on records."""

from typing import Any

import pytest
import torch

from ivlens import ArgumentError, HeadEffects, MismatchError, random_heads, universal_effects


def effects(values: torch.Tensor, task: str, **facts: Any) -> HeadEffects:
    return HeadEffects(values, torch.zeros(len(values)), "probability", "exact", task, **facts)


def test_universal_effects_weigh_tasks_not_prompts() -> None:
    few = effects(torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]]), "few")
    many = effects(torch.zeros(6, 1, 2) + torch.tensor([0.0, 1.0]), "many")
    both = universal_effects([few, many])
    assert both.aie.tolist() == [[1.0, 0.5]]
    assert both.stderr[0, 0].item() == pytest.approx(0.5)  # few: sd sqrt(2) over sqrt(2) prompts, halved by two tasks
    assert both.top(1) == [(0, 0)]
    assert (both.tasks, both.n) == (("few", "many"), 8)


def test_effects_that_do_not_belong_together_are_refused() -> None:
    one = effects(torch.zeros(2, 1, 2), "a", provenance={"model": {"weights_sha256": "x"}})
    other = effects(torch.zeros(2, 1, 2), "b", provenance={"model": {"weights_sha256": "y"}})
    with pytest.raises(MismatchError, match="one metric on one model"):
        universal_effects([one, other])
    with pytest.raises(ArgumentError, match="at least one task; got none"):
        universal_effects([])


def test_random_heads_are_different_reproducible_and_outside_the_excluded() -> None:
    excluded = [(0, 0), (2, 3)]
    drawn = random_heads((3, 4), 10, seed=1, exclude=excluded)
    assert len(set(drawn)) == 10
    assert not set(drawn) & set(excluded)
    assert drawn == random_heads((3, 4), 10, seed=1, exclude=excluded)
    assert drawn != random_heads((3, 4), 10, seed=2, exclude=excluded)
    with pytest.raises(ArgumentError, match="k to be at most 10"):
        random_heads((3, 4), 11, seed=1, exclude=excluded)
