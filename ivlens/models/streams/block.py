"""The parts of a forward pass on rows without a batch axis: embedding, what attention reads, W_O, the MLP.

RMS norms and gated MLPs, which most families have, are computed in place: the activations of many rows are read and
written as seldom as can be. All other parts are TransformerLens' own.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..engines import GatedMLP, HookedTransformer, RMSNorm, TransformerBlock
from ..head_weights import is_post_norm, output_norm
from ..precision import in_dtype


def embedded(
    model: HookedTransformer, tokens: Sequence[int], positions: Int[Tensor, " row"], dtype: torch.dtype
) -> Float[Tensor, "row d_model"]:
    """The residual stream entering the first block."""
    x = model.embed.W_E[torch.tensor(tokens, device=positions.device)].to(dtype)
    if model.cfg.post_embedding_ln:
        x = in_dtype(model.embed.ln, dtype)(x[None])[0]
    if model.cfg.positional_embedding_type == "standard":
        x = x + model.pos_embed.W_pos[positions]
    return x


def normed(block: TransformerBlock, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What attention reads."""
    return x if is_post_norm(block) else _normed(block.ln1, x)


def _normed(norm: Any, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    if type(norm) is not RMSNorm or not x.dtype == norm.cfg.dtype == norm.w.dtype or x.dtype.itemsize < 4:
        out: Tensor = norm(x[None])[0]
        return out
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(norm.eps).sqrt_()
    return (x / scale).mul_(norm.w)


def output_matrix(block: TransformerBlock) -> Float[Tensor, "d_model z"]:
    """W_O of all heads together; a view of weights stored transposed."""
    return block.attn.W_O.permute(2, 0, 1).flatten(1)


def mlp(block: TransformerBlock, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What the MLP adds, after any norm."""
    x = x if is_post_norm(block) else _normed(block.ln2, x)
    if type(block.mlp) is not GatedMLP or block.cfg.is_layer_norm_activation():
        return block.apply_mlp(x[None])[0]
    hidden = block.mlp.act_fn(F.linear(x, block.mlp.W_gate.T)).mul_(F.linear(x, block.mlp.W_in.T))
    bias = torch.addmv(block.mlp.b_out, block.mlp.W_out.T, block.mlp.b_in)  # b_in is added before W_out
    out = F.linear(hidden, block.mlp.W_out.T, bias)
    if block.cfg.use_normalization_before_and_after:
        out = _normed(block.ln2_post, out)
    return _normed(block.ln2, out) if is_post_norm(block) else out


def advance(
    block: TransformerBlock, x: Float[Tensor, "row d_model"], z: Float[Tensor, "row head d_head"]
) -> Float[Tensor, "row d_model"]:
    """The stream after a block, of the stream that enters it and the heads' outputs before W_O."""
    out = F.linear(z.flatten(1), output_matrix(block), block.attn.b_O)
    if norm := output_norm(block):
        out = _normed(norm, out)
    if block.cfg.parallel_attn_mlp:
        return out.add_(x).add_(mlp(block, x))
    x = out.add_(x)
    return x.add_(mlp(block, x))
