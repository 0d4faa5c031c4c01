"""A tiny model to train, prompts for it, and a vector."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import ivlens
from ivlens import Prompt
from ivlens.training import Guidance
from ivlens.training.term import OwnTexts


@pytest.fixture
def make_model(tiny_hooked: Callable[..., Any]) -> Callable[[], Any]:
    """``make_model()``: the same tiny random model at each call."""
    return tiny_hooked


@pytest.fixture
def preset_guidance() -> Callable[..., Guidance]:
    """``preset_guidance(name)``: a preset whose base model writes only a few short texts itself."""

    def made(name: str, **options: Any) -> Guidance:
        terms = Guidance.preset(name, **options).terms
        return Guidance(
            tuple(replace(term, n_texts=4, n_tokens=6) if isinstance(term, OwnTexts) else term for term in terms)
        )

    return made


@pytest.fixture
def prompts() -> list[Prompt]:
    words = ["capital", "of", "France", "is", "Paris", "and", "the", "quick", "brown", "fox", "jumps"]
    return [Prompt(f"Q: {word} A:", (f" {after}",), task="next") for word, after in pairwise(words)]


@pytest.fixture
def others() -> list[Prompt]:
    return [Prompt(f"the {word} is", (" Paris",), task="old") for word in ("fox", "capital of France", "dog over", "Q")]


@pytest.fixture
def vector(make_model: Callable[[], Any]) -> ivlens.InstructionVector:
    means = ivlens.mean_head_activations(make_model(), [Prompt("Q: the fox A:", (" x",))])
    return ivlens.instruction_vector(make_model(), means, [(0, 1), (1, 0), (1, 2)])
