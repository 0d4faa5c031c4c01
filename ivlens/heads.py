"""Sets of heads from effects, and how firm they are: pure functions on records."""

from collections.abc import Sequence
from random import Random

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .checks import Count, Resamples, Seed, checked
from .errors import ArgumentError, MismatchError
from .records import Head, HeadEffects, HeadMap, Stability, UniversalEffects, check_finite, heads_by_effect
from .stats import resample, times_drawn
from .vocabulary import all_heads, check_count


@checked
def universal_effects(effects: Sequence[HeadEffects]) -> UniversalEffects:
    """Mean over tasks of the tasks' AIEs, for one head set that serves several tasks (2310.15213, section 2.3).

    Its standard error comes from the prompts within each task, the tasks being held fixed.

    Args:
        effects: effects of the tasks, in one metric on one model.

    Returns:
        Mean effects, [layer, head], with their standard errors.

    Raises:
        ArgumentError: no effects.
        MismatchError: effects in different metrics or of differently shaped models.

    Example:
        >>> iv.universal_effects([effects, effects]).aie.shape == effects.aie.shape
        True
    """
    if not effects:
        raise ArgumentError("effects of at least one task", "none")
    kinds = {(each.metric, tuple(each.aie.shape), _weights(each)) for each in effects}
    if len(kinds) > 1:
        raise MismatchError("effects in one metric on one model", f"{sorted(kinds)}", "compute them alike")
    tasks = tuple(each.task for each in effects)
    first = effects[0].provenance
    origin = {name: first[name] for name in ("model", "versions") if name in first}
    origin["settings"] = {each.task: each.provenance.get("settings") for each in effects}
    mean = torch.stack([each.aie for each in effects]).mean(0)
    error = torch.stack([each.stderr for each in effects]).square().sum(0).sqrt() / len(effects)
    return UniversalEffects(
        mean,
        error,
        effects[0].metric,
        tasks,
        sum(each.n for each in effects),
        provenance=origin,
    )


def _weights(effects: HeadEffects) -> str:
    return str(effects.provenance.get("model", {}).get("weights_sha256"))


@checked
def random_heads(shape: tuple[Count, Count], k: Count, *, seed: Seed, exclude: Sequence[Head] = ()) -> list[Head]:
    """``k`` different heads drawn from a model of ``shape`` (layers, heads) outside ``exclude``: a control.

    Args:
        shape: numbers of layers and heads of the model.
        k: how many heads.
        seed: seed of the draw.
        exclude: heads that are not drawn.

    Returns:
        Heads as (layer, head).

    Raises:
        ArgumentError: fewer than ``k`` heads are left.

    Example:
        >>> len(iv.random_heads((2, 4), 3, seed=0))
        3
    """
    left = [head for head in all_heads(*shape) if head not in set(exclude)]
    check_count(k, len(left), "heads that are left")
    return Random(seed).sample(left, k)


@checked
def head_overlap(heads: Sequence[Head], others: Sequence[Head]) -> float:
    """Fraction of the shorter list of heads that the other one shares, from 0 to 1.

    Args:
        heads: heads as (layer, head).
        others: the heads that they are compared with.

    Returns:
        The fraction, 0 to 1.

    Raises:
        ArgumentError: a list without heads.

    Example:
        >>> iv.head_overlap([(0, 1), (1, 2)], [(1, 2), (1, 3)])
        0.5
    """
    if not heads or not others:
        raise ArgumentError("two lists of one head or more", f"{len(heads)} and {len(others)} heads")
    return len(set(heads) & set(others)) / min(len(set(heads)), len(set(others)))


@checked
def rank_aggregate(effects: Sequence[HeadMap]) -> list[Head]:
    """All heads as (layer, head) by their mean rank over tasks, best first; ties in the order of layer and head.

    A rank takes no notice of how large a task's effects are, so no task outweighs the others and metrics may differ;
    heads of equal effect in a task share the mean of their ranks.

    Args:
        effects: effects of the tasks.

    Returns:
        Heads as (layer, head), best first.

    Raises:
        ArgumentError: no effects.
        MismatchError: effects of differently shaped models.

    Example:
        >>> iv.rank_aggregate([effects]) == effects.top(8)
        True
    """
    if not effects:
        raise ArgumentError("effects of at least one task", "none")
    shapes = sorted({tuple(each.aie.shape) for each in effects})
    if len(shapes) > 1:
        raise MismatchError("effects [layer, head] of one shape", f"{shapes}", "compute them on one model")
    for each in effects:
        check_finite(f"effects [layer, head] of {getattr(each, 'task', '') or 'every task'}", each.aie)
    ranks = pd.DataFrame([each.aie.flatten().tolist() for each in effects]).rank(axis=1, ascending=False)
    return heads_by_effect(-torch.tensor(ranks.mean().to_numpy()).reshape(shapes[0]))


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
    order = sums.sort(dim=1, descending=True, stable=True).indices
    return torch.zeros(sums.shape, dtype=torch.bool).scatter_(1, order[:, :k], True)


def _shared(a: Bool[Tensor, "#resample head"], b: Bool[Tensor, "#resample head"]) -> Float[Tensor, " resample"]:
    """Fraction of the heads chosen in ``a`` that are chosen in ``b``, for sets of one size."""
    return (a & b).sum(1).double() / b.sum(1)
