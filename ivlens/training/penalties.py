"""Losses on the weights themselves: computed once per step, from each weight and a reference made before the first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import short_hash
from ..models import HookedTransformer, key_of, lora_factors, only_trainable, updated_weights
from ..vocabulary import TokenizedPrompt
from .config import TrainingConfig
from .earlier_adapters import Factors, stacked_factors
from .fisher import diagonal_fisher
from .kept import Tensors, load_or_compute_tensors
from .term import Term
from .trainable import Trainable
from .weight_terms import EWC


@dataclass(frozen=True)
class Penalty:
    """A term with a ``penalty``: how to compute the value of each weight, and the weight's reference."""

    term: Term
    values: Mapping[Any, Callable[[], Tensor]]
    references: Mapping[Any, Tensor]

    def backward(self) -> dict[str, float]:
        """Add the penalty's gradients to the parameters; return it by its name in the log, and weighted as ``loss``.

        The gradient is the term's own formula: autograd would read and write all weights several times more.
        """
        ((name, weight),) = self.term.weights.items()
        total = torch.zeros((), dtype=torch.float64)
        for of, reference in self.references.items():
            value = self.values[of]()
            loss, gradient = self.term.penalty(value.detach(), reference)
            total += loss.double().cpu()
            value.backward(weight * gradient)
        return {name: total.item(), "loss": weight * total.item()}


def penalties_of(
    model: HookedTransformer,
    trainable: Trainable,
    config: TrainingConfig,
    fisher_pairs: Sequence[tuple[Term, tuple[TokenizedPrompt, ...]]],
    adapters: Sequence[Factors],
    folder: Path | None,
) -> tuple[Penalty, ...]:
    """The penalties of a run's terms, while the model is the base still.

    Args:
        model: the base model, with LoRA where it is trained.
        trainable: its trained parameters.
        config: the run's settings.
        fisher_pairs: terms with need ``"fisher"``, and the prompts with answers that it is computed on.
        adapters: factors of earlier adapters, for need ``"adapters"``.
        folder: where the Fisher information is kept, and found again for the same weights, prompts and seed.

    Raises:
        MismatchError: an adapter of another model, or of no weight that is trained.
    """
    by_fisher = [_by_fisher(model, trainable, term, pairs, config.seed, folder) for term, pairs in fisher_pairs]
    if "adapters" not in config.guidance.needs:
        return tuple(by_fisher)
    stacked = stacked_factors(model, adapters)
    factors = {of: partial(_itself, each) for of, (each, _) in lora_factors(model).items()}
    asking = [term for term in config.terms if "adapters" in term.needs]
    return (*by_fisher, *(Penalty(term, factors, stacked) for term in asking))


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _by_fisher(
    model: HookedTransformer,
    trainable: Trainable,
    term: Term,
    pairs: tuple[TokenizedPrompt, ...],
    seed: int,
    folder: Path | None,
) -> Penalty:
    """With LoRA the weights are those that have updates, without them."""
    updated = updated_weights(model)
    weights = {name: weight for name, (weight, _) in updated.items()} or trainable.parameters
    drawn = seed if isinstance(term, EWC) and not term.empirical else None

    def compute() -> Tensors:
        with only_trainable(model, set(weights)):
            return diagonal_fisher(model, pairs, weights, drawn)

    key = key_of(model, fisher=[short_hash(pairs), drawn, sorted(weights)])
    fisher = load_or_compute_tensors(folder, "fisher", key, compute)
    changes = {name: partial(update.change, weight) for name, (weight, update) in updated.items()} or {
        name: partial(torch.sub, weight, trainable.anchors[name]) for name, weight in weights.items()
    }
    # in the layout of the weights, which a file does not keep
    return Penalty(term, changes, {name: torch.empty_like(weights[name]).copy_(each) for name, each in fisher.items()})
