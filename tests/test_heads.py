"""Sets of heads, and how firm they are: pure functions on records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ivlens import ArgumentError, HeadEffects, MismatchError, random_heads, universal_effects
from ivlens.heads import head_overlap, rank_aggregate
from ivlens.records import Stability, prompts_needed, top_k_stability
from ivlens.records.stability import _strongest


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


def noisy(n: int = 60, strength: float = 1.0, planted: tuple[tuple[int, int], ...] = ((1, 2), (3, 0))) -> HeadEffects:
    """Effects of unit noise on 4 layers x 5 heads, with the planted heads raised by ``strength`` and its half."""
    values = torch.randn(n, 4, 5, generator=torch.Generator().manual_seed(0))
    for rank, (layer, head) in enumerate(planted):
        values[:, layer, head] += strength / (1 + rank)
    return effects(values, "planted")


def test_overlap_is_the_shared_fraction_of_the_shorter_list() -> None:
    assert head_overlap([(0, 0), (1, 1), (2, 2)], [(1, 1), (5, 5)]) == 0.5
    assert head_overlap([(0, 0)], [(1, 0), (0, 0), (2, 0)]) == 1
    assert head_overlap([(0, 1)], [(1, 0)]) == 0
    assert head_overlap([(0, 0), (0, 0), (1, 0)], [(0, 0), (2, 0)]) == 0.5
    with pytest.raises(ArgumentError, match="one head or more; got 0 and 1 heads"):
        head_overlap([], [(0, 0)])


def test_mean_ranks_let_no_task_outweigh_the_others() -> None:
    loud = effects(torch.tensor([[[90.0, 0.0], [80.0, 70.0]]]), "loud")
    quiet = effects(torch.tensor([[[0.1, 0.0], [0.3, 0.2]]]), "quiet")
    again = effects(torch.tensor([[[0.1, 0.0], [0.3, 0.2]]]), "again")
    assert universal_effects([loud, quiet, again]).top(1) == [(0, 0)]
    assert rank_aggregate([loud, quiet, again]) == [(1, 0), (0, 0), (1, 1), (0, 1)]  # mean ranks 4/3, 7/3, 7/3, 4


def test_ties_share_their_mean_rank_and_go_by_layer_and_head() -> None:
    tied = effects(torch.tensor([[[1.0, 1.0], [1.0, 2.0]]]), "tied")
    other = effects(torch.tensor([[[0.0, 3.0], [0.0, 1.0]]]), "other")
    assert rank_aggregate([tied]) == [(1, 1), (0, 0), (0, 1), (1, 0)]
    assert rank_aggregate([tied, other]) == [(1, 1), (0, 1), (0, 0), (1, 0)]  # mean ranks 1.5, 2, 3.25, 3.25


def test_ranks_of_nothing_or_of_different_shapes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one task; got none"):
        rank_aggregate([])
    with pytest.raises(MismatchError, match="one shape"):
        rank_aggregate([effects(torch.zeros(2, 1, 2), "a"), effects(torch.zeros(2, 2, 2), "b")])
    known = [
        replace(effects(torch.zeros(2, 1, 2), name), provenance={"model": {"architecture": name}}) for name in "ab"
    ]
    with pytest.raises(MismatchError, match=r"on one architecture; got \['a', 'b'\]"):
        rank_aggregate(known)


def test_planted_heads_are_stable_and_noise_is_not() -> None:
    record = top_k_stability(noisy(), 2)
    assert record.to_frame().iloc[:2][["layer", "head"]].values.tolist() == [[1, 2], [3, 0]]
    assert record.probability[1, 2] > 0.98
    assert record.probability.sum().item() == pytest.approx(2)
    assert (record.k, record.n, record.resamples, record.task) == (2, 60, 500, "planted")
    whole = noisy().top(2)
    assert record.overlap == pytest.approx(sum(record.probability[head].item() for head in whole) / 2)
    assert top_k_stability(noisy(strength=0), 2).overlap < 0.75 < record.overlap


def test_stability_agrees_with_a_plain_loop() -> None:
    record = noisy(n=12)
    drawn = torch.randint(12, (7, 12), generator=torch.Generator().manual_seed(3))
    counts = torch.zeros(4, 5, dtype=torch.float64)
    for row in drawn:
        for head in effects(record.values.double()[row], "resample").top(3):
            counts[head] += 1
    assert torch.equal(top_k_stability(record, 3, resamples=7, seed=3).probability, counts / 7)


def test_effects_that_no_prompt_disputes_are_wholly_stable(tmp_path: Path) -> None:
    record = top_k_stability(effects(torch.tensor([[[3.0, 2.0, 1.0]]]).expand(5, 1, 3), "sure"), 2, resamples=20)
    assert record.overlap == 1
    assert record.probability.tolist() == [[1, 1, 0]]
    assert record.provenance["stability"] == {"k": 2, "resamples": 20, "seed": 0}
    again = Stability.load(record.save(tmp_path / "stability.safetensors"))
    assert again.to_frame().equals(record.to_frame())
    assert again.overlap == 1


def test_more_prompts_find_the_same_heads_more_often() -> None:
    frame = prompts_needed(noisy(n=120), 2)
    assert list(frame.columns) == ["prompts", "overlap", "low", "high"]
    assert frame["prompts"].tolist() == [1, 2, 5, 10, 20, 50, 60]
    assert frame["overlap"].is_monotonic_increasing
    assert frame["overlap"].iloc[-1] > 0.95
    assert frame[["low", "high"]].iloc[[0, -1]].values.tolist() == [[0, 0.5], [1, 1]]


def test_sets_that_share_no_prompt_agree_on_noise_by_chance_only() -> None:
    frame = prompts_needed(noisy(n=200, strength=0), 4, sizes=[100], resamples=400)
    assert frame["overlap"].item() == pytest.approx(4 / 20, abs=0.06)


def test_two_prompts_that_disagree_share_no_head() -> None:
    record = effects(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), "opposed")
    assert prompts_needed(record, 1).iloc[0].tolist() == [1, 0, 0, 0]
    assert prompts_needed(record, 2).iloc[0].tolist() == [1, 1, 1, 1]


def test_draws_repeat_with_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    assert torch.equal(top_k_stability(noisy(), 2).probability, top_k_stability(noisy(), 2).probability)
    assert not torch.equal(top_k_stability(noisy(), 2).probability, top_k_stability(noisy(), 2, seed=1).probability)
    assert prompts_needed(noisy(), 2).equals(prompts_needed(noisy(), 2))
    assert not prompts_needed(noisy(), 2).equals(prompts_needed(noisy(), 2, seed=1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("measure", [top_k_stability, prompts_needed])
def test_too_many_heads_or_no_resamples_are_refused(measure: Any) -> None:
    with pytest.raises(ArgumentError, match="k to be at most 20, the number of heads; got 21"):
        measure(noisy(), 21)
    with pytest.raises(ArgumentError, match="k to be a whole number of 1"):
        measure(noisy(), 0)
    with pytest.raises(ArgumentError, match="resamples"):
        measure(noisy(), 2, resamples=0)


@pytest.mark.parametrize("sizes", [[0], [31], [], [5, 31]])
def test_sizes_beyond_half_of_the_prompts_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ArgumentError, match="sizes from 1 to 30, half of the 60 prompts"):
        prompts_needed(noisy(), 2, sizes=sizes)
    with pytest.raises(ArgumentError, match="half of the 1 prompts"):
        prompts_needed(noisy(n=1), 2)


def test_of_equally_strong_heads_the_first_are_chosen() -> None:
    draw = torch.Generator().manual_seed(0)
    tied = effects(torch.randint(3, (8, 3, 4), generator=draw).float(), "tied")
    drawn = torch.stack([torch.randperm(8, generator=draw)[:3] for _ in range(20)])
    order = tied.values[drawn].double().sum(1).flatten(1).sort(dim=1, descending=True, stable=True).indices
    expected = torch.zeros(20, 12, dtype=torch.bool).scatter_(1, order[:, :5], True)
    assert torch.equal(_strongest(tied, drawn, 5), expected)
