"""Records of steering: cells swept, conditions compared, vectors moved between tasks."""

from dataclasses import dataclass, field

import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import checked
from ..errors import one_of
from .finite import check_finite
from .scores import standard_error, wilson_interval
from .store import Record


@dataclass(frozen=True, eq=False)
class SteeringSweep(Record):
    """How steered prompts are answered, for each layer, scale and number of heads that was tried.

    ``hits`` (greedy answer accepted) and ``probabilities`` (of the whole answer) are [layer, scale, count, prompt];
    ``counts`` are the numbers of heads summed into the vector.
    """

    hits: Bool[Tensor, "layer scale count prompt"]
    probabilities: Float[Tensor, "layer scale count prompt"]
    layers: tuple[int, ...] = field(metadata={"axis": "layer"})
    scales: tuple[float, ...] = field(metadata={"axis": "scale"})
    counts: tuple[int, ...] = field(metadata={"axis": "count"})
    task: str = ""

    def __post_init__(self) -> None:
        check_finite("probabilities [layer, scale, count, prompt]", self.probabilities)

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.hits.shape[-1]

    @property
    def accuracy(self) -> Float[Tensor, "layer scale count"]:
        """Fraction of prompts whose greedy answer is accepted, in each cell."""
        return self.hits.double().mean(-1)

    @property
    def probability(self) -> Float[Tensor, "layer scale count"]:
        """Mean probability of the whole answer, in each cell."""
        return self.probabilities.double().mean(-1)

    def best(self) -> tuple[int, float, int]:
        """The (layer, scale, count) of highest accuracy, ties broken by the mean probability."""
        frame = self.to_frame().sort_values(["accuracy", "probability"], ascending=False, kind="stable")
        layer, scale, count = frame.iloc[0][["layer", "scale", "heads"]]
        return int(layer), float(scale), int(count)

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: layer, scale, heads, accuracy with its 95% interval (low, high), probability, n."""
        rows = []
        for i, layer in enumerate(self.layers):
            for j, scale in enumerate(self.scales):
                for k, count in enumerate(self.counts):
                    cell = {"layer": layer, "scale": scale, "heads": count}
                    rows.append(cell | _measured(self.hits[i, j, k], self.probabilities[i, j, k]))
        return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class Comparison(Record):
    """Conditions compared on the same queries of a task: ``hits`` and ``probabilities`` are [condition, prompt]."""

    hits: Bool[Tensor, "condition prompt"]
    probabilities: Float[Tensor, "condition prompt"]
    conditions: tuple[str, ...] = field(metadata={"axis": "condition"})
    task: str = ""

    def __post_init__(self) -> None:
        check_finite("probabilities [condition, prompt]", self.probabilities)

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.hits.shape[-1]

    @checked
    def accuracy(self, condition: str) -> float:
        """Accuracy under a condition.

        Raises:
            ArgumentError: a condition that was not measured.
        """
        one_of("condition", condition, self.conditions)
        return self.hits[self.conditions.index(condition)].double().mean().item()

    def to_frame(self) -> pd.DataFrame:
        """One row a condition: task, condition, accuracy with its 95% interval (low, high), probability, n."""
        rows = zip(self.conditions, self.hits, self.probabilities, strict=True)
        return pd.DataFrame([
            {"task": self.task, "condition": condition} | _measured(hits, probabilities)
            for condition, hits, probabilities in rows
        ])  # fmt: skip


@dataclass(frozen=True, eq=False)
class TransferMatrix(Record):
    """What tasks share: overlap of their top heads, cosine of their vectors, and one's vector on another's prompts.

    ``overlap`` and ``cosine`` are [task, task]; ``hits`` is [source, target, prompt]: greedy answers to bare prompts of
    the target task with the source task's vector added. ``bare`` is [target, prompt], without a vector.
    """

    overlap: Float[Tensor, "task task"]
    cosine: Float[Tensor, "task task"]
    hits: Bool[Tensor, "source target prompt"]
    bare: Bool[Tensor, "target prompt"]
    tasks: tuple[str, ...] = field(metadata={"axis": "task"})

    @property
    def n(self) -> int:
        """Number of prompts of each target task."""
        return self.hits.shape[-1]

    @property
    def accuracy(self) -> Float[Tensor, "source target"]:
        """Accuracy on the target's bare prompts with the source's vector added."""
        return self.hits.double().mean(-1)

    def to_frame(self) -> pd.DataFrame:
        """One row a pair of tasks: source, target, overlap, cosine, accuracy with its 95% interval, n."""
        rows = []
        for i, source in enumerate(self.tasks):
            for j, target in enumerate(self.tasks):
                successes = int(self.hits[i, j].sum())
                low, high = wilson_interval(successes, self.n)
                rows.append({
                    "source": source, "target": target, "overlap": self.overlap[i, j].item(),
                    "cosine": self.cosine[i, j].item(), "accuracy": successes / self.n, "low": low, "high": high,
                    "n": self.n,
                })  # fmt: skip
        return pd.DataFrame(rows)


def _measured(hits: Bool[Tensor, " prompt"], probabilities: Float[Tensor, " prompt"]) -> dict[str, float]:
    """Accuracy with its 95% interval, mean probability with its standard error, and n."""
    low, high = wilson_interval(int(hits.sum()), len(hits))
    return {
        "accuracy": hits.double().mean().item(), "low": low, "high": high,
        "probability": probabilities.double().mean().item(), "probability_stderr": standard_error(probabilities),
        "n": len(hits),
    }  # fmt: skip
