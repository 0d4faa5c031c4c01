"""BLOOM: ALiBi instead of positions (2108.12409), a layer norm of the embedding."""

from typing import Any

import torch
from torch import Tensor
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.bloom import convert_bloom_weights

from ..naming import Naming, affine, by_head
from .family import Facts, Family, refuse, require


def _bloom(config: Any) -> Facts:
    require(config, apply_residual_connection_post_layernorm=False, slow_but_exact=False)
    if config.n_head & (config.n_head - 1):  # TransformerLens computes other ALiBi factors then
        refuse(config, "n_head", config.n_head, "a power of two")
    return {
        "d_model": config.hidden_size,
        "d_head": config.hidden_size // config.n_head,
        "d_mlp": 4 * config.hidden_size,
        "n_heads": config.n_head,
        "n_layers": config.n_layer,
        "n_ctx": getattr(config, "seq_length", 2048),  # trained on; ALiBi itself has no end
        "eps": config.layer_norm_epsilon,
        "act_fn": "gelu_fast",
        "normalization_type": "LN",
        "positional_embedding_type": "alibi",
        "post_embedding_ln": True,
    }


def _bloom_weights(hugging_face: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    """TransformerLens' conversion, with zeros for the learned positions that it has but never uses."""
    return convert_bloom_weights(hugging_face, cfg) | {"pos_embed.W_pos": torch.zeros(cfg.n_ctx, cfg.d_model)}


_BLOOM = Naming(
    "transformer.h.",
    {"embed.W_E": "transformer.word_embeddings.weight", "unembed.W_U": "lm_head.weight"}
    | affine({"embed.ln.w": "transformer.word_embeddings_layernorm", "ln_final.w": "transformer.ln_f"}),
    affine({f"attn.W_{x}": "self_attention.query_key_value" for x in "QKV"} | {"attn.W_O": "self_attention.dense"})
    | affine({"mlp.W_in": "mlp.dense_h_to_4h", "mlp.W_out": "mlp.dense_4h_to_h"})
    | affine({"ln1.w": "input_layernorm", "ln2.w": "post_attention_layernorm"}),
    fuse=by_head,
)
FAMILIES = {"bloom": Family("BloomForCausalLM", _bloom, _bloom_weights, _BLOOM)}
