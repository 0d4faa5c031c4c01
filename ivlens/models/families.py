"""Model families: a Hugging Face config -> the TransformerLens config that represents it faithfully, or a refusal.

The family is decided by the config's ``model_type``, never by a folder's or a hub repository's name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gemma import convert_gemma_weights
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformer_lens.pretrained.weight_conversions.neox import convert_neox_weights
from transformer_lens.pretrained.weight_conversions.qwen2 import convert_qwen2_weights
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS

from ..errors import UnsupportedError
from .inverse import GEMMA3, GPT2, GPT_NEOX, LLAMA, QWEN2, Inverse

Facts = dict[str, Any]
Convert = Callable[[Any, HookedTransformerConfig], Facts]


@dataclass(frozen=True)
class Family:
    """How one ``model_type`` becomes a HookedTransformer, its config facts, then its weights, and how they go back."""

    architecture: str
    facts: Callable[[Any], Facts]
    weights: Convert
    inverse: Inverse


def family_of(config: Any) -> Family:
    """The family of a Hugging Face config.

    Raises:
        UnsupportedError: its ``model_type`` is not represented here.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedError(
            f"a model of one of the families {', '.join(sorted(FAMILIES))}",
            f"model_type {config.model_type!r}",
            "families not listed are refused rather than approximated",
        )
    return family


def hooked_config(config: Any, **overrides: Any) -> HookedTransformerConfig:
    """The TransformerLens config of a Hugging Face config, weights unprocessed.

    Raises:
        UnsupportedError: the family, or a feature that the config switches on, is not represented here.
    """
    family = family_of(config)
    facts = family.facts(config)
    if facts["act_fn"] not in SUPPORTED_ACTIVATIONS:
        _refuse(config, "activation function", facts["act_fn"], ", ".join(SUPPORTED_ACTIVATIONS))
    facts |= {"original_architecture": family.architecture, "init_weights": False, "d_vocab": config.vocab_size}
    return HookedTransformerConfig.from_dict(facts | overrides)


def _refuse(config: Any, feature: str, value: object, supported: str) -> None:
    raise UnsupportedError(
        f"a {config.model_type} model with {feature} of {supported}",
        repr(value),
        "such a model would not be represented faithfully, so it is refused",
    )


def _require(config: Any, **wanted: object) -> None:
    """Refuse the config unless every named switch has the wanted value (or is absent)."""
    for name, value in wanted.items():
        if getattr(config, name, value) != value:
            _refuse(config, name, getattr(config, name), repr(value))


def _rope(config: Any, parameters: Facts) -> Facts:
    """Rotary facts for the rope types that TransformerLens computes as Hugging Face does."""
    kind = parameters.get("rope_type", "default")
    facts: Facts = {"positional_embedding_type": "rotary", "rotary_base": parameters["rope_theta"]}
    if kind == "llama3":
        facts |= {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": parameters["factor"],
            "NTK_by_parts_low_freq_factor": parameters["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": parameters["high_freq_factor"],
            "NTK_original_ctx_len": parameters["original_max_position_embeddings"],
        }
    elif kind != "default":
        _refuse(config, "rope_type", kind, "'default', 'llama3'")
    return facts


def _rms_gated(config: Any, d_head: int, act_fn: str) -> Facts:
    """What llama, qwen2 and gemma3 share: RMS norms, a gated MLP, rotary positions over the whole head."""
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "d_mlp": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.rms_norm_eps,
        "act_fn": act_fn,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "rotary_dim": d_head,
        "rotary_adjacent_pairs": False,
    }


def _llama(config: Any) -> Facts:
    _require(config, attention_bias=False, mlp_bias=False)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    facts = _rms_gated(config, d_head, config.hidden_act) | _rope(config, config.rope_parameters)
    if config.num_key_value_heads == config.num_attention_heads:
        facts["n_key_value_heads"] = None
    return facts


def _qwen2(config: Any) -> Facts:
    _require(config, use_sliding_window=False)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return _rms_gated(config, d_head, config.hidden_act) | _rope(config, config.rope_parameters)


def _gemma3(config: Any) -> Facts:
    _require(config, attention_bias=False, use_bidirectional_attention=False, attn_logit_softcapping=None)
    wide, near = config.rope_parameters["full_attention"], config.rope_parameters["sliding_attention"]
    if near.get("rope_type", "default") != "default":
        _refuse(config, "rope_type of sliding attention", near["rope_type"], "'default'")
    facts = _rms_gated(config, config.head_dim, config.hidden_activation) | {
        "use_qk_norm": True,
        "use_normalization_before_and_after": True,
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "use_local_attn": True,
        "window_size": config.sliding_window,
        "attn_types": ["global" if kind == "full_attention" else "local" for kind in config.layer_types],
        "rotary_base_local": near["rope_theta"],
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
    }
    if wide.get("rope_type") == "linear":
        facts["rotary_scaling_factor"] = wide["factor"]
        wide = wide | {"rope_type": "default"}
    return facts | _rope(config, wide)


def _gpt2(config: Any) -> Facts:
    _require(config, add_cross_attention=False, scale_attn_weights=True)
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_heads": config.n_head,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.activation_function,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
    }


def _gpt_neox(config: Any) -> Facts:
    _require(config, attention_bias=True)
    d_head = config.hidden_size // config.num_attention_heads
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "d_mlp": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.layer_norm_eps,
        "act_fn": config.hidden_act,
        "normalization_type": "LN",
        "parallel_attn_mlp": config.use_parallel_residual,
        "rotary_dim": int(d_head * config.rope_parameters.get("partial_rotary_factor", 1.0)),
        "rotary_adjacent_pairs": False,
    } | _rope(config, config.rope_parameters)


FAMILIES = {
    "llama": Family("LlamaForCausalLM", _llama, convert_llama_weights, LLAMA),
    "gpt2": Family("GPT2LMHeadModel", _gpt2, convert_gpt2_weights, GPT2),
    "gpt_neox": Family("GPTNeoXForCausalLM", _gpt_neox, convert_neox_weights, GPT_NEOX),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, convert_qwen2_weights, QWEN2),
    "gemma3_text": Family("Gemma3ForCausalLM", _gemma3, convert_gemma_weights, GEMMA3),
}
