"""Records of heads at every position of a prompt, not only its last token: mean outputs and effects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, check_finite, checked
from ..errors import one_of
from ..vocabulary import METRICS, POSITIONS_BY, Head, check_count
from .effects import HeadEffects, OverPrompts
from .store import Record


def saved_by(facts: Mapping[str, Any]) -> Any:
    """How a saved record's positions are aligned: in files from before it was a field, its settings say so."""
    provenance = facts.get("provenance")
    settings = provenance.get("settings") if isinstance(provenance, Mapping) else None
    earlier = settings.get("by", "role") if isinstance(settings, Mapping) else "role"
    return facts.get("by", earlier)


@dataclass(frozen=True, eq=False)
class PositionMeans(Record):
    """Mean output of each head before W_O at each position of clean prompts.

    ``values`` is [position, layer, head, d_head] in the model's activation units. ``by`` says what a position is: with
    "role", all parts of the prompt of one role, such as "query input", or "last", its last token; with "token-class",
    as the code of 2310.15213 has it, one word, such as "demonstration input 2", or one token of the template; with
    "position", a token counted from the end ("-1"). What has several tokens is represented by their mean. ``n`` counts
    prompts.

    Example:
        >>> iv.mean_position_activations(model, prompts).positions[-1]
        'last'
    """

    values: Float[Tensor, "position layer head d_head"]
    n: int
    positions: tuple[str, ...] = field(metadata={"axis": "position"})
    by: str
    task: str = ""

    def __post_init__(self) -> None:
        one_of("by", self.by, POSITIONS_BY)
        check_finite("means [position, layer, head, d_head]", self.values)


@dataclass(frozen=True, eq=False)
class PositionEffects(OverPrompts, Record):
    """Indirect effects of all heads at each position of corrupted prompts.

    ``values`` is [prompt, layer, head, position]: the metric with the head's output replaced by its clean mean,
    minus the metric without, in the metric's own unit; ``baseline`` [prompt] is the latter. A part of several tokens
    is patched at all of them together. ``by`` says to what: with "role" to one mean for all of them; with "token-class"
    each to the mean of its own aligned position, which is the token classes' effect of 2310.15213; with "position" a
    position is one token. ``aie`` and ``stderr`` are [layer, head, position].

    Example:
        >>> means = iv.mean_position_activations(model, prompts)
        >>> iv.position_effects(model, prompts, means, method="attribution").n
        4
    """

    values: Float[Tensor, "prompt layer head position"]
    baseline: Float[Tensor, " prompt"]
    metric: str
    method: str
    positions: tuple[str, ...] = field(metadata={"axis": "position"})
    task: str = ""
    by: str = field(default="role", metadata={"added": True})

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)
        one_of("by", self.by, POSITIONS_BY)
        check_finite("effects [prompt, layer, head, position]", self.values)
        check_finite("baselines [prompt]", self.baseline)

    @checked
    def at(self, position: str) -> HeadEffects:
        """The effects at one position, as a head map.

        Args:
            position: one of ``positions``, such as "last".

        Raises:
            ArgumentError: a position that was not patched.

        Example:
            >>> by_position = iv.position_effects(model, prompts, iv.mean_position_activations(model, prompts))
            >>> by_position.at("last").aie.shape == effects.aie.shape
            True
        """
        one_of("position", position, self.positions)
        values = self.values[..., self.positions.index(position)]
        return HeadEffects(values, self.baseline, self.metric, self.method, self.task, provenance=dict(self.provenance))

    @checked
    def top(self, k: Count) -> list[tuple[int, int, str]]:
        """The ``k`` strongest as (layer, head, position), highest average indirect effect first.

        Args:
            k: how many.

        Raises:
            ArgumentError: ``k`` beyond the number of heads and positions.

        Example:
            >>> means = iv.mean_position_activations(model, prompts)
            >>> len(iv.position_effects(model, prompts, means).top(2))
            2
        """
        check_count(k, self.aie.numel(), "heads and positions")
        return [(layer, head, self.positions[at]) for layer, head, at in self._ranked()[:k].tolist()]

    @checked
    def strongest_heads(self, k: Count) -> list[Head]:
        """The ``k`` heads of highest average indirect effect at any position, highest first.

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
        """One row per head and position, strongest first: layer, head, position, by, aie, stderr, rank (from 1)."""
        layers, heads, positions = index = tuple(self._ranked().T)
        return pd.DataFrame({
            "layer": layers, "head": heads, "position": np.array(self.positions)[positions],
            "by": self.by, "aie": self.aie.numpy()[index], "stderr": self.stderr.numpy()[index],
            "rank": range(1, len(layers) + 1),
        })  # fmt: skip

    @classmethod
    def _unpack(cls, prefix: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Self:
        return super()._unpack(prefix, tensors, {**facts, "by": saved_by(facts)})

    def _ranked(self) -> np.ndarray:
        """All (layer, head, position) by effect, ties in their order."""
        order = torch.sort(self.aie.flatten(), descending=True, stable=True).indices
        return np.stack(np.unravel_index(order.numpy(), self.aie.shape), 1)
