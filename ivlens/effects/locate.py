"""Mean activations, corrupted prompts and effects of a task in one call."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch

from ..activations import mean_head_activations
from ..checks import Count, Natural, Seed, checked
from ..models import Model, key_of, shared_weights
from ..records import HeadEffects, RacedEffects, Record, load_or_compute
from ..scoring import all_ids
from ..tasks import AnyFormat, Task, check_available, clean_instruction, format_facts, load_task
from ..vectors import InstructionVector, instruction_vector
from ..vocabulary import Corruption, Method, Metric, Split, check_count
from .checks import check_method, check_race, check_stream_dtype
from .indirect import indirect_effects
from .racing import race_heads

R = TypeVar("R", bound=Record)


@overload
def locate_heads(model: Model, task: Task | str, *, race: Literal[False] = False, **options: Any) -> HeadEffects: ...


@overload
def locate_heads(model: Model, task: Task | str, *, race: Literal[True], **options: Any) -> RacedEffects: ...


@checked  # type: ignore[misc]  # the options of both signatures above are those of this one
def locate_heads(
    model: Model,
    task: Task | str,
    *,
    n_clean: Count = 50,
    n_corrupted: Count = 25,
    shots: Natural = 2,
    format: AnyFormat = "labelled",
    instruction: bool | int | str | None = None,
    corruption: Corruption = "no-instruction",
    metric: Metric = "log-probability",
    method: Method = "exact",
    steps: Count = 1,
    stream_dtype: torch.dtype | None = None,
    split: Split = "train",
    seed: Seed = 0,
    race: bool = False,
    k: Count = 20,
    n_jobs: Count | None = 1,
) -> HeadEffects | RacedEffects:
    """Find the heads that carry a task's instruction: mean activations, corrupted prompts and effects in one call.

    Means are taken over clean prompts (instruction, field labels, demonstrations), effects over corrupted ones, both
    from the task's ``split``. The log-probability is the default because on prompts that hide the task the probability
    is close to zero whatever is patched.

    Args:
        model: the model whose heads are patched.
        task: a task, the name of a built-in one, or a task file.
        n_clean: number of clean prompts.
        n_corrupted: number of corrupted prompts.
        shots: demonstrations in a prompt.
        format: how prompts are written: "labelled", "plain", "qa" or "chat", the model's chat template. A ``Chat``
            has its settings; a callable writes prompts in a way of your own (``Task.prompts``).
        instruction: True for the task's first instruction, a number for that paraphrase, a text of your own, False for
            demonstrations alone (2310.15213's setting); None: True where the task has instructions, else False.
        corruption: how prompts hide the task: "no-instruction", "other-instruction" or "shuffled-labels".
        metric: what effects are measured in: "probability", "log-probability" (nats) or "logit-difference".
        method: how effects are computed: "exact", "loop" (a run for each head) or "attribution" (an estimate from
            gradients). See ``indirect_effects``.
        steps: gradients along the path, for the attribution method.
        stream_dtype: a wider dtype for the streams of the exact method, for models in half precision (None: the
            model's own).
        split: examples that prompts are drawn from: "train", "validation", "test" or "all".
        seed: seed of the prompts.
        race: measure heads only as long as they may be among the strongest: with 50 bare prompts on a CPU, some three
            tenths of the sweep's time for nearly always the same heads (``ivlens.effects.racing``, ``figures/racing``);
            not for prompts of several kinds that need different heads.
        k: how many of the strongest heads a race is for. Without a race it does not count.
        n_jobs: workers that share the work. None: what ``joblib.parallel_config`` says.

    Returns:
        Effects, [prompt, layer, head], with the means that heads were patched to; of a race also how many prompts each
        head was measured on.

    Raises:
        ArgumentError: an option outside its values, more prompts than the split has, clean prompts without
            instruction and demonstrations, or a race of estimates, ``method="attribution"``.
        PromptError, UnsupportedError, HookError, WorkerError: see ``indirect_effects``.

    Example:
        >>> effects = iv.locate_heads(model, task, n_clean=4, n_corrupted=4)
        >>> len(effects.top(3))
        3
    """
    task = load_task(task) if isinstance(task, str) else task
    instruction = clean_instruction(task, instruction, shots)
    check_method(method, steps, stream_dtype)
    check_race(race, method)
    check_stream_dtype(model.cfg.dtype, stream_dtype)
    check_available(task, split, {"n_clean": n_clean, "n_corrupted": n_corrupted})
    draw = partial(
        task.prompts, shots=shots, format=format, instruction=instruction, split=split, seed=seed,
        tokenizer=model.tokenizer,
    )  # fmt: skip
    template = {
        "task": task.name,
        **format_facts(format),
        "shots": shots, "instruction": instruction, "split": split, "seed": seed,
    }  # fmt: skip
    if race:
        check_count(k, model.cfg.n_layers * model.cfg.n_heads)
    corrupted = draw(n_corrupted, corruption=corruption)
    all_ids(model, corrupted)  # before the means, to report unusable prompts early
    with shared_weights(model, n_jobs):
        means = _with_settings(mean_head_activations(model, draw(n_clean), n_jobs=n_jobs), **template)
        settings: dict[str, Any] = {"metric": metric, "stream_dtype": stream_dtype, "n_jobs": n_jobs}
        effects: HeadEffects | RacedEffects
        if race and method != "attribution":
            effects = race_heads(model, corrupted, means, k, method=method, **settings)
        else:
            effects = indirect_effects(model, corrupted, means, method=method, steps=steps, **settings)
    return _with_settings(effects, **template, corruption=corruption, n_clean=n_clean)


def load_or_compute_vector(
    model: Model, path: Path, task: Task, k: int, n_clean: int, n_corrupted: int, seed: int = 0,
    format: AnyFormat = "labelled",
) -> InstructionVector:  # fmt: skip
    """The vector at ``path`` if it was computed on this model with these settings; otherwise compute and save it.

    Args:
        model: the model whose heads are located.
        path: where the vector is kept.
        task: the task whose instruction the heads carry.
        k: how many of the strongest heads are summed.
        n_clean: clean prompts for the heads' mean outputs.
        n_corrupted: corrupted prompts for the heads' effects.
        seed: seed of the prompts.
        format: how they are written.
    """

    def compute() -> InstructionVector:
        effects = locate_heads(model, task, n_clean=n_clean, n_corrupted=n_corrupted, seed=seed, format=format)
        return instruction_vector(model, effects, k=k)

    settings = {} if format == "labelled" else format_facts(format)
    settings |= {"k": k, "n_clean": n_clean, "n_corrupted": n_corrupted, "seed": seed}
    key = key_of(model, task=task.name, digest=task.digest, **settings)
    return load_or_compute(path, InstructionVector, key, compute)


def _with_settings(record: R, **settings: Any) -> R:
    """The record with further settings in its provenance."""
    origin = dict(record.provenance)
    return replace(record, provenance=origin | {"settings": {**origin["settings"], **settings}})
