"""Heads' weights: a layer's attention matrices, their change, and what heads write into the residual stream."""

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from .engines import TransformerBlock


@singledispatch
def check_heads_alike(model: Any) -> None:
    """Raise UnsupportedError where a layer has no attention heads, or heads of another width, as some models do."""


@singledispatch
def attention_weights(model: Any, layer: int) -> dict[str, Float[Tensor, "head _ _"]]:
    """W_Q, W_K, W_V [head, d_model, d_head] and W_O [head, d_head, d_model]; shared keys and values only once.

    Of a Bridge whose queries, keys and values are one joint matrix, W_O alone.
    """
    attention = model.blocks[layer].attn
    shared = "_" if hasattr(attention, "_W_K") else ""
    names = {"W_Q": "W_Q", "W_K": f"{shared}W_K", "W_V": f"{shared}W_V", "W_O": "W_O"}
    return {name: getattr(attention, own).detach() for name, own in names.items()}


def relative_change(
    now: Mapping[str, Float[Tensor, "head _ _"]], base: Mapping[str, Float[Tensor, "head _ _"]], n_heads: int
) -> Float[Tensor, "matrix head"]:
    """Per head ``|now - base| / |base|`` (Frobenius) of each matrix; heads that share a matrix have equal values."""
    changes = []
    for name, before in base.items():
        difference = (now[name].double().cpu() - before.double()).flatten(1).norm(dim=1)
        change = difference / before.double().flatten(1).norm(dim=1)
        changes.append(change.repeat_interleave(n_heads // len(change)))
    return torch.stack(changes).float()


@singledispatch
def head_writes(model: Any, layer: int, z: Float[Tensor, "head d_head"]) -> Float[Tensor, "head d_model"]:
    """What each head of a layer adds to the residual stream, without bias, for outputs ``z`` before W_O.

    Where a block normalises its attention output, the norm's scale is that of all heads together, which makes it
    linear.
    """
    block = model.blocks[layer]
    z = z.to(block.attn.W_O)
    writes = (z[:, None] @ block.attn.W_O)[:, 0]
    if norm := output_norm(block):
        total = writes.sum(0) + block.attn.b_O
        writes = writes * norm.w / (total.pow(2).mean() + norm.eps).sqrt()
    return writes.float() if writes.element_size() < 4 else writes


@singledispatch
def output_projection(model: Any, layer: int) -> nn.Module:
    """The module of a layer that gives what its heads write together, with the bias, before any norm."""
    module: nn.Module = model.blocks[layer].attn
    return module


def output_norm(block: TransformerBlock) -> Any:
    """The RMS norm that a block applies to its attention output before adding it, or None."""
    if is_post_norm(block):
        return block.ln1
    return block.ln1_post if block.cfg.use_normalization_before_and_after else None


def is_post_norm(block: TransformerBlock) -> bool:
    """Whether the block normalises the outputs of attention and MLP instead of their inputs (OLMo 2)."""
    return block.cfg.original_architecture in POST_NORM_ARCHITECTURES
