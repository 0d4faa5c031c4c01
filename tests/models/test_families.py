"""Each family's logits are Hugging Face's; whatever would not be represented faithfully is refused by name."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from ivlens import load_model
from ivlens.errors import MismatchError, UnsupportedError
from ivlens.models import families
from ivlens.models.families import FAMILIES, family_of, hooked_config

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with grouped queries, tied": ("llama", {}),
    "llama with as many KV heads as heads, untied": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "llama with heads wider than d_model / n_heads": ("llama", {"head_dim": 12}),
    "llama with llama3 rotary scaling": ("llama", {"head_dim": 16, "rope_parameters": LLAMA3}),
    "gpt2": ("gpt2", {}),
    "gpt2 with scaling by layer, untied, relu": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False, "activation_function": "relu"},
    ),
    "gpt_neox in parallel, partly rotary": ("gpt_neox", {"use_parallel_residual": True}),
    "gpt_neox in sequence, half rotary": (
        "gpt_neox",
        {"use_parallel_residual": False, "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    ),
    "qwen2 with biases": ("qwen2", {}),
    "qwen2 tied, with as many KV heads as heads": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "gemma3 with local and global attention": ("gemma3_text", {}),
    "gemma3 with linear scaling and a logit cap": (
        "gemma3_text",
        {"rope_parameters": LINEAR, "final_logit_softcapping": 5.0},
    ),
    "gpt_neo with global and local attention": ("gpt_neo", {}),
    "gpt_neo with local attention alone, untied": (
        "gpt_neo",
        {"attention_types": [[["local"], 2]], "tie_word_embeddings": False, "intermediate_size": 40},
    ),
    "opt": ("opt", {}),
    "opt untied, gelu": ("opt", {"tie_word_embeddings": False, "activation_function": "gelu"}),
    "gptj partly rotary": ("gptj", {}),
    "gptj tied, wholly rotary, with a narrow MLP": (
        "gptj",
        {"tie_word_embeddings": True, "rotary_dim": 8, "n_inner": 40},
    ),
    "phi half rotary": ("phi", {}),
    "phi with grouped queries, tied, a quarter rotary": (
        "phi",
        {"num_key_value_heads": 2, "tie_word_embeddings": True, "partial_rotary_factor": 0.25},
    ),
    "bloom": ("bloom", {}),
    "bloom untied, with 8 heads": ("bloom", {"n_head": 8, "tie_word_embeddings": False}),
    "mistral with a window": ("mistral", {}),
    "mistral without one, with wide heads and llama3 scaling": (
        "mistral",
        {"sliding_window": None, "head_dim": 16, "num_key_value_heads": 4, "rope_parameters": LLAMA3},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3 tied, with as many KV heads as heads": ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "phi3 with a window": ("phi3", {}),
    "phi3 without one, tied, half rotary": (
        "phi3",
        {"sliding_window": None, "tie_word_embeddings": True, "num_key_value_heads": 4}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    ),
    "gemma with one KV head": ("gemma", {}),
    "gemma untied, with as many KV heads as heads": ("gemma", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "gemma2 with windows and caps": ("gemma2", {}),
    "gemma2 without either": (
        "gemma2",
        {"layer_types": ["full_attention"] * 2, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "olmo clipped, with grouped queries": ("olmo", {}),
    "olmo unclipped, tied": ("olmo", {"clip_qkv": None, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    "olmo2 with grouped queries": ("olmo2", {}),
    "olmo2 tied, with as many KV heads as heads": ("olmo2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
}
LENGTHS = (30, 11, 4)


class Pair(NamedTuple):
    theirs: Any
    ours: Any
    tokens: Tensor
    mask: Tensor


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def pair(request: pytest.FixtureRequest, tiny_hf: Any, tiny_tokenizer: Any) -> Pair:
    model_type, config = request.param
    theirs = tiny_hf(model_type, **config)
    tokens = torch.randint(4, 320, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return Pair(theirs, load_model(theirs, tokenizer=tiny_tokenizer()), tokens * mask, mask)


@torch.no_grad()
def difference(ours: Any, theirs: Any, tokens: Tensor, mask: Tensor) -> float:
    here = ours(tokens, attention_mask=mask)[mask.bool()]
    there = theirs(tokens, attention_mask=mask).logits[mask.bool()]
    assert there.std() > 1, "logits near zero would hide mistakes"
    return (here - there).abs().max().item()


def test_logits_of_one_prompt_are_hugging_faces(pair: Pair) -> None:
    assert difference(pair.ours, pair.theirs, pair.tokens[:1], pair.mask[:1]) < 1e-4


def test_logits_of_a_ragged_batch_are_hugging_faces(pair: Pair) -> None:
    assert difference(pair.ours, pair.theirs, pair.tokens, pair.mask) < 1e-4


@torch.no_grad()
def test_a_padded_row_equals_the_row_alone(pair: Pair) -> None:
    batched = pair.ours(pair.tokens, attention_mask=pair.mask)
    for row, length in enumerate(LENGTHS):
        alone = pair.ours(pair.tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(batched[row, :length], alone, atol=5e-5, rtol=0)


@torch.no_grad()
def test_padding_on_the_left_with_its_mask_changes_nothing(pair: Pair) -> None:
    rolls = [max(LENGTHS) - length for length in LENGTHS]
    tokens, mask = (
        torch.stack([row.roll(by) for row, by in zip(rows, rolls, strict=True)]) for rows in (pair.tokens, pair.mask)
    )
    padded = pair.ours(tokens, attention_mask=mask)
    for row, length in enumerate(LENGTHS):
        alone = pair.ours(pair.tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(padded[row, -length:], alone, atol=5e-5, rtol=0)


def test_float64_is_tighter(pair: Pair, tiny_hf: Any, request: pytest.FixtureRequest, tiny_tokenizer: Any) -> None:
    model_type, config = CASES[request.node.callspec.id]
    theirs = tiny_hf(model_type, **config).double()
    ours = load_model(theirs, dtype=torch.float64, tokenizer=tiny_tokenizer())
    # Hugging Face computes RMS norms and rotary angles in float32 whatever the weights' dtype; its Gemma 2 makes NaN of
    # padding there.
    assert difference(ours, theirs, pair.tokens[:1], pair.mask[:1]) < (1e-11 if model_type == "gpt2" else 2e-5)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "gpt_neo", "mistral", "phi3"])
def test_a_window_shorter_than_the_prompt_matters(tiny_hf: Any, tiny_tokenizer: Any, model_type: str) -> None:
    tokens = torch.arange(10, 40)[None]
    name = "window_size" if model_type == "gpt_neo" else "sliding_window"
    narrow, wide = (load_model(tiny_hf(model_type, **{name: w}), tokenizer=tiny_tokenizer()) for w in (6, 64))
    same = (narrow(tokens) - wide(tokens)).abs().amax(-1)[0] < 1e-4
    assert same[:6].all()
    assert not same[6:].any()


@pytest.fixture
def save(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    """``save(name, model_type, **config)``: a folder with a tiny model and its tokenizer, and the model."""

    def saved(name: str, model_type: str, shard: str = "1GB", **config: Any) -> tuple[Path, Any]:
        model = tiny_hf(model_type, **config)
        model.save_pretrained(tmp_path / name, max_shard_size=shard)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        return tmp_path / name, model

    return saved


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_folders_name_decides_nothing(save: Any, model_type: str) -> None:
    misleading = "llama-2-gpt2" if model_type.startswith("gemma") else "gemma-3-llama-gpt2-pythia"
    folder, theirs = save(misleading, model_type)
    ours = load_model(folder)
    assert ours.cfg.original_architecture == type(theirs).__name__
    tokens = torch.arange(10, 40)[None]
    assert difference(ours, theirs, tokens, torch.ones_like(tokens)) < 1e-4


def test_shards_are_read_together(save: Any) -> None:
    whole, parts = save("whole", "qwen2")[0], save("parts", "qwen2", shard="20KB")[0]
    assert len(list(parts.glob("*.safetensors"))) > 2
    assert load_model(whole).ivlens_facts["weights_sha256"] == load_model(parts).ivlens_facts["weights_sha256"]


@pytest.mark.parametrize(
    ("model_type", "legacy"),
    [
        ("llama", {"rope_theta": 10_000.0, "rope_scaling": {n: v for n, v in LLAMA3.items() if n != "rope_theta"}}),
        ("gpt_neox", {"rotary_emb_base": 500.0, "rotary_pct": 0.5}),
        ("gemma3_text", {"rope_theta": 1e6, "rope_local_base_freq": 100.0}),
        ("mistral", {"rope_theta": 500.0}),
        ("phi", {"rope_theta": 500.0, "partial_rotary_factor": 0.25}),
        ("phi3", {"rope_theta": 500.0}),
    ],
)
def test_configs_in_the_words_of_older_transformers_are_understood(save: Any, model_type: str, legacy: Any) -> None:
    folder, _ = save("old", model_type, head_dim=16) if model_type == "llama" else save("old", model_type)
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps(config | legacy))
    cfg = hooked_config(AutoConfig.from_pretrained(folder))
    assert load_model(folder).cfg.rotary_base == cfg.rotary_base == next(iter(legacy.values()))
    if model_type == "llama":
        assert cfg.use_NTK_by_parts_rope
    if model_type == "gpt_neox":
        assert cfg.rotary_dim == 4
    if model_type == "phi":
        assert cfg.rotary_dim == 2
    if model_type == "gemma3_text":
        assert cfg.rotary_base_local == 100.0


@pytest.mark.parametrize("model_type", ["mixtral", "olmo3", "qwen3_moe", "falcon"])
def test_other_families_are_refused_by_name(model_type: str) -> None:
    with pytest.raises(
        UnsupportedError, match=f"gemma3_text, gpt2, .*got model_type '{model_type}'.*takes any decoder"
    ):
        family_of(AutoConfig.for_model(model_type))


def test_a_folder_of_another_family_is_refused_before_its_weights_are_read(save: Any, tiny_tokenizer: Any) -> None:
    folder, _ = save("llama-7b", "mixtral", num_key_value_heads=2, num_local_experts=2)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedError, match="model_type 'mixtral'"):
        load_model(folder, engine="hooked")


@pytest.mark.parametrize(
    ("model_type", "config", "text"),
    [
        ("llama", {"attention_bias": True}, "llama model with attention_bias of False; got True"),
        ("llama", {"mlp_bias": True}, "mlp_bias of False; got True"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "got 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "got 'dynamic'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "got 'linear'"),
        ("llama", {"hidden_act": "quick_gelu"}, "activation function of .*silu.*; got 'quick_gelu'"),
        ("qwen2", {"use_sliding_window": True}, "qwen2 model with use_sliding_window of False; got True"),
        ("gemma3_text", {"attention_bias": True}, "attention_bias of False"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention of False"),
        ("gemma3_text", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping of None; got 30.0"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention of False"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights of True; got False"),
        ("gpt_neox", {"attention_bias": False}, "attention_bias of True; got False"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm of False"),
        ("phi", {"hidden_act": "quick_gelu"}, "activation function"),
        ("phi3", {"rope_parameters": LONG}, "phi3 model with rope_type of 'default', 'llama3'; got 'longrope'"),
        ("mistral", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "got 'yarn'"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window of False"),
        ("qwen3", {"attention_bias": True}, "attention_bias of False"),
        ("gemma", {"attention_bias": True}, "attention_bias of False"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention of False"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention of False"),
        ("gemma2", {"attention_bias": True}, "attention_bias of False"),
        ("olmo", {"attention_bias": True}, "attention_bias of False"),
        ("olmo2", {"attention_bias": True}, "attention_bias of False"),
        ("olmo2", {"head_dim": 12}, "olmo2 model with head_dim of 128; got 12"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before of True"),
        ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm of False"),
        ("opt", {"word_embed_proj_dim": 512}, "word_embed_proj_dim of 768; got 512"),
        ("opt", {"enable_bias": False}, "enable_bias of True"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine of True"),
        ("bloom", {"n_head": 6, "hidden_size": 36}, "bloom model with n_head of a power of two; got 6"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm of False; got True"),
        ("bloom", {"slow_but_exact": True}, "slow_but_exact of False"),
    ],
)
def test_unfaithful_features_are_refused(tiny_hf: Any, model_type: str, config: Any, text: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"(?s){text}.*refused"):
        hooked_config(AutoConfig.for_model(model_type, **config))


def test_a_refused_feature_stops_load_model(save: Any) -> None:
    folder, _ = save("biased", "llama", attention_bias=True)
    with pytest.raises(UnsupportedError, match="attention_bias"):
        load_model(folder, engine="hooked")


def test_a_wrongly_converted_weight_is_a_mismatch_that_gives_its_size(
    tiny_hf: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES["gpt2"]

    def corrupted(model: Any, cfg: Any) -> dict[str, Tensor]:
        weights = family.weights(model, cfg)
        return weights | {"blocks.1.attn.W_V": weights["blocks.1.attn.W_V"].flip(0)}

    monkeypatch.setitem(families.FAMILIES, "gpt2", replace(family, weights=corrupted))
    with pytest.raises(MismatchError, match=r"logits within \d.\de-04 .* a difference of \d.\de[+-]0\d"):
        load_model(tiny_hf("gpt2"), tokenizer=tiny_tokenizer())
    load_model(tiny_hf("gpt2"), tokenizer=tiny_tokenizer(), verify=False)


def test_a_weight_left_out_by_a_conversion_is_refused(
    tiny_hf: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES["llama"]

    def partial(model: Any, cfg: Any) -> dict[str, Tensor]:
        return {name: value for name, value in family.weights(model, cfg).items() if name != "blocks.0.attn.W_O"}

    monkeypatch.setitem(families.FAMILIES, "llama", replace(family, weights=partial))
    with pytest.raises(UnsupportedError, match=r"blocks\.0\.attn\.W_O"):
        load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("model_type", ["gptj", "phi"])
def test_a_norm_that_a_block_has_once_stays_one_parameter(tiny_hooked: Any, model_type: str) -> None:
    model = tiny_hooked(model_type)
    for same in (model, copy.deepcopy(model), copy.deepcopy(model).to(torch.float64)):
        assert all(block.ln2.w is block.ln1.w and block.ln2.b is block.ln1.b for block in same.blocks)
