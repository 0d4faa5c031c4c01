"""Attention of texts that begin alike, and of streams: all of a prompt's share the keys and values of its prefix."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.activation_functions import apply_softcap

from ..fused import attend_causally
from .layout import Layout
from .tree import Tree


def stream_attention(
    attention: Any, normed: Float[Tensor, "row d_model"], layout: Layout, kept: Layout
) -> Float[Tensor, "kept head d_head"]:
    """Outputs of all heads before W_O in the rows ``kept``: prefixes attend to themselves, streams to both."""
    first = layout.before - kept.before
    q, k, v = _projected(attention, normed, layout.positions[: len(normed)], layout.reach, first)
    z = torch.empty_like(q)
    _attend_within(attention, q, k, v, kept.prefixes, z)
    queries, keys, values = kept.streams(q), layout.streams(k), layout.streams(v)
    for prefix, own in zip(layout.prefixes.spans, layout.own, strict=True):
        mine = queries[:, own], keys[:, own], values[:, own]
        kept.streams(z)[:, own] = _attend(attention, *mine, k[prefix], v[prefix])
    return z


def tree_attention(
    attention: Any, normed: Float[Tensor, "row d_model"], tree: Tree
) -> tuple[Float[Tensor, "row head d_head"], Float[Tensor, "row kv_head d_head"], Float[Tensor, "row kv_head d_head"]]:
    """Outputs of all heads before W_O in the rows of a tree, their keys and their values."""
    q, k, v = _projected(attention, normed, tree.positions, max(map(len, tree.paths)))
    z = torch.empty_like(q)
    _attend_within(attention, q, k, v, tree, z)
    return z, k, v


def next_attention(
    attention: Any,
    normed: Float[Tensor, "text d_model"],
    positions: Int[Tensor, " text"],
    keys: Float[Tensor, "text before kv_head d_head"],
    values: Float[Tensor, "text before kv_head d_head"],
    own: Bool[Tensor, "text pos"],
) -> tuple[
    Float[Tensor, "text head d_head"],
    Float[Tensor, "text pos kv_head d_head"],
    Float[Tensor, "text pos kv_head d_head"],
]:
    """Outputs of all heads at the next token of each text, of which ``own`` tells tokens from padding on the left.

    With it the keys and values, of the tokens before and this one.
    """
    q, k, v = _projected(attention, normed, positions, keys.shape[1] + 1)
    keys, values = (torch.cat([before, new[:, None]], 1) for before, new in ((keys, k), (values, v)))
    if attention.attn_type == "local":
        own = own & _sees(attention, 1, own.shape[1] - 1, own.device)
    z = F.scaled_dot_product_attention(
        q[:, :, None], keys.transpose(1, 2), values.transpose(1, 2), attn_mask=own[:, None, None],
        scale=1 / attention.attn_scale, enable_gqa=True,
    )  # fmt: skip
    return z[:, :, 0], keys, values


def _projected(
    attention: Any, normed: Float[Tensor, "row d_model"], positions: Int[Tensor, " row"], reach: int, first: int = 0
) -> tuple[
    Float[Tensor, "asking head d_head"], Float[Tensor, "row kv_head d_head"], Float[Tensor, "row kv_head d_head"]
]:
    """Keys and values of all rows, and queries of those from ``first`` on; ``reach`` is above all positions."""
    q, k, v = (_project(attention, rows, name) for rows, name in ((normed[first:], "Q"), (normed, "K"), (normed, "V")))
    if attention.cfg.use_qk_norm:
        q, k = attention.q_norm(q), attention.k_norm(k)
    elif attention.q_norm is not None:  # OLMo 2: one norm of all heads
        q, k = attention.q_norm(q.flatten(1)).view_as(q), attention.k_norm(k.flatten(1)).view_as(k)
    if (clip := attention.cfg.clip_qkv) is not None:
        q, k, v = (rows.clamp(-clip, clip) for rows in (q, k, v))
    if attention.cfg.positional_embedding_type == "rotary":
        cos, sin = _angles(attention, positions, reach)
        q, k = _rotate(attention, q, cos[first:], sin[first:]), _rotate(attention, k, cos, sin)
    return q, k, v


def _project(attention: Any, x: Float[Tensor, "row d_model"], name: str) -> Float[Tensor, "row head d_head"]:
    """Queries, keys or values; keys and values once for each KV head."""
    own = "_" if name != "Q" and hasattr(attention, "_W_K") else ""
    weight, bias = getattr(attention, f"{own}W_{name}"), getattr(attention, f"{own}b_{name}")
    flat = weight.transpose(1, 2).reshape(-1, weight.shape[1])  # a view of weights stored transposed
    return F.linear(x, flat, bias.flatten()).unflatten(1, bias.shape)


def _angles(attention: Any, positions: Int[Tensor, " row"], reach: int) -> tuple[Float[Tensor, "row 1 turned"], ...]:
    """Cosines and sines of the rows' positions."""
    if reach > len(attention.rotary_cos):
        attention._extend_rotary_embeddings(reach)
    return attention.rotary_cos[positions, None], attention.rotary_sin[positions, None]


def _rotate(
    attention: Any,
    x: Float[Tensor, "row head d_head"],
    cos: Float[Tensor, "row 1 turned"],
    sin: Float[Tensor, "row 1 turned"],
) -> Float[Tensor, "row head d_head"]:
    turned, rest = x.split([attention.cfg.rotary_dim, x.shape[-1] - attention.cfg.rotary_dim], -1)
    turned = torch.addcmul(turned * cos, attention.rotate_every_two(turned), sin)
    return torch.cat([turned, rest], -1) if rest.numel() else turned


def _attend_within(
    attention: Any,
    q: Float[Tensor, "asking head d_head"],
    k: Float[Tensor, "row kv_head d_head"],
    v: Float[Tensor, "row kv_head d_head"],
    tree: Tree,
    z: Float[Tensor, "asking head d_head"],
) -> None:
    """Write what the rows of a tree attend to, each to those before it in its text, into ``z``."""
    for group in tree.together:
        of_texts = _attend_causally(attention, q[group.rows], k[group.rows], v[group.rows])
        z[group.new] = of_texts[group.text, group.pos]


def _attend_causally(
    attention: Any,
    q: Float[Tensor, "text pos head d_head"],
    k: Float[Tensor, "text pos kv_head d_head"],
    v: Float[Tensor, "text pos kv_head d_head"],
) -> Float[Tensor, "text pos head d_head"]:
    """Causal attention within each text, by torch's fused kernel where scores are neither capped nor shifted."""
    if attention.cfg.attn_scores_soft_cap > 0 or attention.cfg.positional_embedding_type == "alibi":
        return _attend(attention, q, k, v, k[0, :0], v[0, :0])
    return attend_causally(attention, q, k, v)


def _attend(
    attention: Any,
    q: Float[Tensor, "stream width head d_head"],
    k: Float[Tensor, "stream width kv_head d_head"],
    v: Float[Tensor, "stream width kv_head d_head"],
    k_prefix: Float[Tensor, "prefix kv_head d_head"],
    v_prefix: Float[Tensor, "prefix kv_head d_head"],
) -> Float[Tensor, "stream width head d_head"]:
    """Causal attention of each stream over the shared prefix and its own rows."""
    width, kv_heads = k.shape[1:3]
    prefix = len(k_prefix)
    q = q / attention.attn_scale
    grouped = q.unflatten(2, (kv_heads, -1)).permute(2, 0, 1, 3, 4)  # kv_head stream width group d_head
    shape = grouped.shape[:4]
    own = grouped.flatten(2, 3) @ k.permute(2, 0, 3, 1)  # kv_head stream width*group width
    shared = grouped.flatten(1, 3) @ k_prefix.permute(1, 2, 0)  # kv_head stream*width*group prefix
    scores = torch.cat([shared.view(*shape, prefix), own.view(*shape, width)], -1)
    scores = apply_softcap(scores, attention.cfg.attn_scores_soft_cap)
    if attention.cfg.positional_embedding_type == "alibi":
        alibi_slopes = attention.create_alibi_multipliers(attention.cfg.n_heads, q.device).view(kv_heads, 1, 1, -1, 1)
        scores = scores - (alibi_slopes * _distances(width, prefix, q.device)[:, None]).to(scores)
    if width > 1 or attention.attn_type == "local":
        scores = scores.masked_fill(~_sees(attention, width, prefix, q.device)[:, None], -torch.inf)
    pattern = scores.softmax(-1)
    z = pattern[..., prefix:].flatten(2, 3) @ v.permute(2, 0, 1, 3)  # kv_head stream width*group d_head
    z = z.view(grouped.shape) + (pattern[..., :prefix].flatten(1, 3) @ v_prefix.permute(1, 0, 2)).view(grouped.shape)
    return z.permute(1, 2, 0, 3, 4).flatten(2, 3)


def _sees(attention: Any, width: int, prefix: int, device: torch.device) -> Tensor:
    """Mask [width, prefix + width] of the keys that each query may attend to."""
    ago = _distances(width, prefix, device)
    return (ago >= 0) & (ago < attention.cfg.window_size) if attention.attn_type == "local" else ago >= 0


def _distances(width: int, prefix: int, device: torch.device) -> Tensor:
    """How many positions each query [width] comes after each key [prefix + width]."""
    return torch.arange(prefix, prefix + width, device=device)[:, None] - torch.arange(prefix + width, device=device)
