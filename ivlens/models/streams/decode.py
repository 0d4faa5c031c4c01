"""Decoding after prompts that begin alike: their tree runs once, then each new token of a prompt is one row."""

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...vocabulary import Ids
from ..engines import HookedTransformer, Model
from ..hooks import edit_at_last
from ..points import resid_post_name, resid_pre_name, z_name
from ..runs import final_logits
from .attention import next_attention, tree_attention
from .block import advance, embedded, normed
from .once import runs_edited_once
from .tree import Tree


def decodes_once(model: Model) -> TypeGuard[HookedTransformer]:
    """Whether ``decoder`` gives what the model's passes do: ``runs_edited_once``, and scores not capped or shifted."""
    if not runs_edited_once(model):
        return False
    return model.cfg.attn_scores_soft_cap <= 0 and model.cfg.positional_embedding_type != "alibi"


def decoder(
    model: HookedTransformer, prompts: Sequence[Ids]
) -> Callable[[Int[Tensor, " prompt"] | None], Float[Tensor, "prompt vocab"]]:
    """A function that gives the logits after the prompts, then, for each prompt's next token, those after it.

    Keys and values are kept, padded on the left. Edits that are active run on the prompts.
    """
    tree = Tree.of(prompts, model.cfg.device, [len(prompt) - 1 for prompt in prompts])
    width = max(map(len, prompts))
    rows = torch.tensor([[0] * (width - len(path)) + path for path in tree.paths], device=tree.device)
    lengths = torch.tensor([*map(len, prompts)], device=tree.device)
    own = torch.arange(width, device=tree.device) >= width - lengths[:, None]
    kept: list[tuple[Tensor, Tensor]] = []

    def first() -> Float[Tensor, "prompt d_model"]:
        x, last = embedded(model, tree.tokens, tree.positions, model.cfg.dtype), rows[:, -1]
        for layer, block in enumerate(model.blocks):
            edit_at_last(model, resid_pre_name(layer), x, last)
            z, k, v = tree_attention(block.attn, normed(block, x), tree)
            edit_at_last(model, z_name(layer), z, last)
            kept.append((k[rows], v[rows]))
            if layer == model.cfg.n_layers - 1:
                x, z, last = x[last], z[last], torch.arange(len(rows), device=tree.device)
            x = advance(block, x, z)
            edit_at_last(model, resid_post_name(layer), x, last)
        return x

    def after(tokens: Int[Tensor, " prompt"]) -> Float[Tensor, "prompt d_model"]:
        nonlocal own
        positions = own.sum(1)
        own = torch.cat([own, own.new_ones(len(own), 1)], 1)
        x = embedded(model, tokens.tolist(), positions, model.cfg.dtype)
        for layer, block in enumerate(model.blocks):
            z, *keys_and_values = next_attention(block.attn, normed(block, x), positions, *kept[layer], own)
            kept[layer] = (keys_and_values[0], keys_and_values[1])
            x = advance(block, x, z)
        return x

    return lambda tokens: final_logits(model, first() if tokens is None else after(tokens))
