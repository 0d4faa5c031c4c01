"""Records of a repair: the weights of a checkpoint that were put back, and what that returned and cost."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import check_finite
from ..stats import Interval, paired_drop, wilson_interval
from .html import block, frame_table, note
from .store import Record

BASE, TUNED, REPAIRED = "base", "tuned", "repaired"
KEEP, OTHER, LEARNED = "keep", "other", "learned"


@dataclass(frozen=True, eq=False)
class Answers(Record):
    """How one mixture of weights answers prompts: the whole answer's log probability in nats, and correctness."""

    log_probability: Float[Tensor, " prompt"]
    correct: Bool[Tensor, " prompt"]

    def __post_init__(self) -> None:
        check_finite("log probabilities [prompt]", self.log_probability)


@dataclass(frozen=True, eq=False)
class Repair(Record):
    """A checkpoint part of the way back to its base: which part was chosen, and its answers to test prompts.

    Args:
        attention: [layer], the fraction of its change that each layer's attention keeps; 1 is tuned, 0 the base.
        mlp: [layer], that of each layer's MLP.
        rest: that of embeddings, unembedding and norms.
        correct: [model, prompt], whether a test prompt is answered correctly.
        log_probability: [model, prompt], log P(answer) in nats.
        models: "base", "tuned", "repaired", and the controls: "random bands", whole layers' attention and MLPs put back
            at random, and "random change", as far from the tuned weights in a random direction; each with its seed.
        tasks: of each prompt.
        roles: of each prompt's task: "keep" (chosen on), "other" (an ability that nothing was chosen on) or "learned".
        trials: the columns of ``trials_frame``, one mapping per trial on the validation prompts.
        step: the kind of trial that was chosen; "" where none was.
        tolerance: what the learned tasks may lose in accuracy, on the validation prompts.
        undone: the norm of the change that is undone, relative to that of the whole change.

    Example:
        >>> repaired.models[:3]  # of iv.repair(model, tuned, keep=[task], learned=[new_task])
        ('base', 'tuned', 'repaired')
    """

    attention: Float[Tensor, " layer"]
    mlp: Float[Tensor, " layer"]
    rest: float
    correct: Bool[Tensor, "model prompt"]
    log_probability: Float[Tensor, "model prompt"]
    models: tuple[str, ...] = field(metadata={"axis": "model"})
    tasks: tuple[str, ...] = field(metadata={"axis": "prompt"})
    roles: tuple[str, ...] = field(metadata={"axis": "prompt"})
    trials: tuple[dict[str, Any], ...]
    step: str
    tolerance: float
    undone: float

    @property
    def found(self) -> bool:
        """Whether anything met the guard and kept more than the tuned model."""
        return bool(self.step)

    @property
    def outcome(self) -> str:
        """In one sentence, what was chosen or why nothing was."""
        if self.found:
            return f"{self.chosen}: {self.undone:.0%} of the change undone"
        if any(trial["allowed"] for trial in self.trials[1:]):  # the first is the tuned model
            return "nothing that met the guard kept more than the tuned model, which stays as it is"
        return "nothing met the guard: the tuned model stays as it is"

    @property
    def chosen(self) -> str:
        """The step that was chosen and, in words, its mixture of weights."""
        trial = next((trial for trial in self.trials if trial["chosen"]), None)
        return self.step if trial is None else f"{self.step}, {trial['what']}"

    def to_frame(self) -> pd.DataFrame:
        """One row per model and task: model, role, task, accuracy with its 95% interval (low, high), probability, n."""
        rows = []
        for index, model in enumerate(self.models):
            for task, role in dict(zip(self.tasks, self.roles, strict=True)).items():
                chosen = self._prompts(role, task)
                correct = self.correct[index, chosen]
                low, high = wilson_interval(int(correct.sum()), len(correct))
                rows.append({
                    "model": model, "role": role, "task": task, "accuracy": correct.double().mean().item(),
                    "low": low, "high": high,
                    "probability": self.log_probability[index, chosen].double().exp().mean().item(), "n": len(correct),
                })  # fmt: skip
        return pd.DataFrame(rows)

    def gains(self) -> pd.DataFrame:
        """One row per model and role, all of the role's prompts together, paired with the tuned model and the base.

        Returns:
            model, role, accuracy, of_base (accuracy relative to the base's), of_tuned (relative to the tuned model's),
            gain over the tuned model with its 95% interval (gain_low, gain_high), forgetting against the base with its
            interval (forgetting_low, forgetting_high), and n, the number of prompts.

        Example:
            >>> repaired.gains().query("model == 'tuned'")["gain"].tolist()
            [0.0, 0.0]
        """
        every = range(len(self.models))
        rows = [self._gain(index, {"role": role}) for index in every for role in dict.fromkeys(self.roles)]
        return pd.DataFrame(rows)

    def task_gains(self) -> pd.DataFrame:
        """The same for every task: one row per model and task.

        Returns:
            role, task, and the columns of ``gains``.

        Example:
            >>> [*repaired.task_gains()["task"].unique()]
            ['next-word', 'last-word']
        """
        return self._task_gains.copy()

    @cached_property
    def _task_gains(self) -> pd.DataFrame:
        pairs = dict(zip(self.tasks, self.roles, strict=True)).items()
        every = range(len(self.models))
        rows = [self._gain(index, {"role": role, "task": task}) for index in every for task, role in pairs]
        return pd.DataFrame(rows)

    def _gain(self, index: int, of: dict[str, str]) -> dict[str, Any]:
        """A model's accuracy on the prompts ``of`` a role or a task, beside that of the base and of the tuned model."""
        chosen = self._prompts(**of)
        base, tuned, own = (self.correct[each, chosen] for each in (0, 1, index))
        accuracy, of_base, of_tuned = (each.double().mean().item() for each in (own, base, tuned))
        return {
            "model": self.models[index], **of, "accuracy": accuracy,
            "of_base": _ratio(accuracy, of_base), "of_tuned": _ratio(accuracy, of_tuned),
            **_columns("gain", paired_drop(own, tuned)), **_columns("forgetting", paired_drop(base, own)),
            "n": len(own),
        }  # fmt: skip

    def trials_frame(self) -> pd.DataFrame:
        """One row per trial on the validation prompts, in the order of trying.

        Returns:
            step, what, undone (the norm of the change undone, relative to the whole change), learned (accuracy on the
            learned tasks), allowed (whether the guard lets it pass), kept and probability (accuracy and mean P(answer)
            on the tasks to keep) and divergence (KL from the base in nats, on a plain text), which are not a number
            where the guard did not let it pass, and chosen.

        Example:
            >>> repaired.trials_frame()["step"].iloc[0]
            'tuned'
        """
        return pd.DataFrame(list(self.trials))

    def _prompts(self, role: str, task: str | None = None) -> list[int]:
        """The prompts of a role, of all its tasks or one."""
        pairs = enumerate(zip(self.tasks, self.roles, strict=True))
        return [at for at, (own_task, own_role) in pairs if own_role == role and task in (None, own_task)]

    def _repr_html_(self) -> str:
        """What a notebook shows: the outcome, then accuracies by role."""
        return block("Repair", self.outcome, frame_table(self.gains()), note(f"tolerance {self.tolerance}"))


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
