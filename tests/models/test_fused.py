"""Fused attention against TransformerLens' own: the same numbers and gradients, and memory linear in the length."""

from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens
from ivlens.models import answer_logits, attn_out_name, differentiable, fused_attention, hooked, padded, pattern_name
from ivlens.models.engines import HookedTransformer, HookedTransformerConfig, has_hooked
from ivlens.vocabulary import TokenizedPrompt
from tiny_models import TINY

RAGGED = [TokenizedPrompt(tuple(range(4, 4 + length)), (7, 9)) for length in (5, 17, 40)]  # longer than tiny windows
ROTARY = {"max_position_embeddings": 512}
LONG: dict[str, dict[str, int]] = {"llama": ROTARY, "mistral": ROTARY, "gpt2": {"n_positions": 512}}
STEPS = ("calculate_attention_scores", "apply_causal_mask", "calculate_z_scores")


def logits_and_gradient(model: Any, pairs: list[TokenizedPrompt]) -> tuple[Tensor, Tensor]:
    """The answers' logits, and the gradient of their probabilities at what attention adds in the first layer."""
    seen: list[Tensor] = []

    def watch(activation: Tensor) -> Tensor:
        seen.append(activation.detach().requires_grad_())
        return seen[0]

    with differentiable(model), hooked(model, {attn_out_name(0): watch}):
        logits = torch.cat(answer_logits(model, padded(pairs, "cpu")))
    (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[:, 7].sum(), seen)
    return logits.detach(), gradient


@pytest.mark.parametrize("family", TINY)
def test_numbers_and_gradients_are_those_of_transformer_lens(tiny_hf: Any, tiny_tokenizer: Any, family: str) -> None:
    model = ivlens.load_model(tiny_hf(family), tokenizer=tiny_tokenizer(), dtype=torch.float64)
    expected = logits_and_gradient(model, RAGGED)
    with fused_attention(model):
        found = logits_and_gradient(model, RAGGED)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12 * other.abs().max().item())
        assert other.abs().max() > 0


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_what_autograd_keeps_is_linear_in_the_length(tiny_hf: Any, tiny_tokenizer: Any, family: str) -> None:
    model = ivlens.load_model(tiny_hf(family, **LONG[family]), tokenizer=tiny_tokenizer())

    def kept(length: int) -> int:
        tensors: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits_and_gradient(model, [TokenizedPrompt(tuple(range(4, 68)) * (length // 64), (7,))])
        return sum(tensors.values())

    square = kept(512) - 2 * kept(256)
    with fused_attention(model):
        linear = kept(512) - 2 * kept(256)
    scores = model.cfg.n_layers * model.cfg.n_heads * 4 * (512**2 - 2 * 256**2)  # of half of them, two tensors
    assert square > scores
    assert linear < (0.6 if family == "mistral" else 0.1) * scores  # a sliding window is a mask for all heads together


def test_a_layer_whose_patterns_are_read_computes_them(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    model = ivlens.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=torch.float64)
    patterns: list[Tensor] = []
    with hooked(model, {pattern_name(1): patterns.append}), fused_attention(model):
        assert [STEPS[0] in vars(block.attn) for block in model.blocks] == [True, False]
        found = logits_and_gradient(model, RAGGED)
    torch.testing.assert_close(patterns[0].sum(-1), torch.ones_like(patterns[0].sum(-1)))
    torch.testing.assert_close(found, logits_and_gradient(model, RAGGED), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["gemma2", "bloom", "llama"])
def test_what_the_kernel_does_not_compute_is_left_alone(tiny_hf: Any, tiny_tokenizer: Any, family: str) -> None:
    """Capped scores, ALiBi, and float16, whose overflow is shown on the patterns."""
    dtype = torch.float16 if family == "llama" else torch.float32
    model = ivlens.load_model(tiny_hf(family), tokenizer=tiny_tokenizer(), dtype=dtype)
    with fused_attention(model):
        assert not any(name in vars(block.attn) for block in model.blocks for name in STEPS)


@pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")
def test_attention_in_both_directions_is_left_alone() -> None:
    """Of a model that somebody made in TransformerLens."""
    shape = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "n_ctx": 64, "d_vocab": 320, "act_fn": "gelu"}
    config = HookedTransformerConfig(**shape, attention_dir="bidirectional", dtype=torch.float64, seed=0)
    model = HookedTransformer(config)
    expected = logits_and_gradient(model, RAGGED)
    with fused_attention(model):
        found = logits_and_gradient(model, RAGGED)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_nothing_is_left_behind_by_an_exception(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    model = ivlens.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer())
    with pytest.raises(KeyError), fused_attention(model):
        raise KeyError
    assert not any(name in vars(block.attn) for block in model.blocks for name in STEPS)
