"""Last-token streams: many interventions at the last prompt token, all of them in one pass over the layers.

A causal model patched at the last prompt token changes nothing before it. So the prompt's earlier positions, its
*prefix*, are run once; only the positions from the last prompt token on, a *stream*, are run for each patch. A stream
patched in layer l equals the clean one below l: it forks off the clean stream there, by the head's difference through
W_O, and from then on all streams travel together as rows of one matrix. A vector added to the residual stream forks
one off likewise, before its layer. Same numbers as one forward pass an intervention (``ivlens.effects`` holds that
plain loop over heads), for about the arithmetic of a few forward passes.

Rows: first the prompts' prefixes, then the streams one after another, the clean one first; in a stream each prompt has
one row for its last token and one for each answer token but the last. Forks are new rows at the end. Nothing is
padded, so ragged prompts do not touch each other.
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

from .precision import in_dtype
from .runs import Ids
from .stream_attention import stream_attention
from .stream_layout import Layout
from .writes import is_post_norm, output_norm


@dataclass(frozen=True)
class Plan:
    """What forks streams off the clean one, at the last prompt token.

    ``patched``: in a layer, the heads whose output becomes its mean, one stream a head, out of ``means``
    [layer, head, d_head]; ``added``: before a layer, the vectors added to the residual stream, [added, d_model].
    """

    means: Float[Tensor, "layer head d_head"]
    patched: Mapping[int, list[int]] = field(default_factory=dict)
    added: Mapping[int, Float[Tensor, "added d_model"]] = field(default_factory=dict)

    @property
    def streams(self) -> int:
        """How many there are in the end, with the clean one."""
        return 1 + sum(map(len, self.patched.values())) + sum(map(len, self.added.values()))


def run_streams(
    model: HookedTransformer, pairs: Sequence[tuple[Ids, Ids]], plan: Plan, dtype: torch.dtype | None = None
) -> list[Float[Tensor, "stream width d_model"]]:
    """Each prompt's streams after the last block: the clean one, then those that ``plan`` forks off, layer by layer.

    They are computed in ``dtype`` (None: the model's), the weights of one block at a time widened to it.
    """
    dtype = dtype or model.cfg.dtype
    layout = Layout.of(pairs, plan.streams, model.cfg.device)
    x = _embed(model, pairs, layout, dtype)
    for layer, block in enumerate(in_dtype(block, dtype) for block in model.blocks):
        if layer in plan.added:
            x = _enter(x, layout, plan.added[layer].to(x))
        chosen = plan.patched.get(layer, [])
        after = layout.without_prefixes if layer == model.cfg.n_layers - 1 else layout
        x = _advance(block, x, layout, after, plan.means[layer].to(x), chosen)
    return [after.streams(x)[:, own] for own in after.own]


def _embed(
    model: HookedTransformer, pairs: Sequence[tuple[Ids, Ids]], layout: Layout, dtype: torch.dtype
) -> Float[Tensor, "row d_model"]:
    before = [token for prompt, _ in pairs for token in prompt[:-1]]
    own = [token for prompt, answer in pairs for token in prompt[-1:] + answer[:-1]]
    x = model.embed.W_E[torch.tensor(before + own, device=layout.positions.device)].to(dtype)
    if model.cfg.post_embedding_ln:
        x = in_dtype(model.embed.ln, dtype)(x[None])[0]
    if model.cfg.positional_embedding_type == "standard":
        x = x + model.pos_embed.W_pos[layout.positions[: len(x)]]
    return x


def _enter(
    x: Float[Tensor, "row d_model"], layout: Layout, added: Float[Tensor, "added d_model"]
) -> Float[Tensor, "forked d_model"]:
    """Fork a stream off the clean one for each vector, and add the vector at the last prompt tokens."""
    forks = layout.streams(x)[0].repeat(len(added), 1, 1)
    forks[:, layout.last] += added[:, None]
    return torch.cat([x, forks.flatten(0, 1)])


def _advance(
    block: TransformerBlock,
    x: Float[Tensor, "row d_model"],
    layout: Layout,
    after: Layout,
    means: Float[Tensor, "head d_head"],
    chosen: list[int],
) -> Float[Tensor, "forked d_model"]:
    """One block: attention, the forks of the ``chosen`` heads, the MLP; ``after`` it prefixes may be left behind."""
    z = stream_attention(block.attn, x if is_post_norm(block) else block.ln1(x[None])[0], layout, after)
    x = x[layout.before - after.before :]
    out = F.linear(z.flatten(1), block.attn.W_O.permute(2, 0, 1).flatten(1), block.attn.b_O)
    if block.cfg.parallel_attn_mlp:  # the MLP reads the block's input, which forks share with the clean stream
        x = x + _mlp(block, x)
    forks = _forks(block.attn, after.streams(z)[0], after.streams(out)[0], after.last, means, chosen)
    if norm := output_norm(block):
        out, forks = norm(out[None])[0], norm(forks)
    x = torch.cat([out.add_(x), forks.add_(after.streams(x)[0]).flatten(0, 1)])
    return x if block.cfg.parallel_attn_mlp else x.add_(_mlp(block, x))


def _forks(
    attention: Any,
    z: Float[Tensor, "width head d_head"],
    out: Float[Tensor, "width d_model"],
    last: Int[Tensor, " prompt"],
    means: Float[Tensor, "head d_head"],
    chosen: list[int],
) -> Float[Tensor, "chosen width d_model"]:
    """What attention writes in the streams forked off: as the clean one's ``out``, but for a head at the last token."""
    forks = out.repeat(len(chosen), 1, 1)
    if chosen:
        run = range(chosen[0], chosen[-1] + 1)
        heads = slice(run.start, run.stop) if chosen == list(run) else chosen  # a slice of W_O is no copy
        forks[:, last] += (means[heads, None] - z[last].transpose(0, 1)[heads]) @ attention.W_O[heads]
    return forks


def _mlp(block: TransformerBlock, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    return block.apply_mlp(x[None] if is_post_norm(block) else block.ln2(x[None]))[0]
