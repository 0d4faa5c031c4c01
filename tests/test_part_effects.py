"""Effects of attention, MLPs and residual streams beside those of heads: what they are, and their record."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens as iv
from ivlens.effects.checks import check_effects
from ivlens.errors import ArgumentError, MismatchError, PromptError, UnsupportedError
from ivlens.models import attn_out_name, hooked, mlp_out_name, resid_pre_name
from ivlens.vocabulary import all_parts

PARTS = ("head", "attention", "mlp", "residual")
CLEAN = [iv.Prompt(f"the {word} fox", " jumps", task="made up") for word in ("quick", "brown", "lazy")]
CORRUPTED = [iv.Prompt("the fox", " jumps over"), iv.Prompt("1", " + 2"), iv.Prompt("Q: what is the dog?\nA:", " is")]
POINTS = {"attention": attn_out_name, "mlp": mlp_out_name, "residual": resid_pre_name}


@pytest.fixture
def model(tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    return iv.load_model(tiny_hf("gemma2"), tokenizer=tiny_tokenizer(), dtype=torch.float64)


def put(value: Tensor) -> Callable[[Tensor], Tensor]:
    def edit(activation: Tensor) -> Tensor:
        activation[:, -1] = value
        return activation

    return edit


@torch.no_grad()
def test_effects_of_parts_are_those_of_means_put_in_by_hand(model: Any) -> None:
    means = iv.mean_part_activations(model, CLEAN, PARTS)
    assert (means.parts, means.n, means.task) == (PARTS, 3, "made up")
    effects = iv.indirect_effects(model, CORRUPTED[2:], means, parts=PARTS)
    assert effects.method == "exact"
    encoded = CORRUPTED[2].encode(model.tokenizer)
    (answer,) = encoded.answer_ids
    tokens = torch.tensor([encoded.prompt_ids])

    def score() -> Tensor:
        return model(tokens)[0, -1].log_softmax(-1)[answer]

    clean = score()
    torch.testing.assert_close(effects.baseline[0], clean)
    for part, name in POINTS.items():
        for layer in range(model.cfg.n_layers):
            activations = iv.capture(model, CLEAN, [name(layer)])[name(layer)]
            torch.testing.assert_close(means.of(part)[layer], activations)
            with hooked(model, {name(layer): put(activations)}):
                expected = score() - clean
            assert expected.abs() > 1e-3
            torch.testing.assert_close(effects.of(part)[0, layer], expected, atol=1e-9, rtol=0)


def test_heads_among_parts_are_heads_alone(model: Any) -> None:
    means = iv.mean_part_activations(model, CLEAN, ("mlp", "head"))
    heads = iv.mean_head_activations(model, CLEAN)
    torch.testing.assert_close(means.head, heads.values, atol=1e-12, rtol=1e-9)  # recorded in another pass
    effects = iv.indirect_effects(model, CORRUPTED, means, parts=("mlp", "head"))
    expected = iv.indirect_effects(model, CORRUPTED, heads)
    torch.testing.assert_close(effects.head, expected.values, atol=1e-9, rtol=0)
    assert effects.attention is None
    assert effects.parts == ("head", "mlp")


def test_the_loop_gives_the_same_in_another_metric(model: Any) -> None:
    means = iv.mean_part_activations(model, CLEAN, PARTS)
    one, other = (
        iv.indirect_effects(model, CORRUPTED, means, parts=PARTS, metric="logit-difference", method=method)
        for method in ("exact", "loop")
    )
    assert other.method == "loop"
    for part in PARTS:
        torch.testing.assert_close(one.of(part), other.of(part), atol=1e-9, rtol=0)


def test_the_frame_ranks_all_parts_together(model: Any, tmp_path: Any) -> None:
    means = iv.mean_part_activations(model, CLEAN)
    effects = iv.indirect_effects(model, CORRUPTED, means, parts=("head", "attention", "mlp"))
    frame = effects.to_frame()
    assert list(frame) == ["part", "layer", "head", "aie", "stderr", "rank"]
    assert len(frame) == model.cfg.n_layers * (model.cfg.n_heads + 2)
    assert frame["aie"].is_monotonic_decreasing
    assert frame["head"].isna().sum() == 2 * model.cfg.n_layers
    for row in frame.itertuples():
        at = (row.layer,) if row.part != "head" else (row.layer, row.head)
        assert row.aie == effects.aie(row.part)[at].item()
        assert row.stderr == effects.stderr(row.part)[at].item()
    again = iv.PartEffects.load(effects.save(tmp_path / "effects.safetensors"))
    assert torch.equal(again.mlp, effects.mlp)
    assert torch.equal(again.means.attention, means.attention)
    assert again.residual is None
    with pytest.raises(ArgumentError, match="one of the parts head, attention, mlp; got 'residual'"):
        again.aie("residual")


def test_a_bridge_gives_the_same(model: Any, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    bridge = iv.load_model(tiny_hf("gemma2").double(), tokenizer=tiny_tokenizer(), engine="bridge")
    one, other = (
        iv.indirect_effects(each, CORRUPTED, iv.mean_part_activations(each, CLEAN, PARTS), parts=PARTS)
        for each in (model, bridge)
    )
    for part in PARTS:
        torch.testing.assert_close(one.of(part), other.of(part), atol=2e-5, rtol=0)


def test_half_precision_warns_of_its_noise(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    half = iv.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=torch.bfloat16)
    means = iv.mean_part_activations(half, CORRUPTED[:1], ("mlp",))  # nothing changes but by rounding
    with pytest.warns(iv.PrecisionWarning, match="the 2 strongest effects"):
        iv.indirect_effects(half, CORRUPTED[:1], means, parts=("mlp",))
    wide = iv.indirect_effects(half, CORRUPTED, means, parts=("mlp",), stream_dtype=torch.float32)
    assert wide.mlp.dtype == torch.float32


def test_parts_without_a_finite_effect_are_named() -> None:
    effects = torch.zeros(3, 4)
    effects[1, 3] = torch.inf
    with pytest.raises(PromptError, match=r"of 1 parts, mlp 1 first, on prompt 2 \('1'\)"):
        check_effects(CORRUPTED, effects, torch.zeros(3), all_parts(("attention", "mlp"), 2, 4))


def test_what_does_not_fit_is_refused_by_name(model: Any, tiny_hooked: Any, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    heads, means = iv.mean_head_activations(model, CLEAN), iv.mean_part_activations(model, CLEAN, ("mlp", "head"))
    with pytest.raises(ArgumentError, match="means of the parts head, mlp; got none of mlp; take them by mean_part"):
        iv.indirect_effects(model, CORRUPTED, heads, parts=("head", "mlp"))
    with pytest.raises(ArgumentError, match="got none of attention"):
        iv.indirect_effects(model, CORRUPTED, means, parts=("attention",))
    with pytest.raises(ArgumentError, match="different parts, one or more"):
        iv.indirect_effects(model, CORRUPTED, means, parts=("mlp", "mlp"))
    with pytest.raises(ArgumentError, match="'head', 'attention', 'mlp', 'residual'; got 'z'"):
        iv.indirect_effects(model, CORRUPTED, means, parts=("z",))
    with pytest.raises(MismatchError, match="the mean activations"):
        iv.indirect_effects(tiny_hooked("llama"), CORRUPTED, means, parts=("mlp",))
    with pytest.raises(ArgumentError, match="finite means of part 'mlp'"):
        iv.PartMeans(None, None, torch.tensor([[torch.nan]]), None, 1)
    bridge = iv.load_model(tiny_hf("opt"), tokenizer=tiny_tokenizer(), engine="bridge")
    with pytest.raises(UnsupportedError, match=r"layer 0 .*leave out part 'mlp'"):
        iv.mean_part_activations(bridge, CLEAN, ("mlp",))
