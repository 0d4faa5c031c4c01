"""One pass of all streams over the layers, in the terms of the package's docstring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components import TransformerBlock

from ...vocabulary import TokenizedPrompt
from ..head_weights import is_post_norm, output_norm
from ..precision import in_dtype
from .attention import stream_attention
from .layout import Layout


@dataclass(frozen=True)
class Forks:
    """The interventions that fork streams off the clean one, at the last prompt token.

    ``patched``: in a layer, the heads whose output is replaced by its mean in ``means``, one stream per head
    [layer, head, d_head]; ``added``: before a layer, the vectors added to the residual stream, [added, d_model].
    """

    means: Float[Tensor, "layer head d_head"]
    patched: Mapping[int, list[int]] = field(default_factory=dict)
    added: Mapping[int, Float[Tensor, "added d_model"]] = field(default_factory=dict)

    @property
    def streams(self) -> int:
        """Final number of streams, including the clean one."""
        return 1 + sum(map(len, self.patched.values())) + sum(map(len, self.added.values()))


def run_streams(
    model: HookedTransformer, pairs: Sequence[TokenizedPrompt], forks: Forks, dtype: torch.dtype | None = None
) -> list[Float[Tensor, "stream width d_model"]]:
    """Each prompt's streams after the last block: the clean one, then those that ``forks`` forks off, layer by layer.

    They are computed in ``dtype`` (None: the model's); weights are widened to it one block at a time.
    """
    dtype = dtype or model.cfg.dtype
    layout = Layout.of(pairs, forks.streams, model.cfg.device)
    x = _embed(model, pairs, layout, dtype)
    for layer, block in enumerate(model.blocks):
        if layer in forks.added:
            x = _enter(x, layout, forks.added[layer].to(x))
        chosen = forks.patched.get(layer, [])
        kept = layout.without_prefixes if layer == model.cfg.n_layers - 1 else layout
        x = _advance(in_dtype(block, dtype), x, layout, kept, forks.means[layer].to(x), chosen)
    return [kept.streams(x)[:, own] for own in kept.own]


def _embed(
    model: HookedTransformer, pairs: Sequence[TokenizedPrompt], layout: Layout, dtype: torch.dtype
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
    kept: Layout,
    means: Float[Tensor, "head d_head"],
    chosen: list[int],
) -> Float[Tensor, "forked d_model"]:
    """One block: attention, the forks of the ``chosen`` heads, the MLP; only ``kept`` rows leave it."""
    z = stream_attention(block.attn, x if is_post_norm(block) else block.ln1(x[None])[0], layout, kept)
    out, forks = _writes(block, z, kept, means, chosen)
    x = layout.only(kept, x)
    if block.cfg.parallel_attn_mlp:  # the MLP reads the block's input, which forks share with the clean stream
        x = x + _mlp(block, x)
    x = torch.cat([out.add_(x), forks.add_(kept.streams(x)[0]).flatten(0, 1)])
    del z, out, forks  # the MLP needs the memory
    return x if block.cfg.parallel_attn_mlp else x.add_(_mlp(block, x))


def _writes(
    block: TransformerBlock,
    z: Float[Tensor, "kept head d_head"],
    kept: Layout,
    means: Float[Tensor, "head d_head"],
    chosen: list[int],
) -> tuple[Float[Tensor, "kept d_model"], Float[Tensor, "chosen width d_model"]]:
    """Attention's output in the rows ``kept``, and in the streams that its ``chosen`` heads fork off."""
    w_o = block.attn.W_O.permute(2, 0, 1).flatten(1)  # a view of weights stored transposed
    out = F.linear(z.flatten(1), w_o, block.attn.b_O)
    offsets = _offsets(kept.streams(z)[0, kept.last], means, chosen)
    forks = kept.streams(out)[0].repeat(len(chosen), 1, 1)
    forks[:, kept.last] += F.linear(offsets.flatten(2), w_o)
    norm = output_norm(block)
    return (norm(out[None])[0], norm(forks)) if norm else (out, forks)


def _offsets(
    z: Float[Tensor, "prompt head d_head"], means: Float[Tensor, "head d_head"], chosen: list[int]
) -> Float[Tensor, "chosen prompt head d_head"]:
    """For each chosen head, its mean minus its clean output, and zero for all other heads."""
    offsets = z.new_zeros(len(chosen), *z.shape)
    offsets[range(len(chosen)), :, chosen] = (means - z)[:, chosen].transpose(0, 1)
    return offsets


def _mlp(block: TransformerBlock, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    return block.apply_mlp(x[None] if is_post_norm(block) else block.ln2(x[None]))[0]
