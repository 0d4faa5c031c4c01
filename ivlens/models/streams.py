"""Last-token streams: many interventions at the last prompt token, all of them in one pass over the layers.

A causal model patched at the last prompt token changes nothing before it. So the prompt's earlier positions, its
*prefix*, are run once; only the positions from the last prompt token on, a *stream*, are run for each patch. A stream
patched in layer l equals the clean one below l: it forks off the clean stream there, by the head's difference through
W_O, and from then on all streams travel together as rows of one matrix. A vector added to the residual stream forks
one off likewise, before its layer. Same numbers as one forward pass an intervention (``ivlens.effects`` holds that
plain loop over heads), for about the arithmetic of a few forward passes.

Rows: for each prompt its prefix, then its streams, the clean one first; a stream has one row for the last prompt
token and one for each answer token but the last. Nothing is padded, so ragged prompts do not touch each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components import TransformerBlock
from transformer_lens.utilities.activation_functions import apply_softcap

from .precision import in_dtype
from .runs import Ids
from .writes import is_post_norm, output_norm


@dataclass(frozen=True)
class Span:
    """Where one prompt's rows lie: ``prefix`` rows, then ``streams`` times ``width`` rows."""

    start: int
    prefix: int
    streams: int
    width: int

    @property
    def first(self) -> int:
        """Row of the clean stream's last prompt token."""
        return self.start + self.prefix

    @property
    def end(self) -> int:
        """Row after the span's last."""
        return self.first + self.streams * self.width


@dataclass(frozen=True)
class Plan:
    """What forks streams off the clean one, at the last prompt token.

    ``patched``: in a layer, the heads whose output becomes its mean, one stream a head, out of ``means``
    [layer, head, d_head]; ``added``: before a layer, the vectors added to the residual stream, [added, d_model].
    """

    means: Float[Tensor, "layer head d_head"]
    patched: Mapping[int, list[int]] = field(default_factory=dict)
    added: Mapping[int, Float[Tensor, "added d_model"]] = field(default_factory=dict)


def run_streams(
    model: HookedTransformer, pairs: Sequence[tuple[Ids, Ids]], plan: Plan, dtype: torch.dtype | None = None
) -> list[Float[Tensor, "stream width d_model"]]:
    """Each prompt's streams after the last block: the clean one, then those that ``plan`` forks off, layer by layer.

    They are computed in ``dtype`` (None: the model's), the weights of one block at a time widened to it.
    """
    dtype = dtype or model.cfg.dtype
    spans, positions = _lay_out([(len(prompt) - 1, 1, len(answer)) for prompt, answer in pairs], model.cfg.device)
    x = _embed(model, [prompt + answer[:-1] for prompt, answer in pairs], positions, dtype)
    for layer, block in enumerate(in_dtype(block, dtype) for block in model.blocks):
        if layer in plan.added:
            x, spans, positions = _enter(x, spans, positions, plan.added[layer].to(x))
        chosen = plan.patched.get(layer, [])
        last = layer == model.cfg.n_layers - 1
        x, spans, positions = _advance(block, x, spans, positions, plan.means[layer, chosen].to(x), chosen, last)
    return [x[span.first : span.end].unflatten(0, (span.streams, span.width)) for span in spans]


def _lay_out(
    shapes: Sequence[tuple[int, int, int]], device: torch.device | str | None
) -> tuple[list[Span], Int[Tensor, " row"]]:
    """Spans of (prefix, streams, width), one after another, and each row's position in its prompt."""
    spans, positions, start = [], [], 0
    for prefix, streams, width in shapes:
        spans.append(Span(start, prefix, streams, width))
        start = spans[-1].end
        positions.append(torch.cat([torch.arange(prefix), torch.arange(prefix, prefix + width).repeat(streams)]))
    return spans, torch.cat(positions).to(device)


def _embed(
    model: HookedTransformer, rows: Sequence[Ids], positions: Int[Tensor, " row"], dtype: torch.dtype
) -> Float[Tensor, "row d_model"]:
    x = model.embed.W_E[torch.tensor([token for row in rows for token in row], device=positions.device)].to(dtype)
    if model.cfg.post_embedding_ln:
        x = in_dtype(model.embed.ln, dtype)(x[None])[0]
    return x + model.pos_embed.W_pos[positions] if model.cfg.positional_embedding_type == "standard" else x


def _enter(
    x: Float[Tensor, "row d_model"],
    spans: list[Span],
    positions: Int[Tensor, " row"],
    added: Float[Tensor, "added d_model"],
) -> tuple[Float[Tensor, "forked d_model"], list[Span], Int[Tensor, " forked"]]:
    """Fork a stream off each prompt's clean one for each vector, and add the vector at the last prompt token."""
    kept, after, forks = _fork(spans, len(added), False, x.device)
    x = x[kept]
    x[forks] += added
    return x, after, positions[kept]


def _advance(
    block: TransformerBlock,
    x: Float[Tensor, "row d_model"],
    spans: list[Span],
    positions: Int[Tensor, " row"],
    means: Float[Tensor, "chosen d_head"],
    chosen: list[int],
    last: bool,
) -> tuple[Float[Tensor, "forked d_model"], list[Span], Int[Tensor, " forked"]]:
    """One block: attention, the forks of the ``chosen`` heads, the MLP; the last block leaves the prefixes behind."""
    z = _attention(block.attn, x if is_post_norm(block) else block.ln1(x[None])[0], spans, positions)
    out = F.linear(z.flatten(1), block.attn.W_O.permute(2, 0, 1).flatten(1), block.attn.b_O)
    kept, after, forks = _fork(spans, len(chosen), last, x.device)
    before, x, positions, out = x, x[kept], positions[kept], out[kept]
    if chosen:
        clean = z[[span.first for span in spans]][:, chosen]  # prompt chosen d_head
        out[forks] += ((means - clean)[:, :, None] @ block.attn.W_O[chosen])[:, :, 0]  # prompt chosen d_model
    if norm := output_norm(block):
        out = norm(out[None])[0]
    if block.cfg.parallel_attn_mlp:  # the MLP reads the block's input, which forks share with the clean stream
        return x + out + _mlp(block, before)[kept], after, positions
    middle = x + out
    return middle + _mlp(block, middle), after, positions


def _mlp(block: TransformerBlock, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    return block.apply_mlp(x[None] if is_post_norm(block) else block.ln2(x[None]))[0]


def _fork(
    spans: list[Span], count: int, last: bool, device: torch.device
) -> tuple[Int[Tensor, " forked"], list[Span], Int[Tensor, "prompt fork"]]:
    """Rows to keep (each prompt's clean stream ``count`` times more), the new spans, the forks' last prompt tokens."""
    kept, after, forks, start = [], [], [], 0
    for span in spans:
        clean = torch.arange(span.first, span.first + span.width)
        own = torch.arange(span.first if last else span.start, span.end)
        kept += [own, clean.repeat(count)]
        after.append(Span(start, 0 if last else span.prefix, span.streams + count, span.width))
        forks.append(start + len(own) + span.width * torch.arange(count))
        start = after[-1].end
    return torch.cat(kept).to(device), after, torch.stack(forks).to(device)


def _attention(
    attention: Any, normed: Float[Tensor, "row d_model"], spans: list[Span], positions: Int[Tensor, " row"]
) -> Float[Tensor, "row head d_head"]:
    """Outputs of all heads before W_O: prefixes attend to themselves, streams to their prefix and themselves."""
    q, k, v = (_project(attention, normed, name) for name in "QKV")
    if attention.cfg.use_qk_norm:
        q, k = attention.q_norm(q), attention.k_norm(k)
    elif attention.q_norm is not None:  # OLMo 2: one norm of all heads
        q, k = attention.q_norm(q.flatten(1)).view_as(q), attention.k_norm(k.flatten(1)).view_as(k)
    if (clip := attention.cfg.clip_qkv) is not None:
        q, k, v = (rows.clamp(-clip, clip) for rows in (q, k, v))
    if attention.cfg.positional_embedding_type == "rotary":
        q, k = _rotate(attention, q, positions), _rotate(attention, k, positions)
    z = torch.empty_like(q)
    for span in spans:
        inside, streams = slice(span.start, span.first), slice(span.first, span.end)
        if span.prefix:
            z[inside] = _attend_to_itself(attention, q[inside], k[inside], v[inside])
        own_q, own_k, own_v = (rows[streams].unflatten(0, (span.streams, span.width)) for rows in (q, k, v))
        z[streams] = _attend(attention, own_q, own_k, own_v, k[inside], v[inside]).flatten(0, 1)
    return z


def _project(attention: Any, x: Float[Tensor, "row d_model"], name: str) -> Float[Tensor, "row head d_head"]:
    """Queries, keys or values; keys and values once for each KV head."""
    own = "_" if name != "Q" and hasattr(attention, "_W_K") else ""
    weight, bias = getattr(attention, f"{own}W_{name}"), getattr(attention, f"{own}b_{name}")
    flat = weight.transpose(1, 2).reshape(-1, weight.shape[1])  # a view of weights stored transposed
    return F.linear(x, flat, bias.flatten()).unflatten(1, bias.shape)


def _rotate(
    attention: Any, x: Float[Tensor, "row head d_head"], positions: Int[Tensor, " row"]
) -> Float[Tensor, "row head d_head"]:
    reach = int(positions.max()) + 1
    if reach > len(attention.rotary_cos):
        attention._extend_rotary_embeddings(reach)
    turned, rest = x.split([attention.cfg.rotary_dim, x.shape[-1] - attention.cfg.rotary_dim], -1)
    cos, sin = attention.rotary_cos[positions, None], attention.rotary_sin[positions, None]
    return torch.cat([turned * cos + attention.rotate_every_two(turned) * sin, rest], -1)


def _attend_to_itself(
    attention: Any,
    q: Float[Tensor, "prefix head d_head"],
    k: Float[Tensor, "prefix kv_head d_head"],
    v: Float[Tensor, "prefix kv_head d_head"],
) -> Float[Tensor, "prefix head d_head"]:
    """Causal attention of a prefix, by torch's fused kernel where scores are neither capped nor shifted."""
    if attention.cfg.attn_scores_soft_cap > 0 or attention.cfg.positional_embedding_type == "alibi":
        return _attend(attention, q[None], k[None], v[None], k[:0], v[:0])[0]
    seen = _sees(attention, len(q), 0, q.device) if attention.attn_type == "local" else None
    q, k, v = (rows.transpose(0, 1)[None] for rows in (q, k, v))
    z = F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=seen is None, scale=1 / attention.attn_scale, enable_gqa=True
    )
    return z[0].transpose(0, 1)


def _attend(
    attention: Any,
    q: Float[Tensor, "stream width head d_head"],
    k: Float[Tensor, "stream width kv_head d_head"],
    v: Float[Tensor, "stream width kv_head d_head"],
    k_prefix: Float[Tensor, "prefix kv_head d_head"],
    v_prefix: Float[Tensor, "prefix kv_head d_head"],
) -> Float[Tensor, "stream width head d_head"]:
    """Causal attention of each stream over its own rows and, before them, a prefix that all streams share."""
    width, kv_heads = k.shape[1:3]
    prefix = len(k_prefix)
    grouped = q.unflatten(2, (kv_heads, -1)).permute(2, 0, 1, 3, 4)  # kv_head stream width group d_head
    shape = grouped.shape[:4]
    own = grouped.flatten(2, 3) @ k.permute(2, 0, 3, 1)  # kv_head stream width*group width
    shared = grouped.flatten(1, 3) @ k_prefix.permute(1, 2, 0)  # kv_head stream*width*group prefix
    scores = torch.cat([shared.view(*shape, prefix), own.view(*shape, width)], -1) / attention.attn_scale
    scores = apply_softcap(scores, attention.cfg.attn_scores_soft_cap)
    if attention.cfg.positional_embedding_type == "alibi":
        slopes = attention.create_alibi_multipliers(attention.cfg.n_heads, q.device).view(kv_heads, 1, 1, -1, 1)
        scores = scores - (slopes * _distances(width, prefix, q.device)[:, None]).to(scores)
    pattern = scores.masked_fill(~_sees(attention, width, prefix, q.device)[:, None], -torch.inf).softmax(-1)
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
