"""Conditions compared on the same queries: what a vector does beside its controls, and what needs its heads."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..checks import checked
from ..errors import ArgumentError
from ..models import HookedTransformer, provenance
from ..records import ConditionComparison
from ..scoring import evaluate, listed
from ..tasks import Prompt

Condition = tuple[Iterable[Prompt] | Prompt, AbstractContextManager[Any] | None]


@checked
def compare_conditions(
    model: HookedTransformer, conditions: Mapping[str, Condition], *, task: str = "", **settings: Any
) -> ConditionComparison:
    """Evaluate prompts under each condition: prompts, and a context such as ``steer`` or ``ablate``, or None.

    All conditions ask the same queries, so that they compare prompt by prompt; ``settings`` go into the provenance.

    Raises:
        ArgumentError: no conditions, or ones on different queries.
        PromptError: see ``evaluate``.
    """
    given = [(listed(prompts), context) for prompts, context in conditions.values()]
    asked = {tuple(prompt.input for prompt in prompts) for prompts, _ in given}
    if len(asked) != 1:
        raise ArgumentError("conditions, one or more, on the same queries", f"{len(asked)} different sets of queries")
    results = []
    for prompts, context in given:
        with context or nullcontext():
            results.append(evaluate(model, prompts))
    correct = torch.stack([result.correct for result in results])
    probabilities = torch.stack([result.probabilities for result in results])
    return ConditionComparison(
        correct, probabilities, tuple(conditions), task, provenance=provenance(model, **settings)
    )
