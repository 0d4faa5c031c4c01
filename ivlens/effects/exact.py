"""The exact sweep: last-token streams (``ivlens.models.streams``), prompts grouped to a bounded number of rows."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..models import HookedTransformer, sweep_heads
from ..records import Head
from .metric import Pair, Scores


def exact_scores(
    model: HookedTransformer,
    pairs: Sequence[Pair],
    means: Tensor,
    heads: list[Head],
    against_foil: bool,
    budget: int,
    dtype: torch.dtype | None = None,
) -> list[Scores]:
    """Sweep prompts in groups, or one prompt's heads in parts, so that at most ``budget`` rows of streams travel."""
    scores: list[Scores] = []
    with tqdm(total=len(pairs), desc="exact sweep", unit="prompt", leave=False, disable=None) as bar:
        for group in within(pairs, len(heads) + 1, budget):
            size = max(1, budget // len(group[0][1]) - 1) if len(group) == 1 else len(heads)
            parts = [
                sweep_heads(model, group, means, heads[at : at + size], against_foil=against_foil, dtype=dtype)
                for at in range(0, len(heads), size)
            ]
            for first, *rest in zip(*parts, strict=True):  # each part begins with the clean stream
                scores.append(torch.cat([first, *(part[1:] for part in rest)]))
            bar.update(len(group))
    return scores


def within(pairs: Sequence[Pair], streams: int, budget: int) -> list[list[Pair]]:
    """Consecutive groups of prompts whose rows, of prefixes and streams, fit the budget, or of one prompt."""
    groups: list[list[Pair]] = []
    rows = 0
    for pair in pairs:
        own = len(pair[0]) - 1 + streams * len(pair[1])
        rows += own
        if not groups or rows > budget:
            groups.append([])
            rows = own
        groups[-1].append(pair)
    return groups
