"""What a family is, and facts that several families share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig

from ...errors import UnsupportedError
from ..naming import Naming

Facts = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """How one ``model_type`` becomes a HookedTransformer: config ``facts``, ``weights``, and their names.

    ``weights`` is TransformerLens' own conversion where that is right, else ``own_weights`` of the ``naming``.
    """

    architecture: str
    facts: Callable[[Any], Facts]
    weights: Callable[[Any, HookedTransformerConfig], dict[str, Tensor]]
    naming: Naming


def refuse(config: Any, feature: str, value: object, supported: str) -> NoReturn:
    """Raise UnsupportedError, since TransformerLens would compute something else than the model does."""
    raise UnsupportedError(
        f"a {config.model_type} model with {feature} of {supported}",
        repr(value),
        "such a model would not be represented faithfully, so it is refused",
    )


def require(config: Any, **wanted: object) -> None:
    """Refuse the config unless every named switch has the wanted value (or is absent)."""
    for name, value in wanted.items():
        if getattr(config, name, value) != value:
            refuse(config, name, getattr(config, name), repr(value))


def head_width(config: Any) -> int:
    """Dimensions of a head: from the config, or an equal share of the residual stream."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def kv_heads(config: Any) -> int | None:
    """Number of key-value heads where queries share them, as TransformerLens counts."""
    return None if config.num_key_value_heads == config.num_attention_heads else config.num_key_value_heads


def gated(config: Any, act_fn: str) -> Facts:
    """Shape of a model whose config has Llama's fields, with a gated MLP and any number of key-value heads."""
    return {
        "d_model": config.hidden_size,
        "d_head": head_width(config),
        "d_mlp": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "act_fn": act_fn,
        "gated_mlp": True,
    }


def rms(config: Any) -> Facts:
    """RMS norms everywhere."""
    return {"normalization_type": "RMS", "final_rms": True, "eps": config.rms_norm_eps}


def rope(config: Any, parameters: Facts, rotary_dim: int) -> Facts:
    """Rotary positions of the rope types that TransformerLens computes as Hugging Face does."""
    kind = parameters.get("rope_type", "default")
    facts: Facts = {
        "positional_embedding_type": "rotary",
        "rotary_base": parameters["rope_theta"],
        "rotary_dim": rotary_dim,
        "rotary_adjacent_pairs": False,
    }
    if kind == "llama3":
        facts |= {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": parameters["factor"],
            "NTK_by_parts_low_freq_factor": parameters["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": parameters["high_freq_factor"],
            "NTK_original_ctx_len": parameters["original_max_position_embeddings"],
        }
    elif kind != "default":
        refuse(config, "rope_type", kind, "'default', 'llama3'")
    return facts


def partly_rope(config: Any) -> Facts:
    """``rope`` over the first part of each head, whose share the config states."""
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    return rope(config, config.rope_parameters, int(head_width(config) * share))


def windows(width: int | None, local: Iterable[bool]) -> Facts:
    """Attention to the last ``width`` positions only, in the layers that are ``local``."""
    kinds = ["local" if each else "global" for each in local]
    return {"use_local_attn": True, "window_size": width, "attn_types": kinds} if "local" in kinds else {}
