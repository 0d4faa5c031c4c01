"""``compare_conditions``: the same queries under several conditions, in as few passes as give the same numbers."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import checked
from ..errors import ArgumentError, refuse_odd
from ..models import Model, provenance, runs_once
from ..records import ConditionComparison
from ..scoring import candidates_of, evaluate, is_generated, judge, listed
from ..tasks import Prompt, warn_of_missing_spaces
from ._steer import Steering
from ._sweep import odd_ones, steered_likelihoods

Context = AbstractContextManager[Any] | None
Setting = tuple[Iterable[Prompt] | Prompt, Context]
Answered = tuple[Bool[Tensor, " prompt"], Float[Tensor, " prompt"]]  # correct, and the probability


@checked
@torch.no_grad()
def compare_conditions(
    model: Model, conditions: Mapping[str, Setting], *, task: str = "", **settings: Any
) -> ConditionComparison:
    """Evaluate prompts under each condition: prompts, and a context such as ``steer`` or ``ablate``, or None.

    All conditions have the same queries, so they compare prompt by prompt.

    Args:
        model: the model to evaluate.
        conditions: by name, prompts and a context such as ``steer`` or ``ablate``, or None.
        task: name of the task, for tables.
        settings: further facts for the provenance.

    Returns:
        Answers under each condition.

    Raises:
        ArgumentError: no conditions, or ones on different queries.
        PromptError: see ``evaluate``.

    Example:
        >>> iv.compare_conditions(model, {"plain": (prompts, None), "steered": (prompts, iv.steer(model, vector, 1))}).n
        4
    """
    evaluated = [(listed(prompts), context) for prompts, context in conditions.values()]
    queries = {tuple(prompt.input for prompt in prompts) for prompts, _ in evaluated}
    if len(queries) != 1:
        raise ArgumentError("conditions, one or more, on the same queries", f"{len(queries)} different sets of queries")
    answers = _answers(model, evaluated)
    correct, probabilities = (torch.stack(each) for each in zip(*answers, strict=True))
    return ConditionComparison(
        correct, probabilities, tuple(map(str, conditions)), task, provenance=provenance(model, **settings)
    )


def _answers(model: Model, evaluated: Sequence[tuple[list[Prompt], Context]]) -> list[Answered]:
    """Whether each answer is correct, and its probability, under each condition."""
    found: dict[int, Answered] = {}
    forks = _forks(model, evaluated)
    while forks:
        prompts = evaluated[next(iter(forks))][0]
        together = [number for number in forks if evaluated[number][0] == prompts]
        contexts = [forks.pop(number) for number in together]
        if len(together) > 1:
            found |= zip(together, _in_streams(model, prompts, contexts), strict=True)
    for number, (prompts, context) in enumerate(evaluated):
        if number not in found:
            with context or nullcontext():
                answers = evaluate(model, prompts)
            found[number] = answers.correct, answers.probabilities
    return [found[number] for number in range(len(evaluated))]


def _forks(model: Model, evaluated: Sequence[tuple[list[Prompt], Context]]) -> dict[int, Steering | None]:
    """By their numbers, the conditions that are streams which fork off the plain prompts, or these themselves."""
    forks: dict[int, Steering | None] = {}
    for number, (prompts, context) in enumerate(evaluated if runs_once(model) else ()):
        steers = isinstance(context, Steering) and context.model is model and context.forks_at is not None
        if (context is None or steers) and not any(map(is_generated, prompts)):
            forks[number] = context if isinstance(context, Steering) else None
    return forks


def _in_streams(model: Model, prompts: list[Prompt], contexts: Sequence[Steering | None]) -> list[Answered]:
    """Answers under several conditions of the same prompts, which run once."""
    warn_of_missing_spaces(model.tokenizer, prompts)
    asked = candidates_of(model, prompts)
    steerings = sorted((each for each in contexts if each is not None), key=attrgetter("forks_at"))
    added = {
        layer: torch.stack([each.added for each in of_layer])
        for layer, of_layer in groupby(steerings, key=attrgetter("forks_at"))
    }
    found = steered_likelihoods(model, asked, added, doing="evaluating")
    refuse_odd("logits", [prompt.text for prompt in prompts], odd_ones(found))
    correct = torch.stack([judge(*each).correct for each in zip(asked, found, strict=True)], 1)
    logs = torch.stack([of.log_likelihoods[:, each.first] for each, of in zip(asked, found, strict=True)], 1)
    rows = {None: 0} | {each: row for row, each in enumerate(steerings, 1)}
    return [(correct[rows[each]], logs[rows[each]].exp()) for each in contexts]
