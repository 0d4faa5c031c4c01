"""Attention by torch's fused kernel, also in passes that must keep what a backward pass needs.

TransformerLens computes every query's scores over all keys, and autograd keeps them: memory in the square of a prompt's
length. The fused kernel keeps queries, keys and values, and computes scores again in the backward pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .engines import HookedTransformer, Model

STEPS = ("calculate_attention_scores", "apply_causal_mask", "calculate_z_scores")  # of TransformerLens' attention


@contextmanager
def fused_attention(model: Model) -> Iterator[None]:
    """Within this context prompts that are padded on the right run without attention scores and patterns.

    Layers whose scores are capped or shifted, or have hooks on them, compute as before. So do models that attend in
    both directions, and those in float16, whose scores may overflow (``overflow_shown``). A Bridge computes as its own
    code does, which is fused by default.
    """
    blocks = model.blocks if isinstance(model, HookedTransformer) else ()
    fused = [block.attn for block in blocks if _fits(block.attn)]
    for attention in fused:
        vars(attention).update(zip(STEPS, _steps(attention), strict=True))
    try:
        yield
    finally:
        for attention in fused:
            for name in STEPS:
                del vars(attention)[name]


def _fits(attention: Any) -> bool:
    """Whether the kernel computes what this layer does, and nobody sees its scores."""
    cfg = attention.cfg
    own = cfg.attn_scores_soft_cap > 0 or cfg.use_attention_sinks or cfg.positional_embedding_type == "alibi"
    seen = any(point._forward_hooks for point in (attention.hook_attn_scores, attention.hook_pattern))
    return cfg.attention_dir == "causal" and not (own or seen or cfg.dtype == torch.float16)


def _steps(attention: Any) -> tuple[Callable[..., Tensor], ...]:
    """What runs instead of ``STEPS``: scores and pattern are empty, and z comes from queries, keys and values."""
    asked: list[Tensor] = []

    def scores(q: Float[Tensor, "batch pos head d_head"], k: Float[Tensor, "batch pos kv_head d_head"]) -> Tensor:
        asked[:] = q, k
        return q.new_empty(0, 0, 0, 0)

    def mask(scores: Tensor, *_: Any) -> Tensor:
        return scores

    def z(v: Float[Tensor, "batch pos kv_head d_head"], pattern: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        q, k = asked
        asked.clear()
        hooked: Tensor = attention.hook_z(attend_causally(attention, q, k, v))
        return hooked

    return scores, mask, z


def attend_causally(
    attention: Any,
    q: Float[Tensor, "text pos head d_head"],
    k: Float[Tensor, "text pos kv_head d_head"],
    v: Float[Tensor, "text pos kv_head d_head"],
) -> Float[Tensor, "text pos head d_head"]:
    """Causal attention within each text, of a layer whose scores are neither capped nor shifted."""
    within = _window(attention, q.shape[1], q.device)
    q, k, v = (rows.transpose(1, 2) for rows in (q, k, v))
    z = F.scaled_dot_product_attention(
        q, k, v, attn_mask=within, is_causal=within is None, scale=1 / attention.attn_scale, enable_gqa=True
    )
    return z.transpose(1, 2)


def _window(attention: Any, length: int, device: torch.device) -> Bool[Tensor, "query key"] | None:
    """The keys that each query sees where a sliding window hides some of those before it, else None."""
    if attention.attn_type != "local" or length <= attention.cfg.window_size:
        return None
    at = torch.arange(length, device=device)
    ago = at[:, None] - at
    return (ago >= 0) & (ago < attention.cfg.window_size)
