"""LoRA beside the weights is PEFT's: each update misses inputs of its own, and the weight itself none."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from ivlens import export_adapter
from ivlens.errors import HookError
from ivlens.models import Dropout, add_lora, beside, checkpointed, lora_beside, lora_factors, lora_off

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


def seeded(model: Any, share: float = SHARE, *seeds: str, lengths: tuple[int, ...] = (15, 15)) -> Any:
    """The context, with a seed for each row of TOKENS."""
    return lora_beside(model, Dropout(share, [*zip(seeds or ("a", "b"), lengths, strict=True)]))


def pefts(model: Any, plain: Any, folder: Path) -> Any:
    """PEFT's model with the updates of ours."""
    export_adapter(model, folder)
    return peft.PeftModel.from_pretrained(plain, folder, is_trainable=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_logits_and_gradients_are_pefts(
    tiny_hooked: Any, tiny_hf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(beside, "_kept", every_third)
    model = updated(tiny_hooked(family))
    theirs = pefts(model, tiny_hf(family), tmp_path)
    for module in theirs.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.lora_dropout["default"] = EveryThird()
    with seeded(model):
        ours = model(TOKENS)
    expected = theirs(TOKENS).logits
    assert (expected - logits_of(model)).abs().max() > 0.1
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)
    for logits in (ours, expected):
        logits.log_softmax(-1)[..., 5].sum().backward()
    found = {name: each.grad for name, each in theirs.named_parameters() if each.grad is not None}
    for (layer, target), pair in gradients(model).items():
        for factor, own in zip("AB", pair, strict=True):
            at = f"{TARGETS[target]}.lora_{factor}"
            (other,) = (each for name, each in found.items() if f"layers.{layer}." in name and at in name)
            torch.testing.assert_close(own, other, atol=2e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_in_bfloat16_a_small_update_is_not_rounded_away(tiny_hooked: Any, tiny_hf: Any, tmp_path: Path) -> None:
    model = updated(tiny_hooked("llama"))
    for _, outer in lora_factors(model).values():
        outer *= 2e-4
    theirs = pefts(model, tiny_hf("llama"), tmp_path)
    points = [f"blocks.{layer}.attn.hook_q" for layer in range(model.cfg.n_layers)]

    def queries(context: Any) -> Tensor:
        with context, torch.autocast("cpu", torch.bfloat16):
            return model.run_with_cache(TOKENS, names_filter=points[0])[1][points[0]].float().flatten(2)

    exact = model.run_with_cache(TOKENS, names_filter=points[0])[1][points[0]].flatten(2)
    with lora_off(model):
        without = model.run_with_cache(TOKENS, names_filter=points[0])[1][points[0]].flatten(2)
    seen: list[Tensor] = []
    layer = theirs.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    layer.register_forward_hook(lambda module, given, output: seen.append(output.float()))
    with torch.autocast("cpu", torch.bfloat16):
        theirs.eval()(TOKENS)
    inside, outside = queries(nullcontext()), queries(seeded(model, 0.0))
    assert (exact - without).abs().max() > 0
    torch.testing.assert_close(outside, seen[0], atol=0, rtol=2**-7)
    assert (outside - exact).square().mean() <= (inside - exact).square().mean()


def test_the_seed_decides_what_is_missed(tiny_hooked: Any) -> None:
    model = updated(tiny_hooked("llama"))
    whole = logits_of(model)

    def dropped(*seeds: str, share: float = SHARE) -> Tensor:
        with seeded(model, share, *seeds):
            return logits_of(model)

    assert torch.equal(dropped("a", "b"), dropped("a", "b"))
    assert not torch.equal(dropped("a", "b")[0], dropped("c", "b")[0])
    assert torch.equal(dropped("a", "b")[1], dropped("c", "b")[1])
    torch.testing.assert_close(dropped("a", "b", share=0.0), whole, atol=2e-5, rtol=1e-5)
    assert torch.equal(logits_of(model), whole)


def test_other_rows_and_padding_do_not_matter(tiny_hooked: Any) -> None:
    model = updated(tiny_hooked("llama"))
    with torch.no_grad(), seeded(model, SHARE, "a", "b", lengths=(9, 15)):
        together = model(TOKENS)
    with torch.no_grad(), lora_beside(model, Dropout(SHARE, [("a", 9)])):
        alone = model(TOKENS[:1, :9])
    torch.testing.assert_close(together[:1, :9], alone, atol=2e-5, rtol=1e-5)


def test_each_update_misses_a_share_of_its_own(tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, drawn, own = updated(tiny_hooked("llama"), "W_Q", "W_K", "W_V"), [], beside._kept

    def spy(*given: Any) -> Tensor:
        drawn.append(own(*given))
        return drawn[-1]

    monkeypatch.setattr(beside, "_kept", spy)
    with seeded(model):
        logits_of(model)
    assert len(drawn) == 3 * model.cfg.n_layers
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == len(drawn)
    assert abs(torch.stack(drawn).mean().item() - (1 - SHARE)) < 0.02


def test_recomputed_blocks_miss_the_same_inputs(tiny_hooked: Any) -> None:
    model = updated(tiny_hooked("llama"))
    with seeded(model):
        model(TOKENS).log_softmax(-1)[..., 5].sum().backward()
    stored = gradients(model)
    model.zero_grad()
    with checkpointed(model), seeded(model):
        model(TOKENS).log_softmax(-1)[..., 5].sum().backward()
    for key, pair in gradients(model).items():
        torch.testing.assert_close(pair, stored[key])


@pytest.mark.parametrize("switch", beside.PER_HEAD)
def test_inputs_of_single_heads_are_refused(tiny_hooked: Any, switch: str) -> None:
    model = updated(tiny_hooked("llama"))
    setattr(model.cfg, switch, True)
    with pytest.raises(HookError, match=f"one input for all heads of a layer; got model.cfg.{switch}"), seeded(model):
        pass
