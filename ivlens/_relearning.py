"""``relearning_probe``: how far a few examples bring a lost ability back.

An ability that is hidden comes back in fewer steps than one that was never there is learned (arXiv 2501.13453). So the
probe is run twice, on copies of the checkpoint: with examples of the lost task, and with as many of a control, a task
that the base could not do.
"""

from copy import deepcopy

from jaxtyping import Bool
from torch import Tensor

from .checks import Count, Natural, NotNegative, Seed, checked
from .errors import ArgumentError, DivergedError
from .models import Model, only_hooked, provenance
from .records import Relearning
from .scoring import evaluate
from .tasks import Prompt, Task, as_tasks, check_available
from .training import Guidance, TrainingConfig, fine_tune


@checked
def relearning_probe(
    model: Model,
    task: Task | str,
    control: Task | str,
    *,
    n_examples: Count = 10,
    steps: Count = 5,
    learning_rate: NotNegative = 1e-4,
    n_test: Count = 30,
    shots: Natural = 2,
    seed: Seed = 0,
) -> Relearning:
    """Train copies of a checkpoint on a few examples of a lost task and of a control, and measure what they gain.

    Examples are from the train split, measured prompts from the test split. Each step is on all of the examples, by
    plain fine-tuning. The checkpoint itself stays as it is; a copy of it is in memory beside it.

    Args:
        model: the checkpoint, in float32 or float64.
        task: the lost ability, or the name of a built-in task or file.
        control: a task that the base could not do.
        n_examples: examples to train on.
        steps: optimiser steps.
        learning_rate: of all steps.
        n_test: test prompts, at most, before and after.
        shots: demonstrations in all prompts.
        seed: seed of the prompts.

    Returns:
        Which prompts are answered correctly before and after, of both tasks.

    Raises:
        ArgumentError: two tasks of one name, or fewer examples than asked for.
        UnsupportedError: the model cannot be trained.
        DivergedError: a loss was not finite.

    Example:
        >>> from dataclasses import replace
        >>> probe = iv.relearning_probe(model, task, replace(task, name="its twin"), n_examples=2, steps=1, n_test=2)
        >>> probe.to_frame()["role"].tolist()
        ['lost', 'control']
    """
    model = only_hooked(model, "training")
    lost, never = as_tasks([task, control])
    if lost.name == never.name:
        raise ArgumentError("a control that is another task", repr(never.name))
    for each in (lost, never):
        check_available(each, "train", {"n_examples": n_examples})
    config = TrainingConfig(
        Guidance(), steps=steps, batch_size=n_examples, learning_rate=learning_rate, warmup=0, decay="none", seed=seed
    )
    found: list[Bool[Tensor, " prompt"]] = []
    for each in (lost, never):
        examples = each.prompts(n_examples, shots=shots, split="train", seed=seed)
        asked = each.prompts(min(n_test, len(each.split("test"))), shots=shots, split="test", seed=seed)
        found += [evaluate(model, asked).correct, _trained(model, examples, asked, config)]
    before, after, anew_before, anew_after = found
    settings = {"n_examples": n_examples, "steps": steps, "learning_rate": learning_rate, "shots": shots, "seed": seed}
    origin = provenance(model, **settings)
    return Relearning(before, after, anew_before, anew_after, lost.name, never.name, provenance=origin)


def _trained(
    model: Model, examples: list[Prompt], asked: list[Prompt], config: TrainingConfig
) -> Bool[Tensor, " prompt"]:
    """Which prompts a copy of the model answers correctly after training on the examples."""
    copied = deepcopy(model)
    run = fine_tune(copied, examples, config)
    if run.stopped:
        raise DivergedError("a finite loss on the examples", run.stopped, "lower learning_rate")
    return evaluate(copied, asked).correct
