"""Half precision: the warning where effects are near its noise, and float32 streams, which leave the model as it is."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, PrecisionWarning, Prompt

PROMPTS = [Prompt("the quick brown fox jumps over the", " lazy"), Prompt("the capital of France is", " Paris")]


@pytest.fixture
def half(tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    return ivlens.load_model(tiny_hf("llama").bfloat16(), tokenizer=tiny_tokenizer(), dtype=torch.bfloat16)


def effects(model: Any, means: Any, **options: Any) -> Any:
    return ivlens.indirect_effects(model, PROMPTS, means, metric="log-probability", **options)


def test_large_effects_and_wider_streams_are_silent(half: Any) -> None:
    means = ivlens.mean_head_activations(half, PROMPTS[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        effects(half, replace(means, values=torch.full_like(means.values, 10)))
        silent = effects(half, means, stream_dtype=torch.float32)
    assert silent.provenance["settings"]["stream_dtype"] == "torch.float32"


def test_float32_streams_are_nearer_to_float64_than_half_precision(
    half: Any, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    wide = ivlens.load_model(tiny_hf("llama").bfloat16().double(), tokenizer=tiny_tokenizer(), dtype=torch.float64)
    means = ivlens.mean_head_activations(wide, PROMPTS[:1])
    truth = effects(wide, means).values
    means = replace(ivlens.mean_head_activations(half, PROMPTS[:1]), values=means.values)
    single = effects(half, means, stream_dtype=torch.float32).values.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        rounded = effects(half, means).values.double()
    assert (single - truth).abs().max() < 1e-4
    assert (rounded - truth).abs().max() > 100 * (single - truth).abs().max()


def test_rounding_alone_is_told_of(half: Any) -> None:
    """A head's own output put in its place is an effect of nothing but rounding."""
    prompt = PROMPTS[:1]
    means = ivlens.mean_head_activations(half, prompt)
    with pytest.warns(PrecisionWarning, match=r"near the noise of torch.bfloat16.*pass stream_dtype=torch.float32"):
        ivlens.indirect_effects(half, prompt, means, metric="log-probability")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stream_dtype": torch.bfloat16}, "torch.float32 or torch.float64"),
        ({"stream_dtype": torch.float32, "method": "loop"}, "method='exact' only"),
        ({"stream_budget": 1}, "stream_budget to be a whole number of 2 or more"),
    ],
)
def test_what_streams_cannot_be_is_refused(half: Any, options: Any, told: str) -> None:
    means = ivlens.mean_head_activations(half, PROMPTS)
    with pytest.raises(ArgumentError, match=told):
        effects(half, means, **options)
