"""The record of a relearning probe: how fast a lost ability comes back, beside a task learned anew."""

from dataclasses import dataclass, field

import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from ..stats import Interval, paired_drop
from .store import Record


@dataclass(frozen=True, eq=False)
class Relearning(Record):
    """Whether test prompts are answered correctly before and after a few steps on a few examples (arXiv 2501.13453).

    Args:
        before: [prompt], on the checkpoint as it is.
        after: [prompt], after the steps on examples of the task.
        anew_before: [control prompt], of a task that the base never had, on the checkpoint as it is.
        anew_after: [control prompt], after as many steps on as many examples of that task.
        task: the lost ability.
        control: the task that the base never had.

    Example:
        >>> import torch
        >>> yes, no = torch.tensor([True, True]), torch.tensor([False, False])
        >>> iv.Relearning(no, yes, no, no, "antonym", "another").gain.value
        1.0
    """

    before: Bool[Tensor, " prompt"]
    after: Bool[Tensor, " prompt"]
    anew_before: Bool[Tensor, " control"]
    anew_after: Bool[Tensor, " control"]
    task: str = field(default="")
    control: str = field(default="")

    @property
    def gain(self) -> Interval:
        """What the steps add to the accuracy on the lost ability, with its 95% interval over the same prompts."""
        return paired_drop(self.after, self.before)

    @property
    def anew_gain(self) -> Interval:
        """What they add on the task that is learned anew."""
        return paired_drop(self.anew_after, self.anew_before)

    def to_frame(self) -> pd.DataFrame:
        """One row per task: task, role ("lost" or "control"), before and after (accuracies), gain (low, high), n."""
        tasks = [
            (self.task, "lost", self.before, self.after, self.gain),
            (self.control, "control", self.anew_before, self.anew_after, self.anew_gain),
        ]
        return pd.DataFrame([
            {"task": task, "role": role, "before": before.double().mean().item(), "after": after.double().mean().item(),
             "gain": gain.value, "low": gain.low, "high": gain.high, "n": len(before)}
            for task, role, before, after, gain in tasks
        ])  # fmt: skip
