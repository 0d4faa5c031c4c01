"""Sets of heads from effects: pure functions on records."""

from collections.abc import Sequence
from random import Random

import pandas as pd
import torch

from .checks import Count, Seed, checked
from .errors import ArgumentError, MismatchError
from .records import Head, HeadEffects, HeadMap, RacedEffects, UniversalEffects, check_finite, heads_by_effect
from .vocabulary import all_heads, check_count


@checked
def universal_effects(effects: Sequence[HeadEffects]) -> UniversalEffects:
    """Mean over tasks of the tasks' AIEs, for one head set that serves several tasks (2310.15213, section 2.3).

    Its standard error is over the prompts within each task, with the tasks held fixed.

    Args:
        effects: effects of the tasks, in one metric on one model.

    Returns:
        Mean effects, [layer, head], with their standard errors.

    Raises:
        ArgumentError: no effects.
        MismatchError: effects in different metrics, of differently shaped models, or at positions aligned otherwise.

    Example:
        >>> iv.universal_effects([effects, effects]).aie.shape == effects.aie.shape
        True
    """
    if not effects:
        raise ArgumentError("effects of at least one task", "none")
    kinds = {(each.metric, tuple(each.aie.shape), _weights(each)) for each in effects}
    if len(kinds) > 1:
        raise MismatchError("effects in one metric on one model", f"{sorted(kinds)}", "compute them alike")
    _check_aligned_alike(effects)
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


def _check_aligned_alike(effects: Sequence[HeadMap]) -> None:
    """Raise MismatchError for effects at positions of which some have one mean per role, others one per token."""
    aligned = {each.provenance.get("settings", {}).get("by") for each in effects} - {None}
    if len(aligned) > 1:
        raise MismatchError(
            "effects at positions that are aligned in one way", " and ".join(map(repr, sorted(aligned))),
            "compute them with the means of one by=",
        )  # fmt: skip


def _architecture(effects: HeadMap) -> str:
    """The architecture that the effects were measured on, empty where it is not known."""
    return str(effects.provenance.get("model", {}).get("architecture") or "")


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
    """All heads as (layer, head) by mean rank over tasks, best first; ties in order of layer and head.

    Ranks ignore the size of a task's effects, so no task outweighs the others and metrics may differ; heads of equal
    effect share the mean of their ranks.

    Args:
        effects: effects of the tasks.

    Returns:
        Heads as (layer, head), best first.

    Raises:
        ArgumentError: no effects, or those of a race, in which the ranks of most heads are not known.
        MismatchError: effects of models of different shapes or architectures, or at positions aligned otherwise.

    Example:
        >>> iv.rank_aggregate([effects]) == effects.top(8)
        True
    """
    if not effects:
        raise ArgumentError("effects of at least one task", "none")
    if any(isinstance(each, RacedEffects) for each in effects):
        raise ArgumentError("effects of all heads on the same prompts", "those of a race", "locate heads without race")
    shapes = sorted({tuple(each.aie.shape) for each in effects})
    architectures = sorted({_architecture(each) for each in effects} - {""})
    for kinds in (shapes, architectures):
        if len(kinds) > 1:
            expected = "effects [layer, head] of one shape, on one architecture"
            raise MismatchError(expected, f"{kinds}", "compute them on one model")
    _check_aligned_alike(effects)
    for each in effects:
        check_finite(f"effects [layer, head] of {getattr(each, 'task', '') or 'every task'}", each.aie)
    ranks = pd.DataFrame([each.aie.flatten().tolist() for each in effects]).rank(axis=1, ascending=False)
    return heads_by_effect(-torch.tensor(ranks.mean().to_numpy()).reshape(shapes[0]))
