"""Records of heads at places of a prompt, not only at its last token: mean outputs, and effects."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, check_finite, checked
from ..errors import one_of
from ..vocabulary import METRICS, Head, check_count
from .effects import HeadEffects, OverPrompts
from .store import Record


@dataclass(frozen=True, eq=False)
class PositionMeans(Record):
    """Mean output of each head before W_O at each place of clean prompts.

    ``values`` is [place, layer, head, d_head] in the model's activation units: the mean over the ``n`` prompts of the
    mean over the place's tokens. ``by`` says what places are: "role", the parts that prompts are composed of and
    "last", or "position", counted from the end ("-1").

    Example:
        >>> iv.mean_position_activations(model, prompts).places[-1]
        'last'
    """

    values: Float[Tensor, "place layer head d_head"]
    n: int
    places: tuple[str, ...] = field(metadata={"axis": "place"})
    by: str
    task: str = ""

    def __post_init__(self) -> None:
        check_finite("means [place, layer, head, d_head]", self.values)


@dataclass(frozen=True, eq=False)
class PositionEffects(OverPrompts, Record):
    """Indirect effects of all heads at each place of corrupted prompts (2310.15213's token classes).

    ``values`` is [prompt, layer, head, place]: the metric with the head's output replaced by its clean mean at all
    tokens of the place, minus the metric without, in the metric's own unit; ``baseline`` [prompt] is the latter.
    ``aie`` and ``stderr`` are [layer, head, place].

    Example:
        >>> places = iv.mean_position_activations(model, prompts)
        >>> iv.position_effects(model, prompts, places, method="attribution").n
        4
    """

    values: Float[Tensor, "prompt layer head place"]
    baseline: Float[Tensor, " prompt"]
    metric: str
    method: str
    places: tuple[str, ...] = field(metadata={"axis": "place"})
    task: str = ""

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)
        check_finite("effects [prompt, layer, head, place]", self.values)
        check_finite("baselines [prompt]", self.baseline)

    @checked
    def at(self, place: str) -> HeadEffects:
        """The effects at one place, as a head map.

        Args:
            place: one of ``places``, such as "last".

        Raises:
            ArgumentError: a place that was not patched.

        Example:
            >>> found = iv.position_effects(model, prompts, iv.mean_position_activations(model, prompts))
            >>> found.at("last").aie.shape == effects.aie.shape
            True
        """
        one_of("place", place, self.places)
        values = self.values[..., self.places.index(place)]
        return HeadEffects(values, self.baseline, self.metric, self.method, self.task, provenance=dict(self.provenance))

    @checked
    def top(self, k: Count) -> list[tuple[int, int, str]]:
        """The ``k`` strongest as (layer, head, place), highest average indirect effect first.

        Args:
            k: how many.

        Raises:
            ArgumentError: ``k`` beyond the number of heads and places.

        Example:
            >>> means = iv.mean_position_activations(model, prompts)
            >>> len(iv.position_effects(model, prompts, means).top(2))
            2
        """
        check_count(k, self.aie.numel(), "heads and places")
        return [(layer, head, self.places[place]) for layer, head, place in self._ranked()[:k].tolist()]

    @checked
    def strongest_heads(self, k: Count) -> list[Head]:
        """The ``k`` heads of highest average indirect effect at any place, highest first.

        Args:
            k: how many heads.

        Raises:
            ArgumentError: ``k`` beyond the number of heads.

        Example:
            >>> means = iv.mean_position_activations(model, prompts)
            >>> len(iv.position_effects(model, prompts, means).strongest_heads(2))
            2
        """
        check_count(k, self.aie[..., 0].numel())
        heads = dict.fromkeys(Head(layer, head) for layer, head, _ in self._ranked().tolist())
        return list(heads)[:k]

    def to_frame(self) -> pd.DataFrame:
        """One row per head and place, strongest first: layer, head, place, aie, stderr, rank (from 1)."""
        layers, heads, places = index = tuple(self._ranked().T)
        return pd.DataFrame({
            "layer": layers, "head": heads, "place": np.array(self.places)[places], "aie": self.aie.numpy()[index],
            "stderr": self.stderr.numpy()[index], "rank": range(1, len(layers) + 1),
        })  # fmt: skip

    def _ranked(self) -> np.ndarray:
        """All (layer, head, place) by effect, ties in their order."""
        order = torch.sort(self.aie.flatten(), descending=True, stable=True).indices
        return np.stack(np.unravel_index(order.numpy(), self.aie.shape), 1)
