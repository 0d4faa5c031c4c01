"""The parts of a forward pass on rows without a batch axis: embedding, what attention reads, W_O, the MLP."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..engines import HookedTransformer, TransformerBlock
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
    return x if is_post_norm(block) else block.ln1(x[None])[0]


def output_matrix(block: TransformerBlock) -> Float[Tensor, "d_model z"]:
    """W_O of all heads together; a view of weights stored transposed."""
    return block.attn.W_O.permute(2, 0, 1).flatten(1)


def mlp(block: TransformerBlock, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What the MLP adds, after any norm."""
    return block.apply_mlp(x[None] if is_post_norm(block) else block.ln2(x[None]))[0]


def advance(
    block: TransformerBlock, x: Float[Tensor, "row d_model"], z: Float[Tensor, "row head d_head"]
) -> Float[Tensor, "row d_model"]:
    """The stream after a block, of the stream that enters it and the heads' outputs before W_O."""
    out = F.linear(z.flatten(1), output_matrix(block), block.attn.b_O)
    if norm := output_norm(block):
        out = norm(out[None])[0]
    if block.cfg.parallel_attn_mlp:
        return out.add_(x).add_(mlp(block, x))
    x = out.add_(x)
    return x.add_(mlp(block, x))
