"""What effects are measured in: the scores of an answer's tokens as one number per prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models import answer_scores, strongest_wrong
from ..vocabulary import Ids, Metric

Scores = Float[Tensor, "stream answer"]
Foils = tuple[Int[Tensor, " answer"] | None, ...]


def in_metric(scores: Scores, metric: Metric) -> Float[Tensor, " stream"]:
    """The metric of the whole answer: its tokens' log probabilities, or logit differences, add up."""
    total = scores.sum(-1)
    return total.exp() if metric == "probability" else total


def effects_in(
    scores: Sequence[Float[Tensor, "stream _"]], metric: Metric
) -> tuple[Float[Tensor, "prompt part"], Float[Tensor, " prompt"]]:
    """Effects and each prompt's own metric, from each prompt's scores: of the clean stream, then of each part's."""
    streams = torch.stack([in_metric(of_prompt, metric) for of_prompt in scores])
    return streams[:, 1:] - streams[:, :1], streams[:, 0]


@dataclass
class Measure:
    """The metric of rows with these answers from their logits; foils are fixed at the first call."""

    metric: Metric
    answers: tuple[Ids, ...]
    foils: Foils | None = None

    def __call__(self, logits: Sequence[Float[Tensor, "_ vocab"]]) -> Float[Tensor, " row"]:
        if self.foils is None:
            against = self.metric == "logit-difference"
            rows = zip(logits, self.answers, strict=True)
            self.foils = tuple(strongest_wrong(each, answer) if against else None for each, answer in rows)
        read = zip(logits, self.answers, self.foils, strict=True)
        return torch.cat(
            [in_metric(answer_scores(each[None], answer, foils), self.metric) for each, answer, foils in read]
        )

    def copies(self, row: int, count: int) -> "Measure":
        """The measure of ``count`` copies of a row that was measured before."""
        assert self.foils is not None
        return Measure(self.metric, self.answers[row : row + 1] * count, self.foils[row : row + 1] * count)
