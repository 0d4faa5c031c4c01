"""Parts replaced at any positions of a prompt: streams of all that comes after the first of them.

A prompt patched in layer l at some positions is the clean one before the first of them, and below l. So the clean
prompt is run once, and the stream that enters each layer is kept. A patch forks off in its layer as a copy of the
positions from the first patched one on, with other values at the patched ones, and attends to the clean keys and values
before it and to its own. In ``run``'s terms, what comes before the first patched position is the prefix.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UnsupportedError
from ...vocabulary import ModelPart, Part, TokenizedPrompt
from ..engines import HookedTransformer, Model
from ..forks import in_order, replacements, rows_of
from ..parts import PartValues, check_parts
from .attention import tree_attention
from .block import advance, embedded, normed
from .layout import Layout
from .readout import read_scores
from .run import run_layers
from .sweep import check_streamable
from .tree import Tree


def check_position_streams(model: Model, parts: Iterable[Part]) -> None:
    """Raise unless streams represent the model with ``parts`` replaced at any positions, and no hook is active.

    Raises:
        UnsupportedError, HookError: see ``sweep_parts``.
    """
    check_streamable(model, parts)
    if not isinstance(model, HookedTransformer):
        raise UnsupportedError("a model whose streams fork at any position", "a Bridge", "use method='loop'")


def sweep_positions(
    model: Any,
    pair: TokenizedPrompt,
    groups: Sequence[Mapping[int, int]],
    values: PartValues,
    parts: Sequence[ModelPart],
    *,
    rows: int,
    against_foil: bool = False,
) -> list[Float[Tensor, "stream answer"]]:
    """Score a prompt's answer with each of ``parts`` in turn replaced at all positions of a group.

    Args:
        model: the model that runs.
        pair: (prompt ids, answer ids).
        groups: positions of the prompt in their order, each with the number of the values that parts are replaced by.
        values: what parts are replaced by; the first axis is that number instead of the prompt.
        parts: what is replaced, in any order.
        rows: how many rows of streams run together, or one stream.
        against_foil: give logits minus those of the clean run's strongest wrong tokens.

    Returns:
        For each group the answer's tokens' log probabilities, or logit differences; stream 0 is the clean run, then
        come ``parts`` in their order.

    Raises:
        UnsupportedError, HookError: see ``sweep_parts``.
    """
    check_position_streams(model, [each.part for each in parts])
    check_parts(model, parts)
    entering, ordered, order = _clean_streams(model, pair), in_order(parts), rows_of(parts)
    found = []
    for group in groups:
        positions, theirs = [*group], values.only([*group.values()])
        size = max(1, rows // (len(entering[0]) - positions[0]))
        pieces = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        scores: list[Tensor] = []
        for piece in pieces:
            layout = Layout.within(pair, positions, 1 + len(piece), model.cfg.device)
            (streams,) = run_layers(
                model, entering[piece[0].layer], layout, replacements(theirs, piece), piece[0].layer, model.cfg.dtype
            )
            answered = streams[:, -len(pair[1]) :]
            each = read_scores(model, answered, pair[1], against_foil=against_foil)
            scores.append(each[1:] if scores else each)  # each piece begins with the clean stream
        found.append(torch.cat(scores)[order])
    return found


def _clean_streams(model: HookedTransformer, pair: TokenizedPrompt) -> list[Float[Tensor, "pos d_model"]]:
    """The clean stream that enters each layer."""
    tree = Tree.of([pair[0] + pair[1][:-1]], model.cfg.device)
    entering = [embedded(model, tree.tokens, tree.positions, model.cfg.dtype)]
    for block in model.blocks[:-1]:
        x = entering[-1]
        z, _, _ = tree_attention(block.attn, normed(block, x), tree)
        entering.append(advance(block, x, z))
    return entering
