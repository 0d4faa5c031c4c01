"""Values that are not finite: refused with the prompt's or head's name, never averaged, ranked, scored or a vector."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, HeadEffects, HeadMeans, IvlensError, MismatchError, PositionMeans, Prompt, PromptError
from ivlens.activations import check_means
from ivlens.stats import cosine

SOUND = [Prompt("the capital of", " France"), Prompt("the quick brown fox", " jumps")]
ODD = [Prompt("the lazy dog", " is"), Prompt("and the dog", " is")]  # both have " dog"
NAMED = r"on prompt 2 \('the lazy dog'\), prompt 3 \('and the dog'\); half precision may overflow"
PROMPTS = [SOUND[0], *ODD, SOUND[1]]


@pytest.fixture
def model(tiny_hooked: Any) -> Any:
    return tiny_hooked("llama")


def overflowing(model: Any) -> Any:
    """The model where one token overflows."""
    with torch.no_grad():
        model.embed.W_E[model.tokenizer(" dog")["input_ids"]] = float("inf")
    return model


def means_of(model: Any) -> HeadMeans:
    return ivlens.mean_head_activations(model, SOUND)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    "measure",
    [
        lambda model, **size: ivlens.evaluate(model, PROMPTS, **size),
        lambda model, **size: ivlens.mean_head_activations(model, PROMPTS, **size),
        lambda model, **size: ivlens.mean_position_activations(model, TASKED, by="position", **size),
        lambda model, **size: ivlens.mean_difference(model, PROMPTS, SOUND, 1, **size),
    ],
    ids=["evaluate", "mean_head_activations", "mean_position_activations", "mean_difference"],
)
def test_prompts_that_overflow_are_named(model: Any, measure: Callable[..., Any], batch_size: int) -> None:
    with pytest.raises(PromptError, match=r"expected finite \w+ on every prompt; got infinite values .* prompt 2"):
        measure(overflowing(model), batch_size=batch_size)


def overflowing_scores(model: Any) -> Any:
    """A float16 model whose attention scores in head (1, 2) overflow; TransformerLens makes that pattern zeros."""
    model = model.to(torch.float16)
    for weight, bias in (
        (model.blocks[1].attn.W_Q, model.blocks[1].attn.b_Q),
        (model.blocks[1].attn._W_K, model.blocks[1].attn._b_K),
    ):
        head = 2 * len(weight) // model.cfg.n_heads
        weight.data[head] = 0
        bias.data[head] = 2000
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    "measure",
    [
        lambda model, means: ivlens.evaluate(model, SOUND),
        lambda model, means: ivlens.mean_head_activations(model, SOUND),
        lambda model, means: ivlens.attention_patterns(model, SOUND[0], [(1, 2)]),
        lambda model, means: ivlens.indirect_effects(model, SOUND, means, method="exact"),
        lambda model, means: ivlens.indirect_effects(model, SOUND, means, method="loop"),
        lambda model, means: ivlens.indirect_effects(model, SOUND, means, method="attribution"),
    ],
    ids=["evaluate", "means", "patterns", "exact", "loop", "attribution"],
)
def test_attention_scores_that_overflow_are_no_zeros(model: Any, measure: Callable[..., Any]) -> None:
    model = model.to(torch.float16)
    means = means_of(model)
    overflowing_scores(model)
    assert model(SOUND[0].text).isfinite().all()  # what makes them silent
    with pytest.raises(PromptError, match=r"finite [\w ]+ on every prompt; got .* prompt 1"):
        measure(model, means)


TASKED = [Prompt("the fox is", " and"), Prompt("the dog is", " and")]


def test_the_message_has_all_names_or_the_first_few(model: Any) -> None:
    overflowing(model)
    with pytest.raises(PromptError, match=NAMED):
        ivlens.evaluate(model, PROMPTS)
    with pytest.raises(PromptError, match=r"prompt 3 \('and the dog'\), prompt 5 \('the lazy dog'\), 5 more; half"):
        ivlens.evaluate(model, [*PROMPTS, *ODD * 3])


@pytest.mark.parametrize("method", ["exact", "loop", "attribution"])
@pytest.mark.parametrize("metric", ["probability", "log-probability", "logit-difference"])
def test_effects_on_prompts_that_overflow_are_no_effects(model: Any, method: str, metric: str) -> None:
    means = means_of(model)
    overflowing(model)
    with pytest.raises(PromptError, match=f"finite effects on every prompt; got .* {NAMED}"):
        ivlens.indirect_effects(model, PROMPTS, means, method=method, metric=metric)


@pytest.mark.parametrize("method", ["exact", "loop"])
def test_a_head_of_overflowing_effects_is_named(model: Any, method: str) -> None:
    means = means_of(model)
    means.values[1, 2] = 3e38
    with pytest.raises(
        PromptError, match=r"not-a-numbers of 1 heads, \(1, 2\) first, on prompt 1 \('the capital of'\)"
    ):
        ivlens.indirect_effects(model, SOUND, means, method=method, metric="log-probability")


@pytest.mark.parametrize("method", ["loop", "attribution"])
def test_position_effects_on_prompts_that_overflow_are_no_effects(model: Any, method: str) -> None:
    means = ivlens.mean_position_activations(model, TASKED[:1], by="position")
    overflowing(model)
    with pytest.raises(PromptError, match=r"finite effects on every prompt; got .* on prompt 2 \('the dog is'\)"):
        ivlens.position_effects(model, TASKED, means, method=method)


def test_a_sweep_and_patterns_of_a_prompt_that_overflows_are_refused(model: Any) -> None:
    vector = ivlens.instruction_vector(model, means_of(model), [(0, 1)])
    for use in (
        lambda: ivlens.steering_sweep(model, vector, SOUND, [0, 1], [1.0, 1e39]),
        lambda: ivlens.steer(model, vector, 0, 1e39),
    ):
        with pytest.raises(ArgumentError, match="finite values of the vector times scale"):
            use()
    overflowing(model)
    with pytest.raises(PromptError, match=NAMED):
        ivlens.steering_sweep(model, vector, PROMPTS, [0, 1], [1.0])
    with pytest.raises(PromptError, match="finite attention patterns on every prompt"):
        ivlens.attention_patterns(model, ODD[0], [(0, 0)])


def test_a_second_accepted_answer_that_overflows_is_no_wrong_answer(model: Any) -> None:
    two = Prompt("the quick", (" fox", " dog is"))
    with pytest.raises(PromptError, match=r"finite logits on every prompt; got .* on prompt 2 \('the quick'\)"):
        ivlens.evaluate(overflowing(model), [SOUND[0], two])


NAN = float("nan")


@pytest.mark.parametrize("odd", [NAN, float("inf")])
def test_no_record_holds_what_is_not_finite(model: Any, odd: float, tmp_path: Path) -> None:
    effects = ivlens.indirect_effects(model, SOUND, means_of(model))
    spoiled = effects.values.clone()
    spoiled[1, 0, 2] = odd
    with pytest.raises(ArgumentError, match=r"effects \[prompt, layer, head\]; got 1 of 16 .* at \(1, 0, 2\)"):
        replace(effects, values=spoiled)
    kept = effects.save(tmp_path / "effects.safetensors")
    effects.values[1, 0, 2] = odd  # in place, which no check sees
    with pytest.raises(ArgumentError, match="finite effects"):
        ivlens.universal_effects([effects, HeadEffects.load(kept)])
    for use in (lambda: effects.top(1), effects.to_frame, lambda: ivlens.rank_aggregate([effects])):
        with pytest.raises(ArgumentError, match=r"effects .*; got 1 of"):
            use()
    for use in (
        effects.interval,
        lambda: ivlens.top_k_stability(effects, 1),
        lambda: ivlens.prompts_needed(effects, 1),
    ):
        with pytest.raises(ArgumentError, match=r"effects .*; got 1 of"):
            use()
    means = means_of(model)
    with pytest.raises(ArgumentError, match=r"means \[layer, head, d_head\]"):
        replace(means, values=means.values * odd)
    vector = ivlens.instruction_vector(model, means, [(0, 1)])
    with pytest.raises(ArgumentError, match="finite values of a vector"):
        replace(vector, values=vector.values * odd)
    means.values[1, 2] = odd
    for use in (
        lambda: ivlens.instruction_vector(model, means, [(1, 2)]),
        lambda: ivlens.indirect_effects(model, SOUND, means),
        lambda: ivlens.ablate(model, [(1, 2)], means),
    ):
        with pytest.raises(IvlensError, match="finite"):
            use()


def test_a_vector_of_zeros_has_no_direction(model: Any) -> None:
    means = means_of(model)
    vector = ivlens.instruction_vector(model, means, [(0, 1), (1, 0)])
    zero = 0 * vector
    for one, other in ((vector, zero), (zero, vector)):
        with pytest.raises(
            ArgumentError, match=r"two vectors that are not zero, to compare directions; got zeros, '0 \*"
        ):
            one.cosine(other)
    with pytest.raises(ArgumentError, match="vectors that are not zero, to read; got zeros as vector"):
        ivlens.logit_lens(model, zero)
    with pytest.raises(ArgumentError, match="k to be at most 320, the number of tokens; got 321"):
        ivlens.logit_lens(model, vector, 321)
    silent = replace(means, values=torch.zeros_like(means.values))
    with pytest.raises(ArgumentError, match="random heads that write something; got zeros"):
        ivlens.random_heads_vector(model, silent, vector, seed=0)
    frame = (vector - vector).to_frame()
    assert frame["cosine"].isna().all()
    assert cosine(torch.zeros(2, 3), torch.ones(2, 3)).isnan().all()
    assert cosine(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])).item() == pytest.approx(0.96)
    with pytest.raises(ArgumentError, match="a vector of ability 'x' that is not zero"):
        ivlens.Ability("x", tuple(SOUND), zero).check(model)


def test_means_of_another_kind_are_refused_where_shapes_would_broadcast(model: Any) -> None:
    """As many answers in a batch as heads, and as many places as layers."""
    heads = means_of(model)
    places = PositionMeans(torch.zeros(2, 2, 4, 8), 1, ("-1", "-2"), "position", provenance=dict(heads.provenance))
    with pytest.raises(ArgumentError, match="means to be a HeadMeans, or None; got a PositionMeans"):
        ivlens.ablate(model, [(0, 1)], places)
    with pytest.raises(ArgumentError, match="means to be a HeadMeans or a PartMeans; got a PositionMeans"):
        ivlens.indirect_effects(model, PROMPTS, places)
    with pytest.raises(ArgumentError, match="means to be a PositionMeans or a PositionPartMeans; got a HeadMeans"):
        ivlens.position_effects(model, PROMPTS, heads)
    with pytest.raises(MismatchError, match=r"means of shape \(2, 4, 8\); got \(2, 4, 7\)"):
        check_means(model, replace(heads, values=torch.zeros(2, 4, 7)))


@pytest.mark.parametrize("name", ["W_Q", "_W_K", "b_Q", "q_norm.w"])
def test_queries_and_keys_that_are_no_numbers_silence_no_head(tiny_hooked: Any, name: str) -> None:
    model = tiny_hooked("qwen3")
    means = means_of(model)
    weight = dict(model.blocks[1].attn.named_parameters())[name]
    weight.data[(0,) * weight.ndim] = torch.nan
    assert model(SOUND[0].text).isfinite().all()  # what makes them silent
    for measure in (
        lambda: ivlens.evaluate(model, SOUND),
        lambda: ivlens.mean_head_activations(model, SOUND),
        lambda: ivlens.indirect_effects(model, SOUND, means, method="loop"),
    ):
        with pytest.raises(ArgumentError, match=rf"finite weights; got NaN or infinity in blocks.1.attn.{name}; load"):
            measure()


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "phi3"])
def test_padding_beyond_a_sliding_window_is_no_overflow(tiny_hooked: Any, family: str) -> None:
    model = tiny_hooked(family).to(torch.float16)
    pair = [Prompt("the", " fox"), Prompt("the quick brown fox jumps over the lazy dog and the capital of", " France")]
    together = ivlens.evaluate(model, pair).probabilities
    alone = torch.cat([ivlens.evaluate(model, each).probabilities for each in pair])
    torch.testing.assert_close(together, alone, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_pattern_that_somebody_s_own_hook_makes_zeros_is_an_ablated_head(model: Any, dtype: torch.dtype) -> None:
    def silence(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(pattern)

    with model.to(dtype).hooks([("blocks.1.attn.hook_pattern", silence)]):
        z = ivlens.capture(model, SOUND, ["blocks.1.attn.hook_z"])["blocks.1.attn.hook_z"]
    assert not z.any()
