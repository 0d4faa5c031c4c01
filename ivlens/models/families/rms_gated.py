"""Llama and its relatives: RMS norms before attention and a gated MLP, rotary positions, no biases but Qwen 2's."""

from functools import partial
from typing import Any

from ..naming import Naming, own_weights
from .family import Facts, Family, converted, gated, head_width, kv_heads, partly_rope, require, rms, rope, windows

MODEL = {"embed.W_E": "model.embed_tokens.weight", "ln_final.w": "model.norm.weight", "unembed.W_U": "lm_head.weight"}
BLOCK = {
    "ln1.w": "input_layernorm.weight",
    "attn.W_Q": "self_attn.q_proj.weight",
    "attn.W_K": "self_attn.k_proj.weight",
    "attn.W_V": "self_attn.v_proj.weight",
    "attn.W_O": "self_attn.o_proj.weight",
    "ln2.w": "post_attention_layernorm.weight",
    "mlp.W_gate": "mlp.gate_proj.weight",
    "mlp.W_in": "mlp.up_proj.weight",
    "mlp.W_out": "mlp.down_proj.weight",
}
QK_NORMS = {"attn.q_norm.w": "self_attn.q_norm.weight", "attn.k_norm.w": "self_attn.k_norm.weight"}


def rms_gated_facts(config: Any) -> Facts:
    """Facts of a plain member: rotary positions over the whole head."""
    return gated(config, config.hidden_act) | rms(config) | rope(config, config.rope_parameters, head_width(config))


def _llama(config: Any) -> Facts:
    require(config, attention_bias=False, mlp_bias=False)
    return rms_gated_facts(config) | {"n_key_value_heads": kv_heads(config)}


def _mistral(config: Any) -> Facts:
    local = config.sliding_window is not None
    return rms_gated_facts(config) | windows(config.sliding_window, [local] * config.num_hidden_layers)


def _qwen2(config: Any) -> Facts:
    require(config, use_sliding_window=False)
    return rms_gated_facts(config)


def _qwen3(config: Any) -> Facts:
    require(config, use_sliding_window=False, attention_bias=False)
    return rms_gated_facts(config) | {"n_key_value_heads": kv_heads(config), "use_qk_norm": True}


def _phi3(config: Any) -> Facts:
    return _mistral(config) | partly_rope(config) | {"n_key_value_heads": kv_heads(config)}


_LLAMA = Naming("model.layers.", MODEL, BLOCK)
_QWEN2 = Naming("model.layers.", MODEL, BLOCK | {f"attn.b_{x}": f"self_attn.{x.lower()}_proj.bias" for x in "QKV"})
_QWEN3 = Naming("model.layers.", MODEL, BLOCK | QK_NORMS)
_PHI3 = Naming(
    "model.layers.",
    MODEL,
    BLOCK
    | {f"attn.W_{x}": "self_attn.qkv_proj.weight" for x in "QKV"}
    | {f"mlp.W_{x}": "mlp.gate_up_proj.weight" for x in ("gate", "in")},
)
FAMILIES = {
    "llama": Family("LlamaForCausalLM", _llama, converted("llama"), _LLAMA),
    "mistral": Family("MistralForCausalLM", _mistral, converted("mistral"), _LLAMA),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, converted("qwen2"), _QWEN2),
    "qwen3": Family("Qwen3ForCausalLM", _qwen3, converted("qwen3"), _QWEN3),
    # TransformerLens gives phi3's RMS norms biases, as long as the vocabulary
    "phi3": Family("Phi3ForCausalLM", _phi3, partial(own_weights, _PHI3), _PHI3),
}
