"""Weights between two models: their ends are the models' own bits, and the tuned model is what it was afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import ivlens as iv
from ivlens.checkpoints.mixing import Fractions, MixedWeights, mixed_weights
from ivlens.checkpoints.sources import two_checkpoints
from ivlens.errors import ArgumentError, MismatchError, UnsupportedError
from ivlens.models import add_lora, weight_names, weight_parts
from ivlens.vocabulary import Head
from tiny_models import HYBRID, ONLY_BRIDGED, TINY

TOKENS = torch.arange(10, 40)[None]
MODELS = [("llama", "hooked"), ("gpt2", "hooked"), ("llama", "bridge"), ("gpt2", "bridge"), ("mixtral", "bridge")]
IN_ATTENTION = {"attn", "self_attn", "attention", "self_attention", "linear_attn"}

Load = Callable[..., Any]


@pytest.fixture
def loaded(tiny_hf: Any, tiny_tokenizer: Any) -> Load:
    """``loaded(model_type="llama", engine="hooked", seed=0, dtype=torch.float32, **config)``: a tiny model."""

    def made(
        model_type: str = "llama", engine: str = "hooked", seed: int = 0, dtype: Any = torch.float32, **config: Any
    ) -> Any:
        theirs = tiny_hf(model_type, seed=seed, **config).to(dtype)
        return iv.load_model(theirs, tokenizer=tiny_tokenizer(), engine=engine, dtype=dtype)

    return made


@contextmanager
def mixed(base: Any, tuned: Any, folder: Path, **options: Any) -> Iterator[MixedWeights]:
    first, second = two_checkpoints(base, tuned, options, folder / "facts")
    with mixed_weights(first, second, folder) as found:
        yield found


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items() if name in {*weight_names(model)}}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def uniform(model: Any, fraction: float) -> Fractions:
    return Fractions.uniform(model.cfg.n_layers, fraction)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(TOKENS)


@pytest.mark.parametrize(("model_type", "engine"), MODELS)
def test_fractions_0_and_1_are_the_two_models_bit_by_bit(
    loaded: Load, tmp_path: Path, model_type: str, engine: str
) -> None:
    base, tuned = (loaded(model_type, engine, seed) for seed in (0, 1))
    before, after = weights_of(base), weights_of(tuned)
    expected = {fraction: logits(model) for fraction, model in ((0.0, base), (1.0, tuned))}
    with mixed(base, tuned, tmp_path) as between:
        assert between.model is tuned
        for fraction in (0.0, 0.3, 1.0, 0.0):
            between.mix(uniform(tuned, fraction))
            if fraction in expected:
                assert equal(weights_of(tuned), after if fraction else before)
                assert torch.equal(logits(tuned), expected[fraction])
    assert equal(weights_of(tuned), after)
    assert equal(weights_of(base), before)


def test_weights_that_are_stored_transposed_stay_so(loaded: Load, tmp_path: Path) -> None:
    base, tuned = loaded(), loaded(seed=1)
    queries = tuned.blocks[0].attn.W_Q
    stride, place = queries.stride(), queries.data_ptr()
    assert not queries.is_contiguous()
    with mixed(base, tuned, tmp_path) as between:
        between.mix(uniform(tuned, 0.0))
        assert torch.equal(queries, base.blocks[0].attn.W_Q)
        assert between.base["blocks.0.attn.W_Q"].stride() == stride
    assert (queries.stride(), queries.data_ptr()) == (stride, place)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_the_tuned_model_is_what_it_was_after_an_error(
    loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, error: type[BaseException]
) -> None:
    base, tuned = (loaded("llama", engine, seed) for seed in (0, 1))
    after = weights_of(tuned)

    def interrupted() -> None:
        with mixed(base, tuned, tmp_path) as between:
            between.mix(uniform(tuned, 0.5))
            write, calls = between.write, iter(range(100))

            def failing(name: str, values: Tensor) -> None:
                write(name, values)
                if next(calls) == 3:  # in the middle of a mixture, a weight written of which nothing was noted
                    raise error

            monkeypatch.setattr(between, "write", failing)
            between.mix(uniform(tuned, 0.25))

    with pytest.raises(error):
        interrupted()
    assert equal(weights_of(tuned), after)


@pytest.mark.parametrize("model_type", [*TINY, *ONLY_BRIDGED, *HYBRID])
def test_every_weight_of_a_bridged_family_has_its_part(loaded: Load, model_type: str) -> None:
    bridge = loaded(model_type, "bridge")
    parts = weight_parts(bridge)
    assert {*parts} == {*weight_names(bridge)}
    kinds = {(part.kind, part.layer) for part in parts.values()}
    assert kinds == {("rest", None), *((kind, layer) for layer in (0, 1) for kind in ("attention", "mlp"))}
    for name, part in parts.items():
        steps = name.split(".")
        layer = next((int(step) for step in steps if step.isdecimal()), None)
        norm = any("norm" in step or step.startswith("ln") for step in steps)
        if layer is None:
            assert part.kind == "rest", name
        elif IN_ATTENTION & {*steps}:
            assert part == ("attention", layer), name
        else:
            assert part == (("rest", None) if norm else ("mlp", layer)), name


@pytest.mark.parametrize("model_type", TINY)
def test_every_weight_of_a_hooked_family_has_its_part(loaded: Load, model_type: str) -> None:
    parts = weight_parts(loaded(model_type))
    leaves = {"attention": set[str](), "mlp": set[str](), "rest": set[str]()}
    for name, part in parts.items():
        outer, *path = name.split(".")
        assert part.layer == (None if part.kind == "rest" else int(path[0]))
        leaves[part.kind].add(path[-1] if part.kind != "rest" else outer if outer != "blocks" else path[1])
    names = {name.lstrip("_") for name in leaves["attention"]}
    assert {"W_Q", "W_K", "W_V", "W_O"} <= names
    assert {"W_in", "W_out"} <= leaves["mlp"] <= {"W_in", "W_out", "W_gate", "b_in", "b_out"}
    assert {"embed", "unembed"} <= leaves["rest"]
    assert all("W_" not in name for name in leaves["rest"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixed_weights_equal_float64_by_hand(loaded: Load, tmp_path: Path, dtype: torch.dtype) -> None:
    base, tuned = (loaded(seed=seed, dtype=dtype) for seed in (0, 1))
    before, after = weights_of(base), weights_of(tuned)
    given = Fractions((0.25, 0.0), (0.7, 1.0), 0.1)
    with mixed(base, tuned, tmp_path) as between:
        between.mix(given)
        found = weights_of(tuned)
    parts = weight_parts(tuned)
    for name, values in found.items():
        expected = before[name].double() + given.of(parts[name]) * (after[name].double() - before[name].double())
        atol = 1e-6 if dtype is torch.float32 else 1e-15
        torch.testing.assert_close(values.double(), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_half_precision_is_mixed_in_float32_and_rounded_once(loaded: Load, tmp_path: Path, engine: str) -> None:
    base, tuned = (loaded("llama", engine, seed, torch.bfloat16) for seed in (0, 1))
    before, after = weights_of(base), weights_of(tuned)
    with mixed(base, tuned, tmp_path) as between:
        between.mix(uniform(tuned, 0.3))
        found = weights_of(tuned)
    differs = False
    for name, values in found.items():
        expected = before[name].float() + 0.3 * (after[name].float() - before[name].float())
        assert torch.equal(values, expected.bfloat16()), name
        differs |= not torch.equal(values, before[name] + 0.3 * (after[name] - before[name]))
    assert differs
    assert equal(weights_of(tuned), after)


# what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "architecture"),
        ({"intermediate_size": 64}, r"blocks.0.mlp.W_in: torch.float32 \(32, 64\) against torch.float32 \(32, 48\)"),
        ({"vocab_size": 340}, r"embed.W_E: torch.float32 \(340, 32\) against .* \(320, 32\); .*one vocabulary"),
        ({"dtype": torch.bfloat16}, "dtype"),
        ({"num_hidden_layers": 3}, "got n_layers 3, not 2"),
        ({"seed": 0}, "got the base's own weights; give the tuned model"),
    ],
)
def test_what_is_no_changed_checkpoint_of_the_base_is_refused(
    loaded: Load, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    base, other = loaded(), loaded(**{"seed": 1} | change)
    after = weights_of(other)
    with pytest.raises(MismatchError, match=said), mixed(base, other, tmp_path):
        pass
    assert equal(weights_of(other), after)


def test_lora_is_refused_with_what_to_do(loaded: Load, tmp_path: Path) -> None:
    base, tuned = loaded(), loaded(seed=1)
    add_lora(tuned, rank=2, alpha=4.0, targets=("W_Q",), layers=None, seed=0)
    said = r"merge_lora\(model\) first, or give the adapter's folder"
    with pytest.raises(ArgumentError, match=said), mixed(base, tuned, tmp_path):
        pass


# adapters ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_fraction_scales_an_adapter_as_peft_does(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_hf("llama", num_hidden_layers=2).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(adapter)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    scaled = [each for each in theirs.modules() if isinstance(each, peft.tuners.lora.LoraLayer)]
    full = theirs(TOKENS).logits.detach()
    with mixed(str(base), str(adapter), tmp_path) as between:
        assert len(between.names) == 2 * len(scaled) / 2
        for fraction in (0.0, 0.25, 0.5, 1.0):
            between.mix(uniform(between.model, fraction))
            for each in scaled:
                each.scaling["default"] = fraction * 16 / 4
            with torch.no_grad():
                expected = theirs(TOKENS).logits
            torch.testing.assert_close(logits(between.model), expected, atol=2e-4, rtol=0)
    assert (expected - full).abs().max() == 0


# heads ---------------------------------------------------------------------------------------------------------------


def by_hand(base: Tensor, tuned: Tensor, rows: list[int], n: int, axis: int) -> Tensor:
    """The tuned weight with these of its ``n`` heads from the base."""
    pairs = zip(base.chunk(n, axis), tuned.chunk(n, axis), strict=True)
    return torch.cat([before if number in rows else after for number, (before, after) in enumerate(pairs)], axis)


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "phi"])
def test_heads_are_put_back_with_what_is_theirs_alone(
    loaded: Load, tmp_path: Path, model_type: str, engine: str
) -> None:
    base, tuned = (loaded(model_type, engine, seed) for seed in (0, 1))
    before, after = weights_of(base), weights_of(tuned)
    heads = [Head(0, 0), Head(1, 2), Head(1, 3)]  # with two heads a group, the second pair is a whole one
    with mixed(base, tuned, tmp_path) as between:
        between.mix(uniform(tuned, 0.5))
        between.put_heads_back(heads)
        found = weights_of(tuned)
    groups = tuned.cfg.n_key_value_heads or 4
    shared = {4: {0: [0], 1: [2, 3]}, 2: {0: [], 1: [1]}}[groups]
    alone = {0: [0], 1: [2, 3]}
    changed = 0
    for name, values in found.items():
        steps = name.split(".")
        layer = next((int(step) for step in steps if step.isdecimal()), -1)
        if matched := {"_W_K", "_W_V", "_b_K", "_b_V", "W_K", "W_V", "b_K", "b_V", "k_proj", "v_proj"} & {*steps}:
            expected = by_hand(before[name], after[name], shared[layer], groups, 0)
        elif matched := {"W_Q", "b_Q", "W_O", "q_proj"} & {*steps}:
            expected = by_hand(before[name], after[name], alone[layer], 4, 0)
        elif {"o_proj", "dense"} & {*steps} and name.endswith("weight"):
            matched, expected = {"o_proj"}, by_hand(before[name], after[name], alone[layer], 4, 1)
        else:
            expected = after[name]
        assert torch.equal(values, expected), name
        changed += bool(matched)
    assert changed >= 2 * 4
    assert equal(weights_of(tuned), after)


@pytest.mark.parametrize(("model_type", "came"), [("gpt2", "W_Q of layer 0: none"), ("gpt_neox", "W_Q of layer 0")])
def test_heads_in_a_joint_matrix_of_a_bridge_are_refused_by_name(
    loaded: Load, tmp_path: Path, model_type: str, came: str
) -> None:
    base, tuned = (loaded(model_type, "bridge", seed) for seed in (0, 1))
    with mixed(base, tuned, tmp_path) as between, pytest.raises(UnsupportedError, match=came):
        between.put_heads_back([Head(0, 1)])


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_a_config_that_computes_otherwise_is_refused(loaded: Load, tmp_path: Path, engine: str) -> None:
    faster = {"rope_type": "default", "rope_theta": 10.0}
    base, tuned = loaded("llama", engine), loaded("llama", engine, 1, rope_parameters=faster)
    before = weights_of(tuned)
    with pytest.raises(MismatchError, match=r"rot|rope"), mixed(base, tuned, tmp_path):
        pass
    assert equal(weights_of(tuned), before)


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_a_longer_context_is_none_that_computes_otherwise(loaded: Load, tmp_path: Path, engine: str) -> None:
    base, tuned = loaded("llama", engine), loaded("llama", engine, 1, max_position_embeddings=256)
    with mixed(base, tuned, tmp_path) as between:
        between.mix(uniform(tuned, 0.0))
        torch.testing.assert_close(logits(tuned), logits(base))


@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_tied_embeddings_are_one_weight_in_norms_and_random_changes(
    loaded: Load, tmp_path: Path, model_type: str
) -> None:
    squared, theirs = [], None
    for engine in ("hooked", "bridge"):
        base, tuned = (loaded(model_type, engine, seed, tie_word_embeddings=True) for seed in (0, 1))
        with mixed(base, tuned, tmp_path) as between:
            squared.append(between.squared_changes())
            between.undo_at_random(uniform(tuned, 0.5), 0)
            if engine == "hooked":
                theirs = iv.load_model(iv.export_hf(tuned, tmp_path / model_type))
                torch.testing.assert_close(logits(theirs), logits(tuned), atol=1e-4, rtol=1e-4)  # norms are rounded
                assert theirs.ivlens_config.tie_word_embeddings
    assert squared[0].keys() == squared[1].keys()
    assert all(value == pytest.approx(squared[1][part], rel=1e-5) for part, value in squared[0].items())
