"""Sets of heads from effects: pure functions on records."""

from collections.abc import Sequence
from random import Random

import torch

from .errors import ArgumentError, MismatchError, at_least
from .records import Head, HeadEffects, UniversalEffects


def universal_effects(effects: Sequence[HeadEffects]) -> UniversalEffects:
    """Mean over tasks of the tasks' AIEs, for one head set that serves several tasks (2310.15213, section 2.3).

    Its standard error comes from the prompts within each task, the tasks being held fixed.

    Raises:
        ArgumentError: no effects.
        MismatchError: effects in different metrics or of differently shaped models.
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


def random_heads(shape: tuple[int, int], k: int, *, seed: int, exclude: Sequence[Head] = ()) -> list[Head]:
    """``k`` different heads drawn from a model of ``shape`` (layers, heads) outside ``exclude``: a control.

    Raises:
        ArgumentError: fewer than ``k`` heads are left.
    """
    at_least("k", k, 1)
    left = [(layer, head) for layer in range(shape[0]) for head in range(shape[1]) if (layer, head) not in set(exclude)]
    if k > len(left):
        raise ArgumentError(f"k to be at most {len(left)}, the heads that are left", str(k))
    return Random(seed).sample(left, k)
