"""GPT-2, GPT-Neo and OPT: learned positions, layer norms, biases, an MLP without a gate."""

from typing import Any

from ..naming import Naming, affine
from .family import Facts, Family, converted, require, windows


def _gpt2(config: Any) -> Facts:
    require(config, add_cross_attention=False, scale_attn_weights=True)
    return _learned(config, config.n_inner, config.layer_norm_epsilon) | {
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx
    }


def _gpt_neo(config: Any) -> Facts:
    local = [kind == "local" for kind in config.attention_layers]
    facts = _learned(config, config.intermediate_size, config.layer_norm_epsilon)
    return facts | windows(config.window_size, local) | {"use_attn_scale": False}


def _opt(config: Any) -> Facts:
    require(
        config,
        do_layer_norm_before=True,
        _remove_final_layer_norm=False,
        word_embed_proj_dim=config.hidden_size,
        enable_bias=True,
        layer_norm_elementwise_affine=True,
    )
    return _learned(config, config.ffn_dim, 1e-5)


def _learned(config: Any, d_mlp: int | None, eps: float) -> Facts:
    return {
        "d_model": config.hidden_size,
        "d_head": config.hidden_size // config.num_attention_heads,
        "d_mlp": d_mlp or 4 * config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": eps,
        "act_fn": config.activation_function,
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
    }


_MODEL = {
    "embed.W_E": "transformer.wte.weight",
    "pos_embed.W_pos": "transformer.wpe.weight",
    "unembed.W_U": "lm_head.weight",
} | affine({"ln_final.w": "transformer.ln_f"})
_BLOCK = affine({"ln1.w": "ln_1", "ln2.w": "ln_2", "mlp.W_in": "mlp.c_fc", "mlp.W_out": "mlp.c_proj"})
_GPT2 = Naming(
    "transformer.h.",
    _MODEL,
    affine({f"attn.W_{x}": "attn.c_attn" for x in "QKV"} | {"attn.W_O": "attn.c_proj"}) | _BLOCK,
    conv1d=True,
)
_GPT_NEO = Naming(
    "transformer.h.",
    _MODEL,
    {f"attn.W_{x}": f"attn.attention.{x.lower()}_proj.weight" for x in "QKV"}
    | affine({"attn.W_O": "attn.attention.out_proj"})
    | _BLOCK,
)
_OPT = Naming(
    "model.decoder.layers.",
    {
        "embed.W_E": "model.decoder.embed_tokens.weight",
        "pos_embed.W_pos": "model.decoder.embed_positions.weight",
        "unembed.W_U": "lm_head.weight",
    }
    | affine({"ln_final.w": "model.decoder.final_layer_norm"}),
    affine({f"attn.W_{x}": f"self_attn.{x.lower()}_proj" for x in "QKV"} | {"attn.W_O": "self_attn.out_proj"})
    | affine({"ln1.w": "self_attn_layer_norm", "ln2.w": "final_layer_norm", "mlp.W_in": "fc1", "mlp.W_out": "fc2"}),
    skipped_positions=2,
)
FAMILIES = {
    "gpt2": Family("GPT2LMHeadModel", _gpt2, converted("gpt2"), _GPT2),
    "gpt_neo": Family("GPTNeoForCausalLM", _gpt_neo, converted("neo"), _GPT_NEO),
    "opt": Family("OPTForCausalLM", _opt, converted("opt"), _OPT),
}
