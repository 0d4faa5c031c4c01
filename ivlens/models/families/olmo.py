"""OLMo 1 and 2: norms without parameters; norms on what attention and MLP write, and on all queries or keys at once."""

from functools import partial
from typing import Any

from ..naming import Naming, own_weights
from .family import Facts, Family, gated, head_width, kv_heads, require, rms, rope
from .rms_gated import BLOCK, MODEL, QK_NORMS


def _shared(config: Any) -> Facts:
    # TransformerLens has one norm over d_model queries, whatever the heads' width
    require(config, attention_bias=False, head_dim=config.hidden_size // config.num_attention_heads)
    facts = gated(config, config.hidden_act) | {"n_key_value_heads": kv_heads(config)}
    return facts | rope(config, config.rope_parameters, head_width(config))


def _olmo(config: Any) -> Facts:
    return _shared(config) | {"normalization_type": "LN", "eps": 1e-5, "clip_qkv": config.clip_qkv}


def _olmo2(config: Any) -> Facts:
    return _shared(config) | rms(config)


_OLMO = Naming(
    "model.layers.",
    {ours: theirs for ours, theirs in MODEL.items() if "ln" not in ours},
    {ours: theirs for ours, theirs in BLOCK.items() if "ln" not in ours},
)
_OLMO2 = Naming(
    "model.layers.",
    MODEL,
    BLOCK | QK_NORMS | {"ln1.w": "post_attention_layernorm.weight", "ln2.w": "post_feedforward_layernorm.weight"},
)
FAMILIES = {  # TransformerLens' conversions leave out key-value heads that queries share
    "olmo": Family("OlmoForCausalLM", _olmo, partial(own_weights, _OLMO), _OLMO),
    "olmo2": Family("Olmo2ForCausalLM", _olmo2, partial(own_weights, _OLMO2), _OLMO2),
}
