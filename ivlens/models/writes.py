"""What heads write into the residual stream."""

from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer


def head_writes(model: HookedTransformer, layer: int, z: Float[Tensor, "head d_head"]) -> Float[Tensor, "head d_model"]:
    """What each head of a layer adds to the residual stream when the heads' outputs before W_O are ``z``; no bias.

    A block's norm of its attention output is linear once its scale is known; the scale is that of all heads together.
    """
    block = model.blocks[layer]
    z = z.to(block.attn.W_O)
    writes = (z[:, None] @ block.attn.W_O)[:, 0]
    if model.cfg.use_normalization_before_and_after:
        total = writes.sum(0) + block.attn.b_O
        writes = writes * block.ln1_post.w / (total.pow(2).mean() + block.ln1_post.eps).sqrt()
    return writes.float() if writes.element_size() < 4 else writes
