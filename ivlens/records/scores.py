"""Records of answers: how a model answers prompts."""

from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import check_finite, checked
from ..errors import ArgumentError
from ..stats import check_level, mean_over_tasks, standard_error, wilson_interval
from ..text import plus_minus
from .html import block, frame_table
from .store import Record

HIGHEST = 0.99  # level of an interval that the draws of ``interval_over_tasks`` have


@dataclass(frozen=True, eq=False)
class Evaluation(Record):
    """How a model answers prompts: per prompt, with means and standard errors over prompts.

    ``probabilities``: P(answer | prompt), the product over the answer's tokens, teacher forced;
    ``token_probabilities``: its geometric mean per token; ``first_token_probabilities``: that of its first token (with
    any blank tokens before it). Probabilities are those of the first accepted answer. ``correct``: whether the answer
    that the prompt's scoring takes is an accepted one: the option of highest log-likelihood, the generated text, or
    what greedy decoding gives. ``scores``: the metric of that, from 0 to 1 (None: ``correct``). ``texts``: that answer,
    "" where it is not known. ``chance``: how often a guess among the options is right, 0 where there is no choice
    (None: everywhere). ``options``: each prompt's options, () where it has none, and ``option_log_likelihoods``, those
    of the whole options in nats.

    Example:
        >>> 0 <= iv.evaluate(model, prompts).accuracy <= 1
        True
    """

    probabilities: Float[Tensor, " prompt"]
    token_probabilities: Float[Tensor, " prompt"]
    first_token_probabilities: Float[Tensor, " prompt"]
    correct: Bool[Tensor, " prompt"]
    prompts: tuple[str, ...] = field(default=(), metadata={"axis": "prompt"})
    answers: tuple[str, ...] = field(default=(), metadata={"axis": "prompt"})
    scores: Float[Tensor, " prompt"] | None = field(default=None, metadata={"added": True})
    texts: tuple[str, ...] = field(default=(), metadata={"axis": "prompt", "added": True})
    chance: Float[Tensor, " prompt"] | None = field(default=None, metadata={"added": True})
    options: tuple[tuple[str, ...], ...] = field(default=(), metadata={"axis": "prompt", "added": True})
    option_log_likelihoods: tuple[tuple[float, ...], ...] = field(
        default=(), metadata={"axis": "prompt", "added": True}
    )

    def __post_init__(self) -> None:
        if self.scores is None:
            object.__setattr__(self, "scores", self.correct.double())
        if self.chance is None:
            object.__setattr__(self, "chance", torch.zeros(len(self.correct), dtype=torch.float64))
        for name in ("probabilities", "token_probabilities", "first_token_probabilities"):
            check_finite(f"{name} [prompt]", getattr(self, name))

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Fraction of prompts that are answered correctly."""
        return self.correct.double().mean().item()

    @property
    def prompt_scores(self) -> Float[Tensor, " prompt"]:
        """The score of each prompt, from 0 to 1: F1 or Rouge-L where it asks for it, else 1 where it is correct."""
        return _known(self.scores).double()

    @property
    def score(self) -> float:
        """Mean of the prompts' scores."""
        return self.prompt_scores.mean().item()

    @property
    def adjusted_accuracy(self) -> float:
        """Accuracy above chance, (accuracy - chance) / (1 - chance): 0 for guesses among the options, 1 at best."""
        return self._above_chance(self.accuracy)

    @property
    def mean_chance(self) -> float:
        """Accuracy of guesses among the options; 0 where no prompt has a choice."""
        return _known(self.chance).double().mean().item()

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

    @checked
    def accuracy_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson score interval of the accuracy, with prompts as the unit (``ivlens.stats.wilson_interval``).

        Args:
            level: the interval's level, between 0 and 1.

        Returns:
            Lower and upper end, from 0 to 1.

        Raises:
            ArgumentError: a level outside (0, 1).

        Example:
            >>> low, high = iv.evaluate(model, prompts).accuracy_interval()
            >>> 0 <= low <= high <= 1
            True
        """
        return wilson_interval(int(self.correct.sum()), self.n, level)

    @checked
    def adjusted_accuracy_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the accuracy above chance: the ends of the accuracy's, adjusted like it.

        Args:
            level: the interval's level, between 0 and 1.

        Returns:
            Lower and upper end, at most 1; below 0 is below chance.

        Raises:
            ArgumentError: a level outside (0, 1).

        Example:
            >>> answers = iv.evaluate(model, iv.Prompt("the quick", " fox", options=(" dog", " fox")))
            >>> low, high = answers.adjusted_accuracy_interval()
            >>> low <= answers.adjusted_accuracy <= high
            True
        """
        low, high = self.accuracy_interval(level)
        return self._above_chance(low), self._above_chance(high)

    def _above_chance(self, accuracy: float) -> float:
        return (accuracy - self.mean_chance) / (1 - self.mean_chance)

    @checked
    def score_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the mean score over prompts: Wilson's where all are 0 or 1, else ``stats.interval_over_tasks``.

        Args:
            level: the interval's level, between 0 and 1.

        Returns:
            Lower and upper end, from 0 to 1; not a number for fewer than five graded scores.

        Raises:
            ArgumentError: a level outside (0, 1), or of graded scores above 0.99, where draws have no such quantiles.

        Example:
            >>> low, high = iv.evaluate(model, prompts).score_interval()
            >>> 0 <= low <= high <= 1
            True
        """
        check_level(level)
        scores = _known(self.scores)
        if level > HIGHEST and not ((scores == 0) | (scores == 1)).all():
            raise ArgumentError(f"level up to {HIGHEST} of graded scores", f"{level}", "or look at accuracy_interval")
        return mean_over_tasks([scores], level)[1:]

    @property
    def accuracy_stderr(self) -> float:
        """Standard error of the accuracy, with prompts as the unit."""
        return standard_error(self.correct)

    @property
    def probability_stderr(self) -> float:
        """Standard error of the mean probability, with prompts as the unit."""
        return standard_error(self.probabilities)

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt: prompt, answer, its probabilities, correct, score, text, chance."""
        return pd.DataFrame({
            "prompt": self.prompts, "answer": self.answers, "probability": self.probabilities.numpy(),
            "token_probability": self.token_probabilities.numpy(),
            "first_token_probability": self.first_token_probabilities.numpy(), "correct": self.correct.numpy(),
            "score": _known(self.scores).numpy(), "text": self.texts or [""] * self.n,
            "chance": _known(self.chance).numpy(),
        })  # fmt: skip

    def _repr_html_(self) -> str:
        """What a notebook shows: the means, then one row per prompt where the prompts are known."""
        return block("Evaluation", f"{self}", frame_table(self.to_frame()) if self.prompts else "")

    def __str__(self) -> str:
        """Means: accuracy with its 95% interval, since few prompts that are all right leave much open; n."""
        chance = _known(self.chance).double().mean().item()
        guessed = f", chance {chance:.2f}" if chance else ""
        low, high = self.accuracy_interval()
        graded = f"score {self.score:.2f}, " if self.score != self.accuracy else ""
        return (
            f"accuracy {self.accuracy:.2f} ({low:.2f} to {high:.2f}){guessed}, {graded}"
            f"P(answer) {self.probability:.3f}{plus_minus(self.probability_stderr, digits=3)}, n = {self.n}"
        )


def _known(values: Tensor | None) -> Tensor:
    """What ``__post_init__`` set where it was None."""
    assert values is not None
    return values
