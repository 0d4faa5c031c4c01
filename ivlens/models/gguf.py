"""GGUF files: add what transformers' reader drops, and refuse by name what stays unused.

A GGUF file describes its model by metadata under llama.cpp's names. transformers reads some of them, uses its own
defaults for others (soft caps, windows, the width of heads), and silently ignores the rest, including tensors, so the
result can be another model. Here every entry about the model is put into the config, or is known to change nothing with
this value, or is an error; absent entries have llama.cpp's defaults.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from gguf import MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.integrations.gguf import read_gguf_metadata

from ..errors import SourceError, UnsupportedError
from .outside_errors import few_of
from .tokenizers import PASS_ONE

SHAPE = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
WINDOW = {"attention.sliding_window": "sliding_window"}
FINAL_CAP = {"final_logit_softcapping": "final_logit_softcapping"}
OLD_SHAPE = {
    "block_count": "n_layer",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "vocab_size": "vocab_size",
}
# Architecture -> metadata key -> config field.
CONFIG: dict[str, dict[str, str]] = {
    "llama": SHAPE,
    "qwen2": SHAPE,
    "qwen3": SHAPE,
    "phi3": SHAPE | WINDOW,
    "gemma2": SHAPE | WINDOW | FINAL_CAP | {"attn_logit_softcapping": "attn_logit_softcapping"},
    "gemma3": SHAPE | WINDOW | FINAL_CAP,
    "gpt2": OLD_SHAPE
    | {"context_length": "n_positions", "embedding_length": "n_embd", "feed_forward_length": "n_inner"},
    "bloom": OLD_SHAPE | {"context_length": "seq_length", "embedding_length": "hidden_size"},
}
NEEDED = {"block_count", "embedding_length", "attention.head_count"}
# What ``_complete_attention`` reads.
ATTENTION = {"attention.key_length", "attention.value_length", "rope.freq_base", "rope.freq_base_swa"} | {
    f"rope.{name}" for name in ("dimension_count", "scale_linear", "scaling.type", "scaling.factor")
}
# Used only by a scaling that is refused.
UNUSED = {"rope.scaling.original_context_length", "rope.scaling.finetuned"}
# The depths at which llama.cpp scales attention differently.
GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
FACTORS = "rope_freqs.weight"
REMEDY = "load the model from its Hugging Face folder or hub name instead"
# Pre-tokenizers of byte-level vocabularies. transformers uses GPT-2's for those that it does not know.
LIKE_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "mellum"}
DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
WHOLE_WORDS_AND_BOS = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken"}


class GgufFile:
    """A GGUF file's metadata and the names of its tensors.

    Raises:
        UnsupportedError: the file is one of several, holds no complete model, or has an unknown architecture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata, self.tensors = read_gguf_metadata(str(path))
        self.architecture = str(self.metadata["general.architecture"])
        if self.metadata.get("split.count", 1) > 1:
            raise UnsupportedError(
                "a GGUF file with all of a model's tensors",
                f"{path.name}, one of {self.metadata['split.count']} (split.count)",
                "join them with llama.cpp's 'llama-gguf-split --merge'",
            )
        if (kind := self.metadata.get("general.type", "model")) != "model":
            self.refuse("general.type 'model'", f"{kind!r}")
        if self.architecture not in CONFIG:
            self.refuse(f"an architecture among {', '.join(sorted(CONFIG))}", repr(self.architecture))

    @property
    def rotary(self) -> bool:
        """Whether positions are rotary, as in all but the oldest architectures."""
        return self.architecture not in ("gpt2", "bloom")

    def get(self, key: str, default: Any = None) -> Any:
        """The file's metadata on its model under ``key``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def read(self, tensor: str) -> Float[Tensor, "..."]:
        """The values of a tensor that is not quantised."""
        (found,) = (each for each in GGUFReader(self.path).tensors if each.name == tensor)
        return torch.tensor(found.data, dtype=torch.float64)

    def refuse(self, expected: str, came: str) -> NoReturn:
        """Raise UnsupportedError."""
        raise UnsupportedError(f"{expected} in {self.path.name}", came, REMEDY)


def check_metadata(file: GgufFile) -> None:
    """Raise unless all metadata on the model can be represented or changes nothing.

    Raises:
        UnsupportedError: naming the entry that is unsupported or missing.
    """
    fields, prefix, idle = CONFIG[file.architecture], f"{file.architecture}.", _changing_nothing(file)
    needed = NEEDED | {key for key in fields if "epsilon" in key}
    if missing := sorted(key for key in needed if file.get(key) is None):
        file.refuse("metadata that describe the model", f"no {prefix}{missing[0]}")
    if (blocks := file.get("block_count")) > len(file.tensors):  # before a model of that many is built
        file.refuse(f"at most {len(file.tensors)} blocks, as it has tensors,", f"{prefix}block_count = {blocks}")
    known = {*fields, *(ATTENTION | UNUSED if file.rotary else ())}
    for name, value in file.metadata.items():
        key = name.removeprefix(prefix)
        if key != name and (key not in known or isinstance(value, list)) and value not in idle.get(key, ()):
            file.refuse("only metadata that can be honoured", f"{name} = {value!r:.60}")


def _changing_nothing(file: GgufFile) -> dict[str, tuple[object, ...]]:
    """Metadata without a config field, with the values that change nothing."""
    width, heads = file.get("embedding_length"), file.get("attention.head_count")
    return {
        "attention.head_count_kv": (heads,),
        "attention.key_length": (heads and width // heads,),
        "attention.value_length": (heads and width // heads,),
        "feed_forward_length": (width and 4 * width,),
        "expert_count": (0,),
        "expert_used_count": (0,),
        "attention.sliding_window": (0,),
        "attention.causal": (True,),
        "attention.max_alibi_bias": (8.0,),
        "rope.scaling.attn_factor": (1.0,),
        "tensor_data_layout": ("Meta AI original pth",),
    }


def complete_config(file: GgufFile, config: Any) -> None:
    """Complete the config that transformers makes from the file with all checked metadata.

    Raises:
        UnsupportedError: naming entries that contradict each other, or an unknown scaling.
    """
    for key, field in CONFIG[file.architecture].items():
        if (value := file.get(key)) is not None:
            setattr(config, field, value)
    if file.rotary:
        config.num_key_value_heads = file.get("attention.head_count_kv", config.num_attention_heads)
        _complete_attention(file, config)


def _complete_attention(file: GgufFile, config: Any) -> None:
    """Set the width of heads, attention's scale and windows, and rotary positions: base, share of a head, scaling."""
    equal = config.hidden_size // config.num_attention_heads
    width = file.get("attention.key_length", equal)
    if width != (getattr(config, "head_dim", None) or equal):
        config.head_dim = width
    if file.get("attention.value_length", width) != width:
        file.refuse(f"attention.value_length {width}", str(file.get("attention.value_length")))
    if "attention.sliding_window" in CONFIG[file.architecture]:
        config.sliding_window = file.get("attention.sliding_window") or None
    if layers := GEMMA_27B_LAYERS.get(file.architecture):
        config.query_pre_attn_scalar = equal if config.num_hidden_layers == layers else width
    rope = {"rope_theta": file.get("rope.freq_base", 10_000.0)} | _scaling(file, width)
    if (turned := file.get("rope.dimension_count", width)) != width:
        if file.architecture != "phi3":
            file.refuse(f"rope.dimension_count {width}, a head's width", str(turned))
        rope["partial_rotary_factor"] = turned / width
    near = file.get("rope.freq_base_swa")
    if file.architecture == "gemma3":
        near = {"rope_type": "default", "rope_theta": near or 10_000.0}
        rope = {"full_attention": rope, "sliding_attention": near}
    elif near is not None:
        file.refuse("one rotary base", f"rope.freq_base_swa = {near}")
    config.rope_parameters = rope


def _scaling(file: GgufFile, width: int) -> dict[str, Any]:
    """Rotary scaling in transformers' format, from the metadata or from a tensor of factors."""
    factor = file.get("rope.scaling.factor") or file.get("rope.scale_linear") or 1.0
    kind = file.get("rope.scaling.type", "linear" if factor != 1 else "none")
    if kind not in ("none", "linear"):
        file.refuse("rope.scaling.type 'none' or 'linear'", repr(kind))
    if kind == "linear" and factor != 1:
        return {"rope_type": kind, "factor": factor}
    if FACTORS not in file.tensors:
        return {"rope_type": "default"}
    factors = file.read(FACTORS)
    if (factors == 1).all():
        return {"rope_type": "default"}
    most = round(factors.max().item(), 4)
    expected = _llama3_factors(width, file.get("rope.freq_base", 10_000.0), most)
    if factors.shape != expected.shape or not torch.allclose(factors, expected, rtol=1e-4):
        file.refuse(
            f"rotary scaling of Llama 3 in {FACTORS}", f"other factors, {factors.min():.4g} to {factors.max():.4g}"
        )
    return {"rope_type": "llama3", "factor": most} | LLAMA3


def _llama3_factors(width: int, base: float, factor: float) -> Float[Tensor, "half"]:
    """The factor by which Llama 3's scaling divides each rotary frequency."""
    low, high, extent = LLAMA3.values()
    turns = extent * base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width) / (2 * torch.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - kept) / factor + kept)


def check_tensors(file: GgufFile, config: Any) -> None:
    """Raise unless the model uses every tensor of the file.

    Raises:
        UnsupportedError: naming tensors that would be dropped.
    """
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config).state_dict()
    (number,) = (number for number, name in MODEL_ARCH_NAMES.items() if name == file.architecture)
    names = get_tensor_name_map(number, file.get("block_count"))
    known = {FACTORS} if file.architecture == "llama" else set()  # used as scaling
    for name in weights:
        stem, _, kind = name.rpartition(".")
        known.add(f"{names.get_name(stem) or names.get_name(stem.partition('.')[2])}.{kind}")
    if strays := set(file.tensors) - known:
        file.refuse(f"only tensors that a {config.model_type} model has", few_of(strays))


def complete_tokenizer(metadata: Mapping[str, Any], tokenizer: Any, name: str) -> None:
    """Make the tokenizer that transformers builds from the metadata split text as the file says.

    Raises:
        SourceError: the file does not say how, or names an unknown way.
    """
    if metadata.get("tokenizer.ggml.model") == "gpt2":
        _complete_byte_level(metadata, tokenizer, name)
        return
    architecture = metadata["general.architecture"]
    prefixed = not str(architecture).startswith("gemma")  # as transformers makes them
    for key, wanted in (("add_space_prefix", prefixed), ("remove_extra_whitespaces", False), ("add_sep_token", False)):
        if (stated := metadata.get(f"tokenizer.ggml.{key}", wanted)) != wanted:
            _refuse_tokenizer(f"tokenizer.ggml.{key} {wanted}", str(stated), name)


def _complete_byte_level(metadata: Mapping[str, Any], tokenizer: Any, name: str) -> None:
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    kind = metadata.get("tokenizer.ggml.pre", "not stated")
    backend = tokenizer.backend_tokenizer
    if kind in DIGITS_APART:
        digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    elif kind not in LIKE_GPT2 and kind not in GGUF_PRE_TOKENIZER_SPLITS:
        _refuse_tokenizer("a known way to split text into words (tokenizer.ggml.pre)", kind, name)
    if kind in WHOLE_WORDS_AND_BOS:
        backend.model.ignore_merges = True
        tokenizer.add_bos_token = metadata.get("tokenizer.ggml.add_bos_token", True)


def _refuse_tokenizer(expected: str, came: str, name: str) -> None:
    raise SourceError(f"{expected} in {name}", came, PASS_ONE)
