"""General abilities beside the tasks of a comparison: how checkpoints answer the built-in questions on them."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import PromptError
from ..records import Evaluation
from ..scoring import evaluate
from ..stats import paired_drop
from ..tasks import GENERAL, Prompt, list_tasks, load_task
from .config import CheckpointConfig
from .evidence import interval_columns
from .measure import CheckpointMeasurements, kept_measure, log
from .sources import CheckpointUnderTest

GeneralPrompts = dict[str, list[Prompt]]


def general_prompts(config: CheckpointConfig, tokenizer: Any) -> GeneralPrompts:
    """Test prompts of every general ability, as many as of a task; none where they are not asked for.

    All have an instruction: ``config.instruction`` is said of the tasks that are compared.
    """
    if not config.general:
        return {}
    tasks = [load_task(name) for name in list_tasks(GENERAL)]
    return {
        task.name: task.prompts(
            min(config.n_test, len(task.split("test"))), split="test", shots=config.shots, seed=config.seed,
            instruction=True, format=config.format, tokenizer=tokenizer,
        )
        for task in tasks
    }  # fmt: skip


def that_fit(prompts: GeneralPrompts, base: CheckpointUnderTest) -> GeneralPrompts:
    """The abilities whose prompts the base's tokenizer and context take; a warning names the others."""
    tokenizer, n_ctx = base.tokenizer(), base.facts.get("n_ctx", math.inf)
    refused: dict[str, str] = {}
    for task, asked in prompts.items():
        try:
            longest = max(_length(prompt, answer, tokenizer) for prompt in asked for answer in _answers(prompt))
        except PromptError as error:
            refused[task] = str(error)
        else:
            if longest > n_ctx:
                refused[task] = f"a prompt of {longest} tokens is longer than the context of {n_ctx}"
    if refused:
        why = next(iter(refused.values()))
        log.warning("general abilities are left out: %s (%s)", ", ".join(refused), why)
    return {task: asked for task, asked in prompts.items() if task not in refused}


def _answers(prompt: Prompt) -> tuple[str, ...]:
    return prompt.options or prompt.answers


def _length(prompt: Prompt, answer: str, tokenizer: Any) -> int:
    encoded = prompt.encode(tokenizer, answer)
    return len(encoded.prompt_ids) + len(encoded.answer_ids)


def measure_general(folder: Path, checkpoint: CheckpointUnderTest, prompts: GeneralPrompts) -> dict[str, Evaluation]:
    """The checkpoint's answers to prompts of general abilities."""
    return {
        task: kept_measure(folder, "answers", Evaluation, checkpoint, task, partial(evaluate, prompts=asked), asked)
        for task, asked in prompts.items()
    }


def general_rows(
    measured: Mapping[str, CheckpointMeasurements], prompts: Mapping[str, list[Prompt]]
) -> tuple[dict[str, Any], ...]:
    """One row per checkpoint and general ability, as ``CheckpointComparison.general_frame`` has them."""
    base = next(iter(measured.values())).general
    return tuple(
        {"checkpoint": name, "task": task, **_columns(answers, base[task], prompts[task])}
        for name, each in measured.items() for task, answers in each.general.items()
    )  # fmt: skip


def _columns(own: Evaluation, base: Evaluation, prompts: list[Prompt]) -> dict[str, Any]:
    low, high = own.accuracy_interval()
    guessed = [1 / len(prompt.options) if prompt.options else 0.0 for prompt in prompts]
    return {
        "n": own.n, "accuracy": own.accuracy, "low": low, "high": high, "chance": sum(guessed) / len(guessed),
        **interval_columns("forgetting", paired_drop(base.correct, own.correct)),
    }  # fmt: skip
