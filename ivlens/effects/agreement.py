"""Methods compared with an exact one on the same prompts, to know when the cheap one can be trusted."""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, checked
from ..errors import ArgumentError
from ..models import HookedTransformer, provenance, shared_weights
from ..records import HeadMeans, MethodAgreement, heads_by_effect, spearman
from ..scoring import listed
from ..tasks import Prompt
from ..vocabulary import Method, Metric, check_count
from .indirect import indirect_effects


@checked
def compare_methods(
    model: HookedTransformer,
    prompts: Iterable[Prompt] | Prompt,
    means: HeadMeans,
    *,
    methods: Sequence[Method] = ("exact", "attribution"),
    metric: Metric = "log-probability",
    k: Count = 10,
    steps: Count = 1,
    n_jobs: Count | None = 1,
) -> MethodAgreement:
    """Rank correlation and overlap of the ``k`` strongest heads of each method's effects with those of the first.

    Args:
        model: the model whose heads are patched.
        prompts: corrupted prompts.
        means: mean outputs over clean prompts, [layer, head, d_head].
        methods: methods of ``indirect_effects``, the reference first.
        metric: "probability", "log-probability" or "logit-difference".
        k: number of strongest heads whose overlap is taken.
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
    if len(set(methods)) < len(methods) or len(methods) < 2:
        raise ArgumentError("two different methods or more, the reference first", repr(methods))
    check_count(k, model.cfg.n_layers * model.cfg.n_heads)
    prompts = listed(prompts)
    with shared_weights(model, n_jobs):
        reference, *others = (
            indirect_effects(
                model, prompts, means, method=method, metric=metric, n_jobs=n_jobs,
                steps=steps if method == "attribution" else 1,
            )
            for method in methods
        )  # fmt: skip
    overlap = partial(_overlap, k=k)
    return MethodAgreement(
        torch.tensor(
            [[spearman(*maps) for maps in zip(each.values, reference.values, strict=True)] for each in others]
        ),
        torch.tensor([[overlap(*maps) for maps in zip(each.values, reference.values, strict=True)] for each in others]),
        torch.tensor([spearman(each.aie, reference.aie) for each in others]),
        torch.tensor([overlap(each.aie, reference.aie) for each in others]),
        tuple(each.method for each in others),
        reference.method,
        metric,
        k,
        task=reference.task,
        provenance=provenance(model, methods=list(methods), metric=metric, k=k, steps=steps, prompts=reference.n),
    )


def _overlap(one: Float[Tensor, "layer head"], other: Float[Tensor, "layer head"], k: int) -> float:
    """Fraction of the ``k`` strongest heads that two maps share."""
    first, second = (set(heads_by_effect(each)[:k]) for each in (one, other))
    return len(first & second) / k
