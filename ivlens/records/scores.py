"""Records of answers: how prompts are answered, and how that changes under steering."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .store import Record


@dataclass(frozen=True, eq=False)
class Evaluation(Record):
    """How a model answers prompts: per prompt, with means and standard errors over prompts.

    ``probabilities``: P(answer | prompt), the product over the answer's tokens, teacher forced;
    ``token_probabilities``: its geometric mean a token; ``first_token_probabilities``: the first token's;
    ``hits``: whether greedy decoding gives any accepted answer. Probabilities are those of the first accepted answer.
    """

    probabilities: Float[Tensor, " prompt"]
    token_probabilities: Float[Tensor, " prompt"]
    first_token_probabilities: Float[Tensor, " prompt"]
    hits: Bool[Tensor, " prompt"]
    prompts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.hits)

    @property
    def accuracy(self) -> float:
        """Fraction of prompts whose greedy answer is an accepted one."""
        return self.hits.double().mean().item()

    @property
    def probability(self) -> float:
        """Mean probability of the whole answer."""
        return self.probabilities.double().mean().item()

    @property
    def token_probability(self) -> float:
        """Mean over prompts of the per-token geometric mean."""
        return self.token_probabilities.double().mean().item()

    @property
    def first_token_probability(self) -> float:
        """Mean probability of the answer's first token."""
        return self.first_token_probabilities.double().mean().item()

    @property
    def accuracy_stderr(self) -> float:
        """Standard error of the accuracy, prompts being the unit."""
        return standard_error(self.hits)

    @property
    def probability_stderr(self) -> float:
        """Standard error of the mean probability, prompts being the unit."""
        return standard_error(self.probabilities)

    def to_frame(self) -> pd.DataFrame:
        """One row a prompt: prompt, answer, probability, token_probability, first_token_probability, correct."""
        return pd.DataFrame({
            "prompt": self.prompts, "answer": self.answers, "probability": self.probabilities.numpy(),
            "token_probability": self.token_probabilities.numpy(),
            "first_token_probability": self.first_token_probabilities.numpy(), "correct": self.hits.numpy(),
        })  # fmt: skip

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.2f} ± {self.accuracy_stderr:.2f}, "
            f"P(answer) {self.probability:.3f} ± {self.probability_stderr:.3f}, n = {self.n}"
        )


@dataclass(frozen=True, eq=False)
class SteeringSweep(Record):
    """Accuracy and mean P(answer) of steered prompts, both [layer, scale], with the ``layers`` and ``scales`` tried."""

    accuracy: Float[Tensor, "layer scale"]
    probability: Float[Tensor, "layer scale"]
    layers: tuple[int, ...]
    scales: tuple[float, ...]
    n: int
    task: str = ""

    def best(self) -> tuple[int, float]:
        """The (layer, scale) of highest accuracy, ties broken by the mean probability."""
        ranked = [
            (self.accuracy[i, j].item(), self.probability[i, j].item(), layer, scale)
            for i, layer in enumerate(self.layers)
            for j, scale in enumerate(self.scales)
        ]
        return max(ranked, key=lambda cell: cell[:2])[2:]

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: layer, scale, accuracy, probability, n."""
        cells = [(layer, scale) for layer in self.layers for scale in self.scales]
        frame = pd.DataFrame(cells, columns=["layer", "scale"])
        return frame.assign(
            accuracy=self.accuracy.flatten().numpy(), probability=self.probability.flatten().numpy(), n=self.n
        )


def standard_error(values: Tensor | Sequence[float]) -> float:
    """Standard error of the mean of independent values (not a number for fewer than two)."""
    numbers = torch.as_tensor(values).double()
    return (numbers.std(correction=1) / len(numbers) ** 0.5).item() if len(numbers) > 1 else float("nan")
