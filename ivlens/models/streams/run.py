"""One pass of all streams over the layers, in the terms of the package's docstring."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ...vocabulary import TokenizedPrompt
from ..engines import HookedTransformer, TransformerBlock
from ..forks import NO_FORKS, Forks
from ..head_weights import output_norm
from ..precision import in_dtype
from .attention import stream_attention
from .block import embedded, mlp, normed, output_matrix
from .layout import Layout


def run_streams(
    model: HookedTransformer,
    pairs: Sequence[TokenizedPrompt],
    forks: Mapping[int, Forks],
    dtype: torch.dtype | None = None,
) -> list[Float[Tensor, "stream width d_model"]]:
    """Each prompt's streams after the last block: the clean one, then those that fork off, layer by layer.

    They are computed in ``dtype`` (None: the model's); weights are widened to it one block at a time. Infinities and
    not-a-numbers of a prompt reach others that share its beginning, so each prompt then runs alone.
    """
    streams = run_together(model, pairs, forks, dtype or model.cfg.dtype)
    if len(pairs) == 1 or all(each.isfinite().all() for each in streams):
        return streams
    own = [{layer: each.of_prompt(number) for layer, each in forks.items()} for number in range(len(pairs))]
    return [run_streams(model, [pair], of_prompt, dtype)[0] for pair, of_prompt in zip(pairs, own, strict=True)]


def run_together(
    model: HookedTransformer, pairs: Sequence[TokenizedPrompt], forks: Mapping[int, Forks], dtype: torch.dtype
) -> list[Float[Tensor, "stream width d_model"]]:
    """``run_streams``, whatever comes out."""
    layout = Layout.of(pairs, 1 + sum(each.count for each in forks.values()), model.cfg.device)
    own = [token for prompt, answer in pairs for token in prompt[-1:] + answer[:-1]]
    tokens = [*layout.prefixes.tokens, *own]
    x = embedded(model, tokens, layout.positions[: len(tokens)], dtype)
    return run_layers(model, x, layout, forks, 0, dtype)


def run_layers(
    model: HookedTransformer,
    x: Float[Tensor, "row d_model"],
    layout: Layout,
    forks: Mapping[int, Forks],
    first: int,
    dtype: torch.dtype,
) -> list[Float[Tensor, "stream width d_model"]]:
    """Each prompt's streams after the last block, of the clean rows ``x`` that enter the layer ``first``."""
    last = model.cfg.n_layers - 1
    for layer in range(first, last + 1):
        kept = layout.without_prefixes if layer == last else layout
        x = _advance(in_dtype(model.blocks[layer], dtype), x, layout, kept, forks.get(layer, NO_FORKS))
    x = _enter(x, kept, forks.get(model.cfg.n_layers, NO_FORKS))
    return [kept.streams(x)[:, own] for own in kept.own]


def _advance(
    block: TransformerBlock, x: Float[Tensor, "row d_model"], layout: Layout, kept: Layout, forks: Forks
) -> Float[Tensor, "forked d_model"]:
    """One block: streams fork entering it, after attention, and after the MLP; only ``kept`` rows leave it."""
    x = _enter(x, layout, forks)
    z = stream_attention(block.attn, normed(block, x), layout, kept)
    out, forked = _writes(block, z, kept, forks)
    x = layout.only(kept, x)
    middle = (kept.clean(x) + kept.clean(out))[kept.last]  # the clean stream between attention and MLP
    if block.cfg.parallel_attn_mlp:  # the MLP reads the block's input, which forks share with the clean stream
        x = x + mlp(block, x)
    x = _join(out.add_(x), forked.add_(kept.clean(x)))
    del z, out, forked  # the MLP needs the memory
    if not block.cfg.parallel_attn_mlp:
        x = x.add_(mlp(block, x))
    return x if forks.mlp is None else _join(x, _fork(kept.clean(x), kept, forks.mlp.to(x) + middle))


def _enter(x: Float[Tensor, "row d_model"], layout: Layout, forks: Forks) -> Float[Tensor, "forked d_model"]:
    """Fork the streams that enter the block with a vector added, and those with another stream."""
    if forks.added is not None:
        x = _join(x, _fork(layout.clean(x), layout, forks.added.to(x) + layout.clean(x)[layout.last]))
    return _join(x, _fork(layout.clean(x), layout, forks.residual))


def _fork(
    clean: Float[Tensor, "width d_model"], layout: Layout, values: Float[Tensor, "fork _ d_model"] | None
) -> Float[Tensor, "fork width d_model"]:
    """Copies of the clean stream, each with another value at the last prompt tokens."""
    if values is None:
        return clean.new_empty(0, *clean.shape)
    forked = clean.repeat(len(values), 1, 1)
    forked[:, layout.last] = values.to(clean)
    return forked


def _join(x: Float[Tensor, "row d_model"], forked: Float[Tensor, "fork width d_model"]) -> Float[Tensor, "all d_model"]:
    """The streams, and those that fork off as new rows at the end."""
    return torch.cat([x, forked.flatten(0, 1)]) if len(forked) else x


def _writes(
    block: TransformerBlock, z: Float[Tensor, "kept head d_head"], kept: Layout, forks: Forks
) -> tuple[Float[Tensor, "kept d_model"], Float[Tensor, "fork width d_model"]]:
    """What attention adds in the rows ``kept``, and in the streams that fork after it."""
    w_o = output_matrix(block)
    out = F.linear(z.flatten(1), w_o, block.attn.b_O)
    replaced = kept.clean(out)[kept.last] + F.linear(_offsets(kept.clean(z)[kept.last], forks).flatten(2), w_o)
    if forks.written is not None:
        replaced[-len(forks.written) :] += forks.written.to(z)
    forked = _fork(kept.clean(out), kept, replaced)
    if norm := output_norm(block):
        out, forked = norm(out[None])[0], norm(forked)
    return out, torch.cat([forked, _fork(kept.clean(out), kept, forks.attention)])


def _offsets(z: Float[Tensor, "prompt head d_head"], forks: Forks) -> Float[Tensor, "fork prompt head d_head"]:
    """For each head that is replaced its new z minus its own, and zero for all other heads.

    Where a head's written output is replaced, its z becomes zero: then the head adds that output only.
    """
    heads = list(forks.heads)
    values, offsets = z.new_zeros(len(heads), len(z), z.shape[-1]), z.new_zeros(len(heads), *z.shape)
    if forks.z is not None:
        values[: len(forks.z)] = forks.z.to(z)
    offsets[range(len(heads)), :, heads] = values - z[:, heads].transpose(0, 1)
    return offsets
