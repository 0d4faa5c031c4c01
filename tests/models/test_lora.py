"""Low-rank updates: what learns, what they add, and that they can be switched off, copied and folded in exactly."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from ivlens.errors import ArgumentError
from ivlens.models import add_lora, has_lora, lora_factors, lora_off, merge_lora, model_facts
from ivlens.models.facts import weights_sha256
from ivlens.models.families import FAMILIES
from ivlens.models.lora import weight_names

TOKENS = torch.arange(10, 40).reshape(2, 15)
UNGATED = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out")


def targets_of(model: Any) -> tuple[str, ...]:
    return (*UNGATED, "W_gate") if model.cfg.gated_mlp else UNGATED


def added(model: Any, *targets: str, rank: int = 3, layers: Any = None, seed: int = 0) -> Any:
    add_lora(model, rank, 6.0, targets or targets_of(model), layers, seed)
    return model


@torch.no_grad()
def learn(model: Any, seed: int = 1) -> Any:
    """Give every B values far from zero, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for _, outer in lora_factors(model).values():
        outer.copy_(torch.randn(outer.shape, generator=generator) * 0.3)
    return model


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    return model(TOKENS)


def weights_of(model: Any) -> dict[str, Tensor]:
    """The weights that the model computes with, copied."""
    found = {}
    for name in weight_names(model):
        path, _, leaf = name.rpartition(".")
        found[name] = getattr(model.get_submodule(path), leaf).detach().clone()
    return found


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tiny_hooked: Any) -> Any:
    return tiny_hooked(request.param)


def test_new_updates_change_nothing(model: Any) -> None:
    before, weights = logits_of(model), weights_of(model)
    added(model)
    assert all(torch.equal(weight, weights[name]) for name, weight in weights_of(model).items())
    torch.testing.assert_close(logits_of(model), before)


def test_learnt_updates_change_the_logits(model: Any) -> None:
    before = logits_of(model)
    assert (logits_of(learn(added(model))) - before).abs().max() > 0.1


def test_only_the_factors_learn(model: Any) -> None:
    learn(added(model))
    model(TOKENS).square().mean().backward()
    factors = {id(factor) for pair in lora_factors(model).values() for factor in pair}
    assert len(factors) == 2 * len(targets_of(model)) * model.cfg.n_layers
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in factors), name
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0) == (id(parameter) in factors), name


def test_an_update_is_alpha_over_rank_times_b_a_in_hugging_faces_orientation(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama", head_dim=12)
    before = weights_of(model)
    learn(added(model, rank=2))
    change = {name: weight - before[name] for name, weight in weights_of(model).items()}
    factors = lora_factors(model)
    for layer in range(2):
        path = f"blocks.{layer}."
        for target, ours in {"W_Q": "attn.W_Q", "W_K": "attn._W_K", "W_V": "attn._W_V"}.items():
            inner, outer = factors[layer, target]
            for head, of_head in enumerate(outer.split(12)):
                torch.testing.assert_close(change[path + ours][head], 3.0 * (of_head @ inner).T, atol=1e-5, rtol=0)
        inner, outer = factors[layer, "W_O"]
        for head, of_head in enumerate(inner.split(12, dim=1)):
            torch.testing.assert_close(change[path + "attn.W_O"][head], 3.0 * (outer @ of_head).T, atol=1e-5, rtol=0)
        for target in ("W_in", "W_gate", "W_out"):
            inner, outer = factors[layer, target]
            torch.testing.assert_close(change[path + f"mlp.{target}"], 3.0 * (outer @ inner).T, atol=1e-5, rtol=0)
    assert not any(change[name].any() for name in change if ".W_" not in name and "._W_" not in name)


def test_updated_weights_lie_in_memory_as_the_weights_do(model: Any) -> None:
    names = [name for name in weight_names(model) if name.startswith("blocks.") and "W_" in name]
    of = {name: model.get_parameter(name).stride() for name in names}
    learn(added(model))
    for name in names:
        path, _, leaf = name.rpartition(".")
        assert getattr(model.get_submodule(path), leaf).stride() == of[name], name


def test_switched_off_the_base_weights_are_used_themselves(model: Any) -> None:
    before = logits_of(model)
    updated = logits_of(learn(added(model)))
    with lora_off(model):
        assert torch.equal(logits_of(model), before)
        assert model.blocks[1].attn.W_Q is model.blocks[1].attn.parametrizations.W_Q.original
        with lora_off(model):
            pass
        assert torch.equal(logits_of(model), before)
    assert torch.equal(logits_of(model), updated)


def test_an_exception_switches_them_on_again(tiny_hooked: Any) -> None:
    model = learn(added(tiny_hooked()))
    updated = logits_of(model)
    with pytest.raises(RuntimeError, match="oops"), lora_off(model):
        raise RuntimeError("oops")
    assert torch.equal(logits_of(model), updated)


def test_switching_off_sees_through_torchs_cache_of_updated_weights(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    before = logits_of(model)
    learn(added(model))
    updated = logits_of(model)
    with parametrize.cached():
        assert torch.equal(logits_of(model), updated)
        with lora_off(model):
            assert torch.equal(logits_of(model), before)
        assert torch.equal(logits_of(model), updated)


def test_merging_keeps_what_the_model_computes_and_what_its_parameters_are(model: Any) -> None:
    parameters = {name: (parameter, parameter.stride()) for name, parameter in model.named_parameters()}
    classes = [type(module) for module in model.modules()]
    learn(added(model))
    weights, updated = weights_of(model), logits_of(model)
    merge_lora(model)
    assert all(torch.equal(weight, weights[name]) for name, weight in weights_of(model).items())
    torch.testing.assert_close(logits_of(model), updated)
    assert [type(module) for module in model.modules()] == classes
    after = {name: (parameter, parameter.stride()) for name, parameter in model.named_parameters()}
    assert after.keys() == parameters.keys()
    assert all(after[name][0] is parameters[name][0] and after[name][1] == parameters[name][1] for name in after)
    assert not has_lora(model)
    assert not lora_factors(model)


def test_what_learnt_before_learns_again_after_merging(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    model.embed.W_E.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    merge_lora(added(model))
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert 0 < sum(before.values()) < len(before)


def test_merged_twice_is_updated_twice(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    start = weights_of(model)["blocks.0.attn.W_Q"]
    merge_lora(learn(added(model)))
    once = weights_of(model)["blocks.0.attn.W_Q"]
    merge_lora(learn(added(model)))
    torch.testing.assert_close(weights_of(model)["blocks.0.attn.W_Q"] - once, once - start, atol=1e-5, rtol=0)


def test_the_seed_alone_decides_the_factors(tiny_hooked: Any) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = lora_factors(added(tiny_hooked(), seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again, other = lora_factors(added(tiny_hooked(), seed=5)), lora_factors(added(tiny_hooked(), seed=6))
    for key, (inner, outer) in one.items():
        assert torch.equal(inner, again[key][0])
        assert not torch.equal(inner, other[key][0])
        assert not outer.any()
    assert not torch.equal(one[0, "W_Q"][0], one[1, "W_Q"][0])
    assert not torch.equal(one[0, "W_Q"][0], one[0, "W_K"][0])


def test_the_factors_do_not_depend_on_what_else_has_some(tiny_hooked: Any) -> None:
    all_of, few = lora_factors(added(tiny_hooked())), lora_factors(added(tiny_hooked(), "W_out", "W_Q", layers=[1]))
    assert set(few) == {(1, "W_out"), (1, "W_Q")}
    assert all(torch.equal(inner, all_of[key][0]) for key, (inner, _) in few.items())


def test_a_starts_as_pefts_does(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    inner, _ = lora_factors(added(model, rank=32))[0, "W_out"]
    bound = model.cfg.d_mlp**-0.5  # kaiming, a = sqrt(5): uniform within one over the root of the inputs
    assert inner.abs().max() <= bound
    assert inner.abs().max() > 0.99 * bound
    assert inner.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_factors_have_the_weights_dtype(tiny_hooked: Any) -> None:
    model = learn(added(tiny_hooked().to(torch.bfloat16)))
    assert {factor.dtype for pair in lora_factors(model).values() for factor in pair} == {torch.bfloat16}
    assert logits_of(model).dtype == torch.bfloat16


def test_layers_without_updates_stay(tiny_hooked: Any) -> None:
    model = tiny_hooked(num_hidden_layers=3)
    before = weights_of(model)
    learn(added(model, "W_V", layers=range(1, 2)))
    changed = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
    assert changed == {"blocks.1.attn._W_V"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 0}, "rank to be a number of 1 or more; got 0"),
        ({"alpha": 0.0}, "alpha to be a positive number; got 0.0"),
        ({"alpha": float("nan")}, "alpha to be a positive number; got nan"),
        ({"targets": ("W_Q", "W_gate")}, "targets out of W_Q, W_K, W_V, W_O, W_in, W_out; got W_Q, W_gate"),
        ({"targets": ("W_E",)}, "targets out of .*; got W_E"),
        ({"targets": ()}, "targets out of .*; got none"),
        ({"layers": [0, 2]}, "layers from 0 to 1, one or more; got .0, 2."),
        ({"layers": [-1]}, "layers from 0 to 1, one or more; got .-1."),
        ({"layers": []}, "layers from 0 to 1, one or more; got .."),
    ],
)
def test_what_cannot_be_updated_is_refused_and_nothing_is_changed(tiny_hooked: Any, options: Any, text: str) -> None:
    model = tiny_hooked("gpt2")
    choices = {"rank": 2, "alpha": 1.0, "targets": ("W_Q",), "layers": None, "seed": 0} | options
    with pytest.raises(ArgumentError, match=text):
        add_lora(model, **choices)
    assert not has_lora(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_lora_is_added_once(tiny_hooked: Any) -> None:
    model = added(tiny_hooked(), "W_Q")
    with pytest.raises(ArgumentError, match=r"a model without LoRA; got one that has it; call merge_lora\(model\)"):
        added(model, "W_K")
    assert {target for _, target in lora_factors(model)} == {"W_Q"}


def test_without_lora_there_is_nothing_to_switch_or_merge(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    for use in (merge_lora, lambda model: lora_off(model).__enter__()):
        with pytest.raises(ArgumentError, match="a model with LoRA; got one without"):
            use(model)


def test_updates_that_are_off_are_not_merged(tiny_hooked: Any) -> None:
    model = learn(added(tiny_hooked()))
    with lora_off(model), pytest.raises(ArgumentError, match="switched on"):
        merge_lora(model)
    assert has_lora(model)


def test_the_models_facts_follow_its_updates(model: Any) -> None:
    base = model_facts(model)
    added(model)
    assert model_facts(model) == base
    learn(model)
    updated = model_facts(model)
    assert updated["weights_sha256"] != base["weights_sha256"]
    assert updated | {"weights_sha256": base["weights_sha256"]} == base
    with lora_off(model):
        assert model_facts(model) == base
    assert model_facts(model) == updated
    merge_lora(model)
    assert model_facts(model) == updated
    assert weights_sha256(model) == updated["weights_sha256"]


def test_a_step_of_training_is_seen_in_the_facts(tiny_hooked: Any) -> None:
    model = added(tiny_hooked())
    before = model_facts(model)["weights_sha256"]
    model(TOKENS).square().mean().backward()
    torch.optim.AdamW([factor for pair in lora_factors(model).values() for factor in pair], lr=1e-2).step()
    assert model_facts(model)["weights_sha256"] != before


def test_a_deep_copy_lives_on_its_own(tiny_hooked: Any) -> None:
    model = learn(added(tiny_hooked()))
    other = copy.deepcopy(model)
    updated = logits_of(model)
    with lora_off(model):
        assert torch.equal(logits_of(other), updated)
    learn(model, seed=2)
    merge_lora(model)
    assert torch.equal(logits_of(other), updated)
    assert (logits_of(model) - updated).abs().max() > 0.1
    merge_lora(other)
    torch.testing.assert_close(logits_of(other), updated)


def test_a_state_dict_carries_the_factors(tiny_hooked: Any) -> None:
    model, other = learn(added(tiny_hooked())), added(tiny_hooked(seed=3), seed=3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(other), logits_of(model))


@torch.no_grad()
def test_hooks_see_the_updated_model(tiny_hooked: Any) -> None:
    model = learn(added(tiny_hooked("gpt2")))
    _, cache = model.run_with_cache(TOKENS, names_filter=lambda name: "attn" in name)
    merge_lora(model)
    _, merged = model.run_with_cache(TOKENS, names_filter=lambda name: "attn" in name)
    torch.testing.assert_close(cache["blocks.1.attn.hook_z"], merged["blocks.1.attn.hook_z"])
    torch.testing.assert_close(model.W_Q[1], model.blocks[1].attn.W_Q)
