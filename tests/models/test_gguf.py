"""GGUF files: what they state is what is computed, by plain Hugging Face models with the same settings; or an error."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH_NAMES, GGUFValueType, GGUFWriter, get_tensor_name_map
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ivlens import export_hf, load_model
from ivlens.errors import IvlensError, SourceError, UnsupportedError
from ivlens.models import model_facts
from ivlens.models.sources import convert_gguf

ARCHITECTURES = {"gemma3_text": "gemma3"}
CLOSE = 1e-4  # rotary tables are float32; another setting differs by 1e-2 and more
TOKENS = torch.arange(10, 50)[None]
GEMMA = {"query_pre_attn_scalar": 12}  # llama.cpp's: a head's width
GEMMA3 = GEMMA | {"num_hidden_layers": 6, "layer_types": 5 * ["sliding_attention"] + ["full_attention"]}


def stated(config: Any) -> dict[str, Any]:
    """What llama.cpp's converter states of a config, as far as it is plain."""
    get = lambda *names: next((getattr(config, name) for name in names if hasattr(config, name)), None)  # noqa: E731
    facts = {
        "context_length": get("max_position_embeddings", "n_positions"),
        "block_count": get("num_hidden_layers", "n_layer"),
        "embedding_length": get("hidden_size", "n_embd"),
        "feed_forward_length": get("intermediate_size") or 4 * get("hidden_size", "n_embd"),
        "attention.head_count": get("num_attention_heads", "n_head"),
        "attention.layer_norm_rms_epsilon": get("rms_norm_eps"),
        "attention.layer_norm_epsilon": get("layer_norm_epsilon"),
        "attention.head_count_kv": get("num_key_value_heads"),
        "attention.key_length": get("head_dim"),
        "attention.value_length": get("head_dim"),
        "attention.sliding_window": get("sliding_window"),
        "attn_logit_softcapping": get("attn_logit_softcapping"),
        "final_logit_softcapping": get("final_logit_softcapping"),
    }
    rope = getattr(config, "rope_parameters", None) or {}
    facts["rope.freq_base"] = rope.get("full_attention", rope).get("rope_theta")
    facts["rope.freq_base_swa"] = rope.get("sliding_attention", {}).get("rope_theta")
    return {name: value for name, value in facts.items() if value is not None}


def stored(architecture: str, name: str, weight: Tensor, config: Any) -> Tensor:
    """A weight as llama.cpp's converter stores it."""
    if architecture == "llama" and (found := re.search(r"attn_([qk])\.weight", name)):
        heads = config.num_attention_heads if found[1] == "q" else config.num_key_value_heads
        return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return weight + 1
    if architecture == "gpt2" and weight.ndim == 2 and name.startswith("blk."):
        return weight.T
    if architecture == "bloom" and "attn_qkv" in name:
        return weight.view(config.n_head, 3, -1, *weight.shape[1:]).transpose(0, 1).reshape(weight.shape)
    return weight


Values = Mapping[str, Any]


@pytest.fixture
def written(tmp_path: Path, tiny_tokenizer: Any) -> Callable[..., Path]:
    """``written(hf, metadata, tensors)``: the model as a GGUF file; metadata of None are left out."""

    def write(hf: Any, metadata: Values | None = None, tensors: Values | None = None, name: str = "m.gguf") -> Path:
        architecture = ARCHITECTURES.get(hf.config.model_type, hf.config.model_type)
        writer = GGUFWriter(tmp_path / name, architecture)
        facts = {f"{architecture}.{key}": value for key, value in stated(hf.config).items()}
        for key, value in (facts | vocabulary(tiny_tokenizer()) | dict(metadata or {})).items():
            if value is not None:
                add(writer, key, value)
        (number,) = (number for number, known in MODEL_ARCH_NAMES.items() if known == architecture)
        names = get_tensor_name_map(number, hf.config.num_hidden_layers)
        for theirs, weight in hf.state_dict().items():
            stem, _, kind = theirs.removeprefix("transformer.").rpartition(".")
            if theirs != "lm_head.weight" or not hf.config.tie_word_embeddings:
                ours = f"{names.get_name(stem)}.{kind}"
                writer.add_tensor(ours, stored(architecture, ours, weight, hf.config).contiguous().numpy())
        for ours, weight in (tensors or {}).items():
            writer.add_tensor(ours, weight.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return write


def vocabulary(tokenizer: Any) -> dict[str, Any]:
    """A byte-level tokenizer in llama.cpp's words."""
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    tokens += [f"[PAD{number}]" for number in range(len(tokens), 320)]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in tokenizer.all_special_tokens else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }


def add(writer: GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    kinds |= {str: GGUFValueType.STRING, list: GGUFValueType.ARRAY}
    inner = kinds[type(value[0])] if isinstance(value, list) else None
    writer.add_key_value(key, value, kinds[type(value)], inner)


def difference(path: Path, hf: Any, **options: Any) -> float:
    model = load_model(path, dtype=torch.float64, **options)
    with torch.inference_mode():
        return (model(TOKENS) - hf.double()(TOKENS).logits).abs().max().item()


LINEAR = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
PARTIAL = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, {}),
    "llama, untied, wide heads": ("llama", {"tie_word_embeddings": False, "head_dim": 12}, {}),
    "qwen2": ("qwen2", {}, {}),
    "qwen3, heads of another width": ("qwen3", {"head_dim": 12}, {}),
    "phi3, a window": ("phi3", {"sliding_window": 6}, {}),
    "phi3, no window": ("phi3", {"sliding_window": None}, {"phi3.attention.sliding_window": 0}),
    "phi3, part of a head": ("phi3", {"rope_parameters": PARTIAL}, {"phi3.rope.dimension_count": 4}),
    "gemma2, soft caps": ("gemma2", GEMMA, {}),
    "gemma3, bases": ("gemma3_text", GEMMA3, {}),
    "gemma3, scaled": (
        "gemma3_text",
        GEMMA3 | {"rope_parameters": LINEAR},
        {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0},
    ),
    "gpt2": ("gpt2", {}, {}),
    "bloom": ("bloom", {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_the_model_that_it_states(tiny_hf: Any, written: Any, case: str) -> None:
    family, config, metadata = CASES[case]
    hf = tiny_hf(family, **config)
    assert difference(written(hf, metadata), hf) < CLOSE


def llama3(width: int, base: float, **scaling: float) -> Tensor:
    """llama.cpp's factors, as its converter computes them."""
    low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
    high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
    factors = []
    for frequency in 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)):
        length = 2 * torch.pi / frequency
        smooth = scaling["original_max_position_embeddings"] / length - scaling["low_freq_factor"]
        smooth = smooth / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
        between = 1 / ((1 - smooth) / scaling["factor"] + smooth)
        factors.append(1.0 if length < high else scaling["factor"] if length > low else float(between))
    return torch.tensor(factors, dtype=torch.float32)


SCALING = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def test_llama_3s_scaling_is_read_from_its_tensor(tiny_hf: Any, written: Any) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5} | SCALING
    hf = tiny_hf("llama", head_dim=64, rope_parameters=rope)
    factors = {"rope_freqs.weight": llama3(64, 5e5, **SCALING)}
    assert factors["rope_freqs.weight"].unique().numel() > 3
    assert difference(written(hf, None, factors), hf) < CLOSE


def test_factors_of_another_scaling_are_refused_and_ones_change_nothing(tiny_hf: Any, written: Any) -> None:
    hf = tiny_hf("llama")
    assert difference(written(hf, None, {"rope_freqs.weight": torch.ones(4)}), hf) < CLOSE
    with pytest.raises(UnsupportedError, match=r"Llama 3 in rope_freqs\.weight.*other factors, 1 to 7"):
        load_model(written(hf, None, {"rope_freqs.weight": torch.tensor([1.0, 3.0, 5.0, 7.0])}))


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, "rope_type.*'linear'"),
        ({"rope.scaling.factor": 4.0}, "rope_type.*'linear'"),  # linear is what llama.cpp takes without a type
        ({"rope.scale_linear": 4.0}, "rope_type.*'linear'"),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, r"rope\.scaling\.type .*got 'yarn'"),
        ({"rope.scaling.type": "longrope"}, r"rope\.scaling\.type .*got 'longrope'"),
        ({"rope.scaling.attn_factor": 1.2}, r"llama\.rope\.scaling\.attn_factor = 1\.2"),
        ({"rope.dimension_count": 4}, r"rope\.dimension_count 8.*got 4"),
        ({"rope.freq_base_swa": 100.0}, r"rope\.freq_base_swa = 100\.0"),
        ({"attention.value_length": 16}, r"attention\.value_length 8.*got 16"),
        ({"attention.sliding_window": 6}, r"llama\.attention\.sliding_window = 6"),
        ({"attention.causal": False}, r"llama\.attention\.causal = False"),
        ({"attention.scale": 0.1}, r"llama\.attention\.scale"),
        ({"attention.head_count_kv": [2, 2]}, r"llama\.attention\.head_count_kv = \[2, 2\]"),
        ({"attention.layer_norm_rms_epsilon": None}, r"no llama\.attention\.layer_norm_rms_epsilon"),
        ({"logit_scale": 2.0}, r"llama\.logit_scale = 2\.0"),
        ({"final_logit_softcapping": 5.0}, r"llama\.final_logit_softcapping"),
        ({"expert_count": 4}, r"llama\.expert_count = 4"),
        ({"block_count": 4_000_000_000}, r"llama\.block_count = 4000000000"),
        ({"something.new": 1}, r"llama\.something\.new = 1"),
    ],
)  # fmt: skip
def test_metadata_that_transformers_drops_are_refused_by_name(
    tiny_hf: Any, written: Any, metadata: dict[str, Any], named: str
) -> None:
    path = written(tiny_hf("llama"), {f"llama.{key}": value for key, value in metadata.items()})
    with pytest.raises(UnsupportedError, match=named):
        load_model(path)


def test_metadata_that_change_nothing_are_accepted(tiny_hf: Any, written: Any) -> None:
    idle = {
        "rope.scaling.type": "none", "rope.scaling.factor": 4.0, "rope.scaling.finetuned": False,
        "rope.scaling.original_context_length": 64,
        "rope.scaling.attn_factor": 1.0, "expert_count": 0, "attention.sliding_window": 0, "rope.dimension_count": 8,
        "attention.causal": True,
    }  # fmt: skip
    hf = tiny_hf("llama")
    metadata = {f"llama.{key}": value for key, value in idle.items()} | {"split.count": 1, "general.type": "model"}
    assert difference(written(hf, metadata), hf) < CLOSE


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_gate_exps.weight", "rope_factors_long.weight"]
)
def test_tensors_that_transformers_drops_are_refused_by_name(tiny_hf: Any, written: Any, name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"only tensors that a llama model has in m.gguf; got {name};"):
        load_model(written(tiny_hf("llama"), None, {name: torch.ones(32)}))


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_factors_of_rotary_positions_are_refused_where_llama_cpp_has_none(
    tiny_hf: Any, written: Any, family: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"only tensors that a {family} model has"):
        load_model(written(tiny_hf(family), None, {"rope_freqs.weight": torch.ones(4)}))


@pytest.mark.parametrize("case", ["gemma2, soft caps", "gemma3, scaled", "phi3, part of a head"])
def test_what_a_file_states_is_exported(tiny_hf: Any, written: Any, tmp_path: Path, case: str) -> None:
    family, config, metadata = CASES[case]
    hf = tiny_hf(family, **config)
    folder = export_hf(load_model(written(hf, metadata)), tmp_path / "export")
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.inference_mode():
        assert (again(TOKENS).logits - hf.double()(TOKENS).logits).abs().max() < CLOSE


@pytest.mark.parametrize("kind", [PreTrainedModel, PreTrainedTokenizerBase])
def test_a_conversion_on_a_full_disk_is_an_error_of_the_system(
    tiny_hf: Any, written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(kind, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        convert_gguf(written(tiny_hf("llama")), tmp_path / "converted")


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"split.count": 2}, r"m\.gguf, one of 2 \(split\.count\).*llama-gguf-split --merge"),
        ({"general.type": "adapter"}, "general.type 'model'.*got 'adapter'"),
    ],
)
def test_a_file_that_is_not_a_whole_model_is_refused(
    tiny_hf: Any, written: Any, metadata: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        load_model(written(tiny_hf("llama"), metadata))


def test_digits_are_split_where_the_file_says_so(tiny_hf: Any, written: Any) -> None:
    hf, text = tiny_hf("llama"), "the  12 fox"
    plain, apart = (
        load_model(written(hf, {"tokenizer.ggml.pre": kind}, name=f"{kind}.gguf")).tokenizer
        for kind in ("gpt-2", "smollm")
    )
    words = [
        [piece for piece, _ in each.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)] for each in (plain, apart)
    ]
    assert words == [["the", "Ġ", "Ġ12", "Ġfox"], ["the", "ĠĠ", "1", "2", "Ġfox"]]


def test_llama_3s_tokenizer_begins_with_bos_though_the_file_does_not_say_so(tiny_hf: Any, written: Any) -> None:
    silent = {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None}
    hf = tiny_hf("llama")
    assert load_model(written(hf, silent)).tokenizer("the fox")["input_ids"][0] == 0
    assert (
        load_model(written(hf, silent | {"tokenizer.ggml.add_bos_token": False})).tokenizer("the")["input_ids"][0] > 0
    )
    assert load_model(written(hf, {"tokenizer.ggml.add_bos_token": True})).tokenizer("the fox")["input_ids"][0] == 0


@pytest.mark.parametrize("kind", [None, "default", "invented"])
def test_an_unknown_way_to_split_words_needs_a_tokenizer(
    tiny_hf: Any, tiny_tokenizer: Any, written: Any, kind: str | None
) -> None:
    hf = tiny_hf("llama")
    path = written(hf, {"tokenizer.ggml.pre": kind})
    with pytest.raises(SourceError, match=r"tokenizer\.ggml\.pre\) in m\.gguf; got .*pass tokenizer="):
        load_model(path)
    assert difference(path, hf, tokenizer=tiny_tokenizer()) < CLOSE


SENTENCEPIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": None, "tokenizer.ggml.merges": None,
    "tokenizer.ggml.tokens": ["<s>", "</s>", "<unk>", "▁", "f", "o", "x", "▁f", "ox", "▁fox"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0],
    "tokenizer.ggml.token_type": [3, 3, 2, 1, 1, 1, 1, 1, 1, 1], "tokenizer.ggml.unknown_token_id": 2,
    "llama.vocab_size": 320,
}  # fmt: skip


def test_a_sentencepiece_tokenizer_is_read(tiny_hf: Any, written: Any) -> None:
    tokenizer = load_model(written(tiny_hf("llama"), SENTENCEPIECE), verify=False).tokenizer
    assert tokenizer("fox fox")["input_ids"] == [9, 9]


@pytest.mark.parametrize(
    ("key", "value"), [("add_space_prefix", False), ("remove_extra_whitespaces", True), ("add_sep_token", True)]
)
def test_what_transformers_drops_of_a_sentencepiece_tokenizer_needs_a_tokenizer(
    tiny_hf: Any, tiny_tokenizer: Any, written: Any, key: str, value: bool
) -> None:
    path = written(tiny_hf("llama"), SENTENCEPIECE | {f"tokenizer.ggml.{key}": value})
    with pytest.raises(
        SourceError, match=rf"tokenizer\.ggml\.{key} {not value} in m\.gguf; got {value}; pass .*tokenizer="
    ):
        load_model(path)
    load_model(path, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("way", ["cut", "flipped"])
def test_a_file_whose_metadata_are_damaged_is_one_error_or_a_model(tiny_hf: Any, written: Any, way: str) -> None:
    path, chance = written(tiny_hf("llama")), np.random.default_rng(0)
    whole, said = path.read_bytes(), []
    for _ in range(20):
        at = int(chance.integers(0, 6000))
        damaged = bytearray(whole[:at] if way == "cut" else whole)
        if way == "flipped":
            damaged[at] ^= 1 << int(chance.integers(0, 8))
        path.write_bytes(damaged)
        try:
            load_model(path)
        except IvlensError as error:
            said.append(str(error))
    assert said
    assert not [line for line in said if "\n" in line]


def test_the_tokenizer_is_the_files_own_whatever_lies_beside_it(
    tiny_hf: Any, tiny_tokenizer: Any, chatml: str, written: Any
) -> None:
    path = written(tiny_hf("llama"))
    before = model_facts(load_model(path))
    tiny_tokenizer("<s> $A", chatml).save_pretrained(path.parent)
    (path.parent / "added_tokens.json").write_text('{"foo": 311}')
    model = load_model(path)
    assert model_facts(model) == before
    assert model.tokenizer.chat_template is None
