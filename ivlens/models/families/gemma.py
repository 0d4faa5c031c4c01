"""Gemma 1 to 3: scaled embeddings, norms of gain 1 + w, from Gemma 2 on norms after attention and MLP and windows."""

from typing import Any

from ..naming import Naming
from .family import Facts, Family, converted, gated, head_width, refuse, require, rms, rope, windows
from .rms_gated import BLOCK, MODEL, QK_NORMS, rms_gated_facts


def _gemma(config: Any) -> Facts:
    require(config, attention_bias=False)
    _require_causal(config)
    return rms_gated_facts(config)


def _gemma2(config: Any) -> Facts:
    soft_cap = {"attn_scores_soft_cap": config.attn_logit_softcapping or -1.0}
    return _sandwiched(config) | soft_cap | rope(config, config.rope_parameters, head_width(config))


def _gemma3(config: Any) -> Facts:
    require(config, attn_logit_softcapping=None)
    wide, near = config.rope_parameters["full_attention"], config.rope_parameters["sliding_attention"]
    if near.get("rope_type", "default") != "default":
        refuse(config, "rope_type of sliding attention", near["rope_type"], "'default'")
    facts = _sandwiched(config) | {"use_qk_norm": True, "rotary_base_local": near["rope_theta"]}
    if wide.get("rope_type") == "linear":
        facts["rotary_scaling_factor"] = wide["factor"]
        wide = wide | {"rope_type": "default"}
    return facts | rope(config, wide, head_width(config))


def _sandwiched(config: Any) -> Facts:
    """What Gemma 2 and 3 share: norms before and after attention and MLP, windows, a soft cap of the logits."""
    require(config, attention_bias=False)
    _require_causal(config)
    local = [kind == "sliding_attention" for kind in config.layer_types]
    return (
        gated(config, config.hidden_activation)
        | rms(config)
        | windows(config.sliding_window, local)
        | {
            "use_normalization_before_and_after": True,
            "attn_scale": config.query_pre_attn_scalar**0.5,
            "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        }
    )


def _require_causal(config: Any) -> None:
    if config.use_bidirectional_attention:
        refuse(config, "use_bidirectional_attention", config.use_bidirectional_attention, "False")


_SANDWICH = BLOCK | {
    "ln1_post.w": "post_attention_layernorm.weight",
    "ln2.w": "pre_feedforward_layernorm.weight",
    "ln2_post.w": "post_feedforward_layernorm.weight",
}
_GEMMA = Naming("model.layers.", MODEL, BLOCK, norm_offset=1.0, scaled_embedding=True)
_GEMMA2 = Naming("model.layers.", MODEL, _SANDWICH, norm_offset=1.0, scaled_embedding=True)
_GEMMA3 = Naming("model.layers.", MODEL, _SANDWICH | QK_NORMS, norm_offset=1.0, scaled_embedding=True)
FAMILIES = {
    "gemma": Family("GemmaForCausalLM", _gemma, converted("gemma"), _GEMMA),
    "gemma2": Family("Gemma2ForCausalLM", _gemma2, converted("gemma"), _GEMMA2),
    "gemma3_text": Family("Gemma3ForCausalLM", _gemma3, converted("gemma"), _GEMMA3),
}
