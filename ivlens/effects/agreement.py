"""Methods compared with an exact one on the same prompts, to know when the cheap one can be trusted."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, checked
from ..errors import ArgumentError
from ..models import Model, provenance, shared_weights
from ..records import HeadMeans, MethodAgreement, OfParts, PartMeans, PositionMeans, PositionPartMeans, spearman
from ..scoring import listed
from ..tasks import Prompt
from ..vocabulary import EffectPart, Method, Metric, check_count
from .indirect import indirect_effects
from .positions import position_effects

Means = HeadMeans | PartMeans | PositionMeans | PositionPartMeans


@checked
def compare_methods(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    means: Means,
    *,
    parts: Sequence[EffectPart] | None = None,
    methods: Sequence[Method] | None = None,
    metric: Metric = "log-probability",
    k: Count = 10,
    steps: Count = 1,
    n_jobs: Count | None = 1,
) -> MethodAgreement:
    """Rank correlation and overlap of the ``k`` strongest heads of each method's effects with those of the first.

    With means of parts, or at positions, over all of these parts at all of these positions together.

    Args:
        model: the model whose heads are patched.
        prompts: corrupted prompts.
        means: mean outputs over clean prompts, as ``indirect_effects`` or ``position_effects`` takes them.
        parts: with means of parts, which of them are patched (None: all that there are means of).
        methods: methods of that function, the reference first (None: "exact" and "attribution").
        metric: "probability", "log-probability" or "logit-difference".
        k: number of strongest heads, or parts and positions, whose overlap is taken.
        steps: gradients along the path, with attribution.
        n_jobs: workers that share the work (``indirect_effects``).

    Returns:
        Agreement per prompt and of the means; ``.reference`` names the first method as it was run ("loop" where the
        exact sweep does not represent the model).

    Raises:
        ArgumentError: fewer than two methods, ``k`` beyond the number of heads, or see ``indirect_effects``.
        PromptError, MismatchError, HookError, WorkerError, UnsupportedError: see ``indirect_effects``.

    Example:
        >>> iv.compare_methods(model, prompts, means, k=2).reference
        'exact'
    """
    compared: Sequence[Method] = ("exact", "attribution") if methods is None else methods
    if len(set(compared)) < len(compared) or len(compared) < 2:
        raise ArgumentError("two different methods or more, the reference first", repr(compared))
    aligned = {"by": means.by} if isinstance(means, PositionMeans | PositionPartMeans) else {}
    measure: Any = position_effects if aligned else indirect_effects
    if parts is None:
        parts = means.parts if isinstance(means, OfParts) else ("head",)
    if isinstance(means, HeadMeans):
        check_count(k, model.cfg.n_layers * model.cfg.n_heads)
    prompts = listed(prompts)
    with shared_weights(model, n_jobs):
        reference, *others = (
            measure(
                model, prompts, means, parts=parts, method=method, metric=metric, n_jobs=n_jobs,
                steps=steps if method == "attribution" else 1,
            )
            for method in compared
        )  # fmt: skip
    expected, *found = (_flat(each) for each in (reference, *others))
    check_count(k, expected.shape[1], "parts and positions")
    overlap = partial(_overlap, k=k)
    return MethodAgreement(
        torch.tensor([[spearman(*maps) for maps in zip(each, expected, strict=True)] for each in found]),
        torch.tensor([[overlap(*maps) for maps in zip(each, expected, strict=True)] for each in found]),
        torch.tensor([spearman(each.mean(0), expected.mean(0)) for each in found]),
        torch.tensor([overlap(each.mean(0), expected.mean(0)) for each in found]),
        tuple(each.method for each in others),
        reference.method,
        metric,
        k,
        task=reference.task,
        provenance=provenance(
            model, methods=list(compared), metric=metric, k=k, steps=steps, prompts=reference.n, **aligned
        ),
    )


def _flat(effects: Any) -> Float[Tensor, "prompt part"]:
    """Effects of all heads, or parts, at all positions, side by side."""
    each = [effects.of(part) for part in effects.parts] if isinstance(effects, OfParts) else [effects.values]
    return torch.cat([of_part.flatten(1) for of_part in each], 1)


def _overlap(one: Float[Tensor, " part"], other: Float[Tensor, " part"], k: int) -> float:
    """Fraction of the ``k`` strongest that two lists of effects share; ties are in their order."""
    first, second = (set(each.argsort(descending=True, stable=True)[:k].tolist()) for each in (one, other))
    return len(first & second) / k
