"""Recording: every way to reduce against TransformerLens' own cache, prompt by prompt."""

from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens
from ivlens import ArgumentError, HookError, Prompt, PromptError
from ivlens.activations import capture
from ivlens.models import pattern_name, resid_pre_name, z_name

TEXTS = ("the fox", "Q: what is the capital of France?\nA:", "a", "1 + 2 =", "the lazy dog")
PROMPTS = [Prompt(text, " is") for text in TEXTS]
POINTS = [resid_pre_name(1), z_name(0)]


@pytest.fixture
def model(tiny_hooked: Any) -> Any:
    return tiny_hooked("llama", dtype="float32")


def cached(model: Any, prompt: Prompt, point: str) -> Tensor:
    _, cache = model.run_with_cache(torch.tensor([prompt.token_ids(model.tokenizer)]))
    return cache[point][0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_each_prompts_own_and_their_mean_are_the_caches(model: Any, batch_size: int) -> None:
    own = capture(model, PROMPTS, POINTS, reduce="none", batch_size=batch_size)
    mean = capture(model, PROMPTS, POINTS, batch_size=batch_size)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    for point in POINTS:
        expected = torch.stack([cached(model, prompt, point)[-1] for prompt in PROMPTS])
        torch.testing.assert_close(own[point], expected, rtol=1e-4, atol=1e-5)
        assert mean[point].dtype == torch.float64
        torch.testing.assert_close(mean[point], expected.double().mean(0), rtol=1e-4, atol=1e-5)


def test_groups_of_positions_give_the_mean_over_their_tokens(model: Any) -> None:
    lengths = [len(prompt.token_ids(model.tokenizer)) for prompt in PROMPTS]
    groups = [{"begin": [0], "whole": range(length)} for length in lengths]
    own = capture(model, PROMPTS, POINTS, at=groups, reduce="none", batch_size=2)
    mean = capture(model, PROMPTS, POINTS, at=groups, batch_size=2)
    for point in POINTS:
        expected = torch.stack([torch.stack([found[0], found.mean(0)]) for found in (
            cached(model, prompt, point) for prompt in PROMPTS
        )])  # fmt: skip
        torch.testing.assert_close(own[point], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mean[point], expected.double().mean(0), rtol=1e-4, atol=1e-5)


def test_whole_activations_are_those_of_prompts_of_one_length(model: Any) -> None:
    found = capture(model, PROMPTS[1], [pattern_name(0), resid_pre_name(1)], at="all", reduce="none")
    for point, values in found.items():
        torch.testing.assert_close(values[0], cached(model, PROMPTS[1], point))
    with pytest.raises(ArgumentError, match="prompts of one length for at='all'; got 5 lengths; record them one"):
        capture(model, PROMPTS, POINTS, at="all")


@pytest.mark.slow
def test_two_workers_give_the_same_bits(model: Any, two_workers: None) -> None:
    alone, shared = (capture(model, PROMPTS, POINTS, batch_size=2, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert all(torch.equal(alone[point], shared[point]) for point in POINTS)


def test_edits_that_are_active_are_recorded(model: Any) -> None:
    vector = torch.ones(model.cfg.d_model)
    with ivlens.steer(model, vector, 0):
        steered = capture(model, PROMPTS[0], [resid_pre_name(0)])[resid_pre_name(0)]
    plain = capture(model, PROMPTS[0], [resid_pre_name(0)])[resid_pre_name(0)]
    torch.testing.assert_close(steered - plain, vector.double())


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"at": "first"}, ArgumentError, "at to be one of 'last', 'all' or a list"),
        ({"reduce": "max"}, ArgumentError, "reduce to be one of 'mean', 'none'; got 'max'"),
        ({"at": [{"x": [0]}]}, ArgumentError, "at with the same names for each of 5 prompts; got 1 groups"),
        ({"at": [{"x": [99]}] * 5}, ArgumentError, r"positions from 0 to \d+ for 'x'; got \[99\]"),
        ({"points": ["blocks.9.hook_z"]}, HookError, "blocks.9.hook_z"),
        ({"at": [{"x": [0, 0]}] * 5}, ArgumentError, r"different positions for 'x', to average; got \[0, 0\]"),
        ({"points": [pattern_name(0)]}, ArgumentError, r"at='all' for blocks.0.attn.hook_pattern, whose second axis"),
        ({"points": [pattern_name(0)], "at": [{"x": [0]}] * 5}, ArgumentError, "at='all' for blocks.0.attn.hook_pat"),
        ({"prompts": []}, PromptError, "at least one prompt"),
    ],
)
def test_what_cannot_be_recorded_is_named(model: Any, options: Any, error: Any, named: str) -> None:
    with pytest.raises(error, match=named):
        capture(model, **{"prompts": PROMPTS, "points": POINTS} | options)


def test_prompts_that_are_not_finite_are_named(model: Any) -> None:
    model.embed.W_E.data[PROMPTS[0].token_ids(model.tokenizer)[-1]] = torch.inf
    with pytest.raises(PromptError, match=r"finite streams on every prompt; got .* on prompt 1"):
        capture(model, PROMPTS, POINTS, what="streams")
