"""Dropout of LoRA is PEFT's: each update misses inputs of its own, and the weight itself none."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from ivlens import export_adapter
from ivlens.models import add_lora, checkpointed, dropout, lora_dropout, lora_factors

SHARE = 1 / 3
TOKENS = torch.arange(10, 40).reshape(2, 15)
TARGETS = {"W_Q": "q_proj", "W_K": "k_proj", "W_V": "v_proj", "W_O": "o_proj",
           "W_in": "up_proj", "W_gate": "gate_proj", "W_out": "down_proj"}  # fmt: skip
FAMILIES = ["llama", "gemma3_text"]


def every_third(inputs: Tensor, *_: Any) -> Tensor:
    """An outcome of the dropout that both sides can be given."""
    return (torch.arange(inputs.numel()) % 3 > 0).view_as(inputs).to(inputs)


class EveryThird(torch.nn.Module):
    """PEFT's dropout with that outcome."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * every_third(inputs) / (1 - SHARE)


@torch.no_grad()
def updated(model: Any, *targets: str) -> Any:
    """The model with updates that change what it computes."""
    add_lora(model, 3, 6.0, targets or tuple(TARGETS), None, 0)
    generator = torch.Generator().manual_seed(1)
    for _, outer in lora_factors(model).values():
        outer.copy_(torch.randn(outer.shape, generator=generator) * 0.3)
    return model


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    return model(TOKENS)


def gradients(model: Any) -> dict[tuple[int, str], tuple[Tensor, ...]]:
    return {key: tuple(each.grad.clone() for each in pair) for key, pair in lora_factors(model).items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_logits_and_gradients_are_pefts(
    tiny_hooked: Any, tiny_hf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(dropout, "_kept", every_third)
    model = updated(tiny_hooked(family))
    export_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_hf(family), tmp_path, is_trainable=True)
    for module in theirs.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.lora_dropout["default"] = EveryThird()
    with lora_dropout(model, SHARE, "seed"):
        ours = model(TOKENS)
    expected = theirs(TOKENS).logits
    assert (expected - logits_of(model)).abs().max() > 0.1
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)
    for logits in (ours, expected):
        logits.log_softmax(-1)[..., 5].sum().backward()
    found = {name: each.grad for name, each in theirs.named_parameters() if each.grad is not None}
    for (layer, target), pair in gradients(model).items():
        for factor, own in zip("AB", pair, strict=True):
            (other,) = (
                each
                for at, each in found.items()
                if f"layers.{layer}." in at and f"{TARGETS[target]}.lora_{factor}" in at
            )
            torch.testing.assert_close(own, other, atol=2e-4, rtol=1e-3)


def test_the_seed_decides_what_is_missed(tiny_hooked: Any) -> None:
    model = updated(tiny_hooked("llama"))
    whole = logits_of(model)

    def dropped(seed: str, share: float = SHARE) -> Tensor:
        with lora_dropout(model, share, seed):
            return logits_of(model)

    assert torch.equal(dropped("a"), dropped("a"))
    assert not torch.equal(dropped("a"), dropped("b"))
    assert torch.equal(dropped("a", 0.0), whole)
    assert torch.equal(logits_of(model), whole)


def test_each_update_misses_a_share_of_its_own(tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, drawn, own = updated(tiny_hooked("llama"), "W_Q", "W_K", "W_V"), [], dropout._kept

    def spy(*given: Any) -> Tensor:
        drawn.append(own(*given))
        return drawn[-1]

    monkeypatch.setattr(dropout, "_kept", spy)
    with lora_dropout(model, SHARE, "seed"):
        logits_of(model)
    assert len(drawn) == 3 * model.cfg.n_layers
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == len(drawn)
    assert abs(torch.stack(drawn).mean().item() - (1 - SHARE)) < 0.02


def test_recomputed_blocks_miss_the_same_inputs(tiny_hooked: Any) -> None:
    model = updated(tiny_hooked("llama"))
    with lora_dropout(model, SHARE, "seed"):
        model(TOKENS).log_softmax(-1)[..., 5].sum().backward()
    stored = gradients(model)
    model.zero_grad()
    with checkpointed(model), lora_dropout(model, SHARE, "seed"):
        model(TOKENS).log_softmax(-1)[..., 5].sum().backward()
    for key, pair in gradients(model).items():
        torch.testing.assert_close(pair, stored[key])
