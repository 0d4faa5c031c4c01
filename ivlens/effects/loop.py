"""The plain loop: one forward pass a head. It is slow, and the oracle of the exact sweep."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..models import (
    HookedTransformer,
    answer_logits,
    answer_scores,
    hooked,
    last_token,
    padded,
    strongest_wrong,
    z_name,
)
from ..records import Head
from .exact import Pair, Scores


def loop_scores(
    model: HookedTransformer, pairs: Sequence[Pair], means: Tensor, heads: list[Head], against_foil: bool, budget: int
) -> list[Scores]:
    """The published algorithm: one full forward pass a head, its output patched at the last prompt token."""
    scores: list[Scores] = []
    with tqdm(total=len(pairs) * len(heads), desc="plain loop", unit="forward", leave=False, disable=None) as bar:
        for pair in pairs:
            rows = padded([pair], model.cfg.device)
            logits = answer_logits(model, rows)[0]
            foils = strongest_wrong(logits, pair[1]) if against_foil else None
            streams = [answer_scores(logits[None], pair[1], foils)]
            for layer, head in heads:
                with hooked(model, {z_name(layer): _patch(head, means[layer, head])}):
                    streams.append(answer_scores(answer_logits(model, rows)[0][None], pair[1], foils))
                bar.update()
            scores.append(torch.cat(streams))
    return scores


def _patch(head: int, value: Float[Tensor, " d_head"]) -> Callable[[Tensor], Tensor]:
    def edit(z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        row, position = last_token(z)
        z[row, position, head] = value.to(z)
        return z

    return edit
