"""The test prompts of a comparison and how each checkpoint answered them, as rows to read."""

from collections.abc import Mapping
from typing import Any

from ..vocabulary import Condition
from .measure import Measurement
from .prompts import TaskPrompts
from .replies import texts_to_show


def prompt_rows(prompts: TaskPrompts) -> list[dict[str, Any]]:
    """One row per clean test prompt of a task, as ``CheckpointComparison.prompts`` has them."""
    return [
        {
            "task": prompts.task, "prompt": number, "text": clean.text, "bare": bare.text,
            "instruction": "".join(text for role, text in clean.parts if role == "instruction").strip(),
            "answer": clean.answers[0].strip(),
        }
        for number, (clean, bare) in enumerate(zip(prompts.test, prompts.bare_test, strict=True))
    ]  # fmt: skip


def reply_rows(labels: Mapping[str, Any], own: Measurement) -> list[dict[str, Any]]:
    """One row per test prompt of a task on a checkpoint, as ``CheckpointComparison.replies_frame`` has them."""
    texts = texts_to_show(own.answers.texts, own.replies.texts)
    steered = own.recovery.correct[own.recovery.conditions.index(Condition.BASE_VECTOR)]
    columns = (texts, own.answers.correct.tolist(), own.steered_replies.texts, steered.tolist())
    return [
        {
            **labels, "prompt": number, "reply": reply.strip(), "correct": correct, "steered": with_vector.strip(),
            "steered_correct": steered_correct,
        }
        for number, (reply, correct, with_vector, steered_correct) in enumerate(zip(*columns, strict=True))
    ]  # fmt: skip
