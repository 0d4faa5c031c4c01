"""How firmly prompts single out the strongest heads: effects resampled over prompts."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import Count, Resamples, Seed, check_finite, checked
from ..errors import ArgumentError
from ..stats import resample, times_drawn
from ..vocabulary import check_count
from .effects import HeadEffects, Stability


@checked
def top_k_stability(effects: HeadEffects, k: Count, *, resamples: Resamples = 500, seed: Seed = 0) -> Stability:
    """How often each head is among the ``k`` strongest when the prompts are resampled with replacement (bootstrap).

    The overlap is with the ``k`` strongest over all prompts, which the resamples share: it flatters. What other
    prompts would find, ``prompts_needed`` says.

    Args:
        effects: effects, [prompt, layer, head].
        k: how many strongest heads.
        resamples: bootstrap resamples.
        seed: seed of the resamples.

    Returns:
        Each head's probability of being among the ``k`` strongest, and the mean overlap.

    Raises:
        ArgumentError: ``k`` beyond the number of heads, or no resamples.

    Example:
        >>> iv.top_k_stability(effects, 2, resamples=10).probability.shape == effects.aie.shape
        True
    """
    check_count(k, effects.aie.numel())
    check_finite("effects [prompt, layer, head]", effects.values)
    chosen = _strongest(effects, resample(effects.n, resamples, seed), k)
    whole = _strongest(effects, torch.arange(effects.n)[None], k)
    settings = {"k": k, "resamples": resamples, "seed": seed}
    return Stability(
        chosen.double().mean(0).reshape(effects.aie.shape), _shared(chosen, whole).mean().item(), k, effects.n,
        resamples, effects.task, provenance=dict(effects.provenance) | {"stability": settings},
    )  # fmt: skip


@checked
def prompts_needed(
    effects: HeadEffects, k: Count, *, sizes: Sequence[int] | None = None, resamples: Resamples = 200, seed: Seed = 0
) -> pd.DataFrame:
    """Overlap of the ``k`` strongest heads of two disjoint sets of as many prompts, for each size of the sets.

    Both sets are drawn without replacement and share no prompt, so that the overlap is what a second study of that
    size would find again; with shared prompts it would rise to 1 whatever the noise. Sizes therefore end at half of
    the prompts.

    Args:
        effects: effects, [prompt, layer, head].
        k: how many strongest heads.
        sizes: numbers of prompts in each set (None: 1, 2, 5, 10 ... and half of the prompts).
        resamples: pairs of sets per size.
        seed: seed of the sets.

    Returns:
        Columns: prompts (in each set), overlap (mean over resamples, 0 to 1), low and high (its 5% and 95% quantiles
        over resamples).

    Raises:
        ArgumentError: ``k`` beyond the number of heads, a size outside 1 to half of the prompts, or no resamples.

    Example:
        >>> list(iv.prompts_needed(effects, 2, resamples=5))
        ['prompts', 'overlap', 'low', 'high']
    """
    check_count(k, effects.aie.numel())
    check_finite("effects [prompt, layer, head]", effects.values)
    half = effects.n // 2
    if sizes is None:
        sizes = [size for power in range(len(str(half))) for size in (10**power, 2 * 10**power, 5 * 10**power)]
        sizes = [*(size for size in sizes if size < half), half]
    if not sizes or min(sizes) < 1 or max(sizes) > half:
        raise ArgumentError(f"sizes from 1 to {half}, half of the {effects.n} prompts", f"{list(sizes)}")
    shuffled = torch.rand(resamples, effects.n, generator=torch.Generator().manual_seed(seed)).argsort(1)
    rows = []
    for size in sizes:
        one, other = (_strongest(effects, shuffled[:, at : at + size], k) for at in (0, size))
        overlap = _shared(one, other)
        low, high = torch.quantile(overlap, torch.tensor([0.05, 0.95], dtype=overlap.dtype)).tolist()
        rows.append({"prompts": size, "overlap": overlap.mean().item(), "low": low, "high": high})
    return pd.DataFrame(rows)


def _strongest(effects: HeadEffects, drawn: Tensor, k: int) -> Bool[Tensor, "resample head"]:
    """Whether a head is among the ``k`` of highest mean effect over the prompts ``drawn``, [resample, prompt]."""
    sums = times_drawn(drawn, effects.n) @ effects.values.double().flatten(1)
    least = sums.topk(k, dim=1).values[:, -1:]
    above, equal = sums > least, sums == least
    return above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))  # of equal ones, the first


def _shared(a: Bool[Tensor, "#resample head"], b: Bool[Tensor, "#resample head"]) -> Float[Tensor, " resample"]:
    """Fraction of the heads chosen in ``a`` that are chosen in ``b``, for sets of one size."""
    return (a & b).sum(1).double() / b.sum(1)
