"""Heads' weights: the attention matrices of a layer, and how far they are from another model's."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer


def attention_weights(model: HookedTransformer, layer: int) -> dict[str, Float[Tensor, "head _ _"]]:
    """W_Q, W_K, W_V [head, d_model, d_head] and W_O [head, d_head, d_model]; shared keys and values once."""
    attention = model.blocks[layer].attn
    shared = "_" if hasattr(attention, "_W_K") else ""
    names = {"W_Q": "W_Q", "W_K": f"{shared}W_K", "W_V": f"{shared}W_V", "W_O": "W_O"}
    return {name: getattr(attention, own).detach() for name, own in names.items()}


def relative_change(
    now: Mapping[str, Float[Tensor, "head _ _"]], base: Mapping[str, Float[Tensor, "head _ _"]], n_heads: int
) -> Float[Tensor, "matrix head"]:
    """Per head ``|now - base| / |base|`` (Frobenius) of each matrix; heads that share one show the same."""
    changes = []
    for name, before in base.items():
        difference = (now[name].double().cpu() - before.double()).flatten(1).norm(dim=1)
        change = difference / before.double().flatten(1).norm(dim=1)
        changes.append(change.repeat_interleave(n_heads // len(change)))
    return torch.stack(changes).float()
