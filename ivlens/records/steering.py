"""Records of steering: sweeps, conditions compared, vectors transferred between tasks."""

from dataclasses import dataclass, field, replace
from typing import Self

import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import check_finite, checked
from ..errors import one_of
from ..stats import standard_error, wilson_interval
from ..vocabulary import StreamSite
from .store import Record, todays_condition


@dataclass(frozen=True, eq=False)
class SteeringSweep(Record):
    """How steered prompts are answered, for each layer, scale and number of heads.

    ``correct`` (whether the answer is an accepted one) and ``probabilities`` (of the whole answer) are [layer, scale,
    k, prompt]; ``ks`` are the numbers of heads summed into the vector. ``site`` is where in the layers it is added:
    "resid_pre", their input, or "resid_post", their output.

    Example:
        >>> layer, scale, k = iv.steering_sweep(model, vector, prompts, layers=[0, 1], scales=[1.0]).best()
        >>> k
        3
    """

    correct: Bool[Tensor, "layer scale k prompt"]
    probabilities: Float[Tensor, "layer scale k prompt"]
    layers: tuple[int, ...] = field(metadata={"axis": "layer"})
    scales: tuple[float, ...] = field(metadata={"axis": "scale"})
    ks: tuple[int, ...] = field(metadata={"axis": "k"})
    task: str = ""
    site: StreamSite = field(default="resid_pre", metadata={"added": True})

    def __post_init__(self) -> None:
        check_finite("probabilities [layer, scale, k, prompt]", self.probabilities)

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.correct.shape[-1]

    @property
    def accuracy(self) -> Float[Tensor, "layer scale k"]:
        """Fraction of prompts that are answered correctly."""
        return self.correct.double().mean(-1)

    @property
    def probability(self) -> Float[Tensor, "layer scale k"]:
        """Mean probability of the whole answer."""
        return self.probabilities.double().mean(-1)

    def best(self) -> tuple[int, float, int]:
        """The (layer, scale, k) of highest accuracy, ties broken by the mean probability; ``steer`` at ``site``."""
        frame = self.to_frame().sort_values(["accuracy", "probability"], ascending=False, kind="stable")
        layer, scale, k = frame.iloc[0][["layer", "scale", "k"]]
        return int(layer), float(scale), int(k)

    def to_frame(self) -> pd.DataFrame:
        """One row per setting: layer, site, scale, k, accuracy with its 95% interval (low, high), probability, n."""
        rows = []
        for i, layer in enumerate(self.layers):
            for j, scale in enumerate(self.scales):
                for n, k in enumerate(self.ks):
                    setting = {"layer": layer, "site": self.site, "scale": scale, "k": k}
                    rows.append(setting | _measured(self.correct[i, j, n], self.probabilities[i, j, n]))
        return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class ConditionComparison(Record):
    """Conditions compared on the same queries of a task: ``correct`` and ``probabilities`` are [condition, prompt].

    Example:
        >>> conditions = {"plain": (prompts, None), "ablated": (prompts, iv.ablate(model, [(0, 1)]))}
        >>> iv.compare_conditions(model, conditions).conditions
        ('plain', 'ablated')
    """

    correct: Bool[Tensor, "condition prompt"]
    probabilities: Float[Tensor, "condition prompt"]
    conditions: tuple[str, ...] = field(metadata={"axis": "condition"})
    task: str = ""

    def __post_init__(self) -> None:
        check_finite("probabilities [condition, prompt]", self.probabilities)

    def _with_todays_names(self) -> Self:
        return replace(self, conditions=tuple(map(todays_condition, self.conditions)))

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.correct.shape[-1]

    @checked
    def accuracy(self, condition: str) -> float:
        """Accuracy under a condition.

        Args:
            condition: one of ``conditions``.

        Returns:
            The fraction of prompts that are answered correctly.

        Raises:
            ArgumentError: a condition that was not measured.

        Example:
            >>> compared = iv.compare_conditions(model, {"plain": (prompts, None)})
            >>> 0 <= compared.accuracy("plain") <= 1
            True
        """
        one_of("condition", condition, self.conditions)
        return self.correct[self.conditions.index(condition)].double().mean().item()

    def to_frame(self) -> pd.DataFrame:
        """One row per condition: task, condition, accuracy with its 95% interval (low, high), probability, n."""
        rows = zip(self.conditions, self.correct, self.probabilities, strict=True)
        return pd.DataFrame([
            {"task": self.task, "condition": condition} | _measured(correct, probabilities)
            for condition, correct, probabilities in rows
        ])  # fmt: skip


@dataclass(frozen=True, eq=False)
class TransferMatrix(Record):
    """What tasks share: overlap of top heads, cosine of vectors, and one task's vector on another task's prompts.

    ``overlap`` and ``cosine`` are [task, task]; ``correct`` is [source, target, prompt]: answers to bare prompts
    of the target task with the source task's vector added. ``bare`` is [target, prompt], without a vector.

    Example:
        >>> lab.transfer.tasks, lab.transfer.cosine.shape
        (('next-word', 'its twin'), torch.Size([2, 2]))
    """

    overlap: Float[Tensor, "task task"]
    cosine: Float[Tensor, "task task"]
    correct: Bool[Tensor, "source target prompt"]
    bare: Bool[Tensor, "target prompt"]
    tasks: tuple[str, ...] = field(metadata={"axis": "task"})

    @property
    def n(self) -> int:
        """Number of prompts of each target task."""
        return self.correct.shape[-1]

    @property
    def accuracy(self) -> Float[Tensor, "source target"]:
        """Accuracy on the target's bare prompts with the source's vector added."""
        return self.correct.double().mean(-1)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of tasks: source, target, overlap, cosine, accuracy with its 95% interval, n."""
        rows = []
        for i, source in enumerate(self.tasks):
            for j, target in enumerate(self.tasks):
                successes = int(self.correct[i, j].sum())
                low, high = wilson_interval(successes, self.n)
                rows.append({
                    "source": source, "target": target, "overlap": self.overlap[i, j].item(),
                    "cosine": self.cosine[i, j].item(), "accuracy": successes / self.n, "low": low, "high": high,
                    "n": self.n,
                })  # fmt: skip
        return pd.DataFrame(rows)


def _measured(correct: Bool[Tensor, " prompt"], probabilities: Float[Tensor, " prompt"]) -> dict[str, float]:
    """Accuracy with its 95% interval, mean probability with its standard error, and n."""
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return {
        "accuracy": correct.double().mean().item(), "low": low, "high": high,
        "probability": probabilities.double().mean().item(), "probability_stderr": standard_error(probabilities),
        "n": len(correct),
    }  # fmt: skip
