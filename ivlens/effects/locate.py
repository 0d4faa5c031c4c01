"""Mean activations, corrupted prompts and effects of a task in one call."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..activations import mean_head_activations
from ..checks import Count, Natural, Seed, checked
from ..models import HookedTransformer, shared_weights
from ..records import HeadEffects, Record
from ..scoring import all_ids
from ..tasks import Task, load_task
from .indirect import indirect_effects

R = TypeVar("R", bound=Record)


@checked
def locate_heads(
    model: HookedTransformer,
    task: Task | str,
    *,
    n_clean: Count = 50,
    n_corrupted: Count = 25,
    shots: Natural = 2,
    format: str | Callable[..., str] = "labelled",
    corruption: str = "no-instruction",
    metric: str = "log-probability",
    method: str = "exact",
    split: str = "train",
    seed: Seed = 0,
    n_jobs: Count | None = 1,
) -> HeadEffects:
    """Find the heads that carry a task's instruction: mean activations, corrupted prompts and effects in one call.

    Means are taken over ``n_clean`` prompts (instruction, field labels and ``shots`` demonstrations), effects over
    ``n_corrupted`` ones, both from the task's ``split``. The log-probability is the default because on bare prompts the
    probability lies at its floor. ``n_jobs`` workers share the work (``indirect_effects``).

    Raises:
        ArgumentError: an option outside its values, or more prompts than the split has.
        PromptError, UnsupportedError, HookError, WorkerError: see ``indirect_effects``.
    """
    task = load_task(task) if isinstance(task, str) else task
    draw = partial(task.prompts, shots=shots, format=format, split=split, seed=seed, tokenizer=model.tokenizer)
    template = {
        "task": task.name,
        "format": format if isinstance(format, str) else getattr(format, "__name__", "own"),
        "shots": shots,
    }
    template |= {"split": split, "seed": seed}
    broken = draw(n_corrupted, corruption=corruption)
    all_ids(model, broken)  # before the means: prompts that cannot be used are named at once
    with shared_weights(model, n_jobs):
        means = _noted(mean_head_activations(model, draw(n_clean), n_jobs=n_jobs), **template)
        effects = indirect_effects(model, broken, means, method=method, metric=metric, n_jobs=n_jobs)
    return _noted(effects, **template, corruption=corruption, n_clean=n_clean)


def _noted(record: R, **settings: Any) -> R:
    """The record with further settings in its provenance."""
    origin = dict(record.provenance)
    return replace(record, provenance=origin | {"settings": {**origin["settings"], **settings}})
