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
from ..tasks import GENERAL, Prompt, Task, list_tasks, load_task
from .config import CheckpointConfig
from .evidence import interval_columns
from .measure import CheckpointMeasurements, kept_measure, log
from .sources import CheckpointUnderTest

GeneralPrompts = dict[str, list[Prompt]]


def general_prompts(config: CheckpointConfig, base: CheckpointUnderTest) -> GeneralPrompts:
    """Test prompts of every general ability, as many as of a task; none where they are not asked for.

    All have an instruction: ``config.instruction`` is said of the tasks that are compared. An ability is left out, with
    a warning, where the base's tokenizer or context does not take its prompts.
    """
    found: GeneralPrompts = {}
    refused: dict[str, PromptError] = {}
    for name in list_tasks(GENERAL) if config.general else []:
        try:
            found[name] = _drawn(load_task(name), config, base.tokenizer(), base.facts.get("n_ctx", math.inf))
        except PromptError as error:
            refused[name] = error
    if refused:
        why = next(iter(refused.values()))
        log.warning("general abilities are left out: %s: %s", ", ".join(refused), why)
    return found


def _drawn(task: Task, config: CheckpointConfig, tokenizer: Any, n_ctx: float) -> list[Prompt]:
    """The prompts of one ability.

    Raises:
        PromptError: the tokenizer, its chat template or the context does not take them.
    """
    prompts = task.prompts(
        min(config.n_test, len(task.split("test"))), split="test", shots=config.shots, seed=config.seed,
        instruction=True, format=config.format, tokenizer=tokenizer,
    )  # fmt: skip
    pairs = [prompt.encode(tokenizer, answer) for prompt in prompts for answer in prompt.options or prompt.answers]
    longest = max(len(prompt_ids) + len(answer_ids) for prompt_ids, answer_ids in pairs)
    if longest > n_ctx:
        raise PromptError(f"prompts within the model's context of {n_ctx} tokens", f"one of {longest}")
    return prompts


def measure_general(folder: Path, checkpoint: CheckpointUnderTest, prompts: GeneralPrompts) -> dict[str, Evaluation]:
    """The checkpoint's answers to prompts of general abilities."""
    return {
        task: kept_measure(folder, "answers", Evaluation, checkpoint, task, partial(evaluate, prompts=asked), asked)
        for task, asked in prompts.items()
    }


def general_rows(measured: Mapping[str, CheckpointMeasurements]) -> tuple[dict[str, Any], ...]:
    """One row per checkpoint and general ability, as ``CheckpointComparison.general_frame`` has them."""
    base = next(iter(measured.values())).general
    return tuple(
        {"checkpoint": name, "task": task, **_columns(answers, base[task])}
        for name, each in measured.items() for task, answers in each.general.items()
    )  # fmt: skip


def _columns(own: Evaluation, base: Evaluation) -> dict[str, Any]:
    low, high = own.accuracy_interval()
    return {
        "n": own.n, "accuracy": own.accuracy, "low": low, "high": high, "chance": own.mean_chance,
        **interval_columns("forgetting", paired_drop(base.correct, own.correct)),
    }  # fmt: skip
