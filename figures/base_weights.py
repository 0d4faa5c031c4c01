"""The weights that training changes, as they were: a study trains one model many times and puts them back."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ivlens.models import HookedTransformer, trainable_names


@dataclass(frozen=True)
class BaseWeights:
    """A model, and copies of its trainable weights by their names."""

    model: HookedTransformer
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, model: HookedTransformer) -> "BaseWeights":
        """The weights as they are now."""
        names = set(trainable_names(model))
        return cls(model, {name: each.detach().clone() for name, each in model.named_parameters() if name in names})

    def now(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each weight as it is now, and as it was."""
        for name, each in self.model.named_parameters():
            if name in self.weights:
                yield each, self.weights[name]

    @torch.no_grad()
    def put_back(self) -> None:
        """Make the model the base again."""
        for each, before in self.now():
            each.copy_(before)

    @torch.no_grad()
    def move_to(self, share: float) -> None:
        """Move the model's weights this share of the way to these."""
        for each, before in self.now():
            each.lerp_(before, share)
