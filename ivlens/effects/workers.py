"""Scores of all prompts by one process or by several workers, in the same groups of prompts."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..models import HookedTransformer, map_with_model
from ..parallel import workers
from ..records import Head
from .exact import within
from .loop import loop_scores
from .metric import Pair, Scores


def map_scores(
    run: Callable[..., list[Scores]],
    model: HookedTransformer,
    pairs: Sequence[Pair],
    means: Tensor,
    heads: list[Head],
    against_foil: bool,
    budget: int,
    n_jobs: int | None,
) -> list[Scores]:
    """What ``run``, ``exact_scores`` or ``loop_scores``, gives for the prompts; workers have its groups of prompts."""
    work = partial(_scores, run=run, means=means, heads=heads, against_foil=against_foil, budget=budget)
    if workers(n_jobs) == 1:
        return work(model, pairs)
    groups = [[pair] for pair in pairs] if run is loop_scores else within(pairs, len(heads) + 1, budget)
    ends = list(accumulate(map(len, groups)))
    names = [f"prompts {end - len(group) + 1} to {end}" for group, end in zip(groups, ends, strict=True)]
    with tqdm(total=len(pairs), desc="indirect effects", unit="prompt", leave=False, disable=None) as bar:
        found = map_with_model(model, work, groups, n_jobs, names, finished=lambda group, _: bar.update(len(group)))
    return [of_prompt for group in found for of_prompt in group]


@torch.no_grad()
def _scores(
    model: HookedTransformer,
    pairs: Sequence[Pair],
    run: Callable[..., list[Scores]],
    means: Tensor,
    heads: list[Head],
    against_foil: bool,
    budget: int,
) -> list[Scores]:
    return [of_prompt.cpu() for of_prompt in run(model, pairs, means, heads, against_foil, budget)]
