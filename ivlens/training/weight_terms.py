"""Terms on the weights themselves: penalties on their change, which of them change, and what becomes of them.

``terms`` has the terms with losses on prompts, and says how to add one.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from ..checks import Between, Fraction, NotNegative, checked
from ..errors import ArgumentError
from .objective import elastic, overlap, pull_back
from .term import OwnTexts, Term


@checked
@dataclass(frozen=True)
class L2ToBase(Term):
    """Decoupled pull towards the initial weights after each step (see ``objective.pull_back``); a baseline.

    A step of Adam moves a weight by about the learning rate, so that the two usually balance within 1 / weight of the
    initial value, at any rate and after any number of steps. With LoRA its factor B alone is pulled, towards zero; it
    has to go further than the weights that it changes through A.

    Args:
        weight: the pull's strength, the share of the change that a step takes back, is this times its learning rate.
        lora: what the weight is multiplied by with LoRA (a tenth: at alpha = 2 rank, see figures/continual).
    """

    needs = frozenset({"anchors"})
    source = "baseline"
    weight: NotNegative = field(default=1000.0, metadata={"loss": "l2"})
    lora: Fraction = field(default=0.1, metadata={"added": True})

    def check(self, n_layers: int, learning_rate: float) -> None:
        if (pull := self.weight * learning_rate) >= 1:
            warnings.warn(
                f"ivlens: L2ToBase takes back {pull:.2g} times the change at every step, so that little or nothing is "
                f"learned; divide its weight or the learning rate by more than {pull:.2g}, or choose another guidance",
                stacklevel=2,
            )

    def with_lora(self) -> "L2ToBase":
        return replace(self, weight=self.weight * self.lora, lora=1.0)

    def after_step(self, parameters: Sequence[Tensor], anchors: Sequence[Tensor], learning_rate: float) -> None:
        pull_back(parameters, anchors, learning_rate * self.weight)


@dataclass(frozen=True)
class _Elastic(Term):
    """Elastic weight consolidation: ``1/2 sum_i F_i (w_i - w0_i)^2`` around the initial weights (arXiv 1612.00796).

    F is the diagonal of the Fisher information at the initial weights: the mean over prompts of the squared gradient of
    the log-probability of what follows, one prompt at a time (see ``diagonal_fisher``). With LoRA the penalty is on the
    change of the effective weights, ``alpha / rank B A``, whichever factors it comes from: the Fisher information of
    the factors would be zero for A, since B begins with zeros.
    """

    weight: NotNegative = field(default=1000.0, metadata={"loss": "ewc"})

    def penalty(
        self, value: Float[Tensor, "..."], reference: Float[Tensor, "..."]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "..."]]:
        return elastic(value, reference)


@checked
@dataclass(frozen=True)
class EWC(_Elastic):
    """Elastic weight consolidation by old examples: ``1/2 sum_i F_i (w_i - w0_i)^2`` (arXiv 1612.00796, eq. 3).

    F is the Fisher information at the initial weights on ``fine_tune``'s ``replay=``: by default the true one, of
    answers drawn from the base's own distribution. With LoRA, w is the effective weight, and so in ``EWCOnOwnTexts``.

    Args:
        weight: of the sum (``ewc`` in the log); the paper's lambda.
        empirical: take the examples' answers instead of drawn ones: the empirical Fisher information.
    """

    needs = frozenset({"anchors", "fisher", "replay"})
    source = "arXiv 1612.00796"
    empirical: bool = False


@checked
@dataclass(frozen=True)
class EWCOnOwnTexts(_Elastic, OwnTexts):
    """Elastic weight consolidation by texts that the base writes itself (see ``EWC``), so that no old data are needed.

    Their tokens are drawn from the base's distribution, so that F is the true Fisher information.

    Args:
        weight: of the sum (``ewc`` in the log).
        n_texts: texts that the base writes before the first step.
        n_tokens: tokens of a text, at most.
    """

    needs = frozenset({"anchors", "fisher", "texts"})
    source = "arXiv 1612.00796, on other data"


@checked
@dataclass(frozen=True)
class OLoRA(Term):
    """Overlap of LoRA's factor A with those of earlier adapters of the same weights (see ``objective.overlap``).

    Tasks are learned one after the other, each with an adapter of its own, merged before the next one; the factors A of
    the merged ones are ``fine_tune``'s ``adapters=``. Without any, for the first task, this is LoRA alone.

    Args:
        weight: of the sum over weights (``o_lora`` in the log); the paper's lambda_1.
    """

    needs = frozenset({"adapters"})
    source = "arXiv 2310.14152"
    weight: NotNegative = field(default=0.5, metadata={"loss": "o_lora"})

    def penalty(
        self, value: Float[Tensor, "rank in"], reference: Float[Tensor, "earlier in"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "rank in"]]:
        return overlap(value, reference)


@checked
@dataclass(frozen=True)
class FrozenLayers(Term):
    """Layers that do not change, as fractions of the model's depth, of those that ``TrainingConfig.layers`` has.

    Args:
        first: the fraction of the depth at which the frozen layers begin.
        last: the fraction before which they end: layer l of n is frozen if ``first <= l / n < last``.

    Raises:
        ArgumentError: ``first`` is not below ``last``.
    """

    source = "baseline"
    first: Fraction = 0.0
    last: Fraction = 0.5

    def __post_init__(self) -> None:
        if not self.first < self.last:
            raise ArgumentError("frozen layers that begin before they end", f"{self.first:g} to {self.last:g}")

    def trains(self, layer: int, n_layers: int) -> bool:
        return not self.first <= layer / n_layers < self.last


@checked
@dataclass(frozen=True)
class WeightAverage(Term):
    """The run ends with the mean of the weights after each of its last steps (arXiv 1803.05407; 2209.14981 at the end).

    Training goes on from the last weights, not from the mean. With LoRA the factors are averaged, each alone; their
    product is not the mean of the products.

    Args:
        share: the share of the steps, at the end, whose weights are averaged; one step at least.
    """

    source = "arXiv 1803.05407"
    share: Annotated[float, Between(1e-3, 1)] = 0.5

    def averaged_from(self, steps: int) -> int:
        return steps - max(1, round(self.share * steps))


@checked
@dataclass(frozen=True)
class Interpolation(Term):
    """The run ends with weights between the initial and the last ones, ``w0 + share (w - w0)`` (arXiv 2109.01903).

    With LoRA the factor B is scaled, which scales the update.

    Args:
        share: the share of the change that is kept.
    """

    needs = frozenset({"anchors"})
    source = "arXiv 2109.01903"
    share: Fraction = 0.5

    def at_end(self, parameters: Sequence[Tensor], anchors: Sequence[Tensor]) -> None:
        pull_back(parameters, anchors, 1 - self.share)
