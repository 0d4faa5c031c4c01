"""GPT-NeoX, GPT-J and Phi: attention and MLP in parallel, positions rotated in a part of each head, layer norms."""

from functools import partial
from typing import Any

from ..naming import Naming, affine, by_head, own_weights
from .family import Facts, Family, converted, head_width, kv_heads, partly_rope, require


def _gpt_neox(config: Any) -> Facts:
    require(config, attention_bias=True)
    facts = _shape(config, config.intermediate_size, config.hidden_act, config.layer_norm_eps)
    return facts | partly_rope(config) | {"parallel_attn_mlp": config.use_parallel_residual}


def _gptj(config: Any) -> Facts:
    facts = _shape(config, config.n_inner, config.activation_function, config.layer_norm_epsilon)
    return facts | {
        "positional_embedding_type": "rotary",
        "rotary_dim": config.rotary_dim,
        "rotary_base": 10_000,
        "rotary_adjacent_pairs": True,
    }


def _phi(config: Any) -> Facts:
    require(config, qk_layernorm=False)
    facts = _shape(config, config.intermediate_size, config.hidden_act, config.layer_norm_eps)
    return facts | partly_rope(config) | {"n_key_value_heads": kv_heads(config)}


def _shape(config: Any, d_mlp: int | None, act_fn: str, eps: float) -> Facts:
    return {
        "d_model": config.hidden_size,
        "d_head": head_width(config),
        "d_mlp": d_mlp or 4 * config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "act_fn": act_fn,
        "normalization_type": "LN",
        "eps": eps,
        "parallel_attn_mlp": True,
    }


_GPT_NEOX = Naming(
    "gpt_neox.layers.",
    {"embed.W_E": "gpt_neox.embed_in.weight", "unembed.W_U": "embed_out.weight"}
    | affine({"ln_final.w": "gpt_neox.final_layer_norm"}),
    affine({f"attn.W_{x}": "attention.query_key_value" for x in "QKV"})
    | affine({"attn.W_O": "attention.dense", "mlp.W_in": "mlp.dense_h_to_4h", "mlp.W_out": "mlp.dense_4h_to_h"})
    | affine({"ln1.w": "input_layernorm", "ln2.w": "post_attention_layernorm"}),
    fuse=by_head,
)
_ONE_NORM = {
    "ln2.w": "ln1.w",
    "ln2.b": "ln1.b",
}  # GPT-J's and Phi's block has one norm, which TransformerLens has twice
_GPTJ = Naming(
    "transformer.h.",
    {"embed.W_E": "transformer.wte.weight"} | affine({"ln_final.w": "transformer.ln_f", "unembed.W_U": "lm_head"}),
    {f"attn.W_{x}": f"attn.{x.lower()}_proj.weight" for x in "QKV"}
    | {"attn.W_O": "attn.out_proj.weight"}
    | affine({"ln1.w": "ln_1", "mlp.W_in": "mlp.fc_in", "mlp.W_out": "mlp.fc_out"}),
    shared=_ONE_NORM,
)
_PHI = Naming(
    "model.layers.",
    {"embed.W_E": "model.embed_tokens.weight"}
    | affine({"ln_final.w": "model.final_layernorm", "unembed.W_U": "lm_head"}),
    affine({f"attn.W_{x}": f"self_attn.{x.lower()}_proj" for x in "QKV"} | {"attn.W_O": "self_attn.dense"})
    | affine({"ln1.w": "input_layernorm", "mlp.W_in": "mlp.fc1", "mlp.W_out": "mlp.fc2"}),
    shared=_ONE_NORM,
)
FAMILIES = {
    "gpt_neox": Family("GPTNeoXForCausalLM", _gpt_neox, converted("neox"), _GPT_NEOX),
    "gptj": Family("GPTJForCausalLM", _gptj, converted("gptj"), _GPTJ),
    # TransformerLens' conversion leaves out key-value heads that queries share
    "phi": Family("PhiForCausalLM", _phi, partial(own_weights, _PHI), _PHI),
}
