"""Records of the parts of every layer: mean activations, and what patching each part to its mean does.

At the last token, or at every position of a prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_finite, checked
from ..errors import ArgumentError, one_of
from ..vocabulary import METRICS, POSITIONS_BY, EffectPart, Part, all_parts
from .positions import saved_by
from .store import Record

KINDS: tuple[EffectPart, ...] = get_args(EffectPart)


class OfParts:
    """Base of records with a tensor for each part of a model, or None where the part was not looked at."""

    @property
    def parts(self) -> tuple[EffectPart, ...]:
        """The parts that there are numbers of."""
        return tuple(part for part in KINDS if getattr(self, part) is not None)

    @checked
    def of(self, part: Part) -> Tensor:
        """The numbers of one part.

        Args:
            part: "head", "attention", "mlp" or "residual".

        Raises:
            ArgumentError: a part that there are no numbers of.
        """
        if part not in self.parts:
            raise ArgumentError(f"one of the parts {', '.join(self.parts)}", repr(part))
        values: Tensor = getattr(self, part)
        return values

    def _check_finite(self, what: str) -> None:
        for part in self.parts:
            check_finite(f"{what} of part {part!r}", self.of(part))


class EffectsOfParts(OfParts):
    """Base of effects of parts on several corrupted prompts: their number, the mean over them, its standard error."""

    baseline: Float[Tensor, " prompt"]

    @property
    def n(self) -> int:
        """Number of corrupted prompts."""
        return len(self.baseline)

    @checked
    def aie(self, part: Part) -> Float[Tensor, "layer ..."]:
        """Average indirect effect of a part of each layer: the mean over prompts.

        Args:
            part: "head", "attention", "mlp" or "residual".
        """
        return self.of(part).mean(0)

    @checked
    def stderr(self, part: Part) -> Float[Tensor, "layer ..."]:
        """Standard error of the mean over prompts (not a number for a single prompt).

        Args:
            part: "head", "attention", "mlp" or "residual".
        """
        return (self.of(part).var(0, correction=0) / (self.n - 1)).sqrt()

    def _ranked(self, positions: Sequence[str] = ()) -> pd.DataFrame:
        """One row per part of a layer, and position, strongest first."""
        rows: list[tuple[Any, ...]] = []
        for part in self.parts:
            shape = self.of(part).shape
            of_part = all_parts([part], shape[1], shape[2] if part == "head" else 1)
            rows += [(*each, position) for each in of_part for position in positions or [""]]
        aie, stderr = (torch.cat([of(part).flatten() for part in self.parts]) for of in (self.aie, self.stderr))
        order = aie.argsort(descending=True, stable=True)
        columns = ["part", "layer", "head", "position"]
        frame = pd.DataFrame([rows[index] for index in order.tolist()], columns=columns)
        frame["head"] = frame["head"].astype("Int64")
        frame = frame.assign(aie=aie[order].numpy(), stderr=stderr[order].numpy(), rank=range(1, len(rows) + 1))
        return frame if positions else frame.drop(columns="position")


@dataclass(frozen=True, eq=False)
class PartMeans(OfParts, Record):
    """Mean activations of parts at the last token of clean prompts, in the model's activation units.

    ``head`` are heads' outputs before W_O, ``attention`` and ``mlp`` what these add to the residual stream,
    ``residual`` the streams that enter the blocks; None where a part was not recorded. ``n`` counts the prompts.

    Example:
        >>> means = iv.mean_part_activations(model, prompts, ("head", "mlp"))
        >>> means.parts, means.mlp.shape  # layer d_model
        (('head', 'mlp'), torch.Size([2, 32]))
    """

    head: Float[Tensor, "layer head d_head"] | None
    attention: Float[Tensor, "layer d_model"] | None
    mlp: Float[Tensor, "layer d_model"] | None
    residual: Float[Tensor, "layer d_model"] | None
    n: int
    task: str = ""

    def __post_init__(self) -> None:
        self._check_finite("means")


@dataclass(frozen=True, eq=False)
class PartEffects(EffectsOfParts, Record):
    """Indirect effects of the parts of every layer on corrupted prompts: heads, attention, MLPs, residual streams.

    Each is the metric with the part's activation at the last token replaced by its clean mean, minus the metric
    without, in the metric's own unit; None where a part was not patched. ``baseline`` [prompt] is the metric without.

    Example:
        >>> means = iv.mean_part_activations(model, prompts, ("attention", "mlp"))
        >>> effects = iv.indirect_effects(model, prompts, means, parts=("attention", "mlp"))
        >>> effects.aie("mlp").shape  # layer
        torch.Size([2])
    """

    head: Float[Tensor, "prompt layer head"] | None
    attention: Float[Tensor, "prompt layer"] | None
    mlp: Float[Tensor, "prompt layer"] | None
    residual: Float[Tensor, "prompt layer"] | None
    baseline: Float[Tensor, " prompt"]
    metric: str
    method: str
    task: str = ""
    means: PartMeans | None = field(default=None, metadata={"record": PartMeans})

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)
        self._check_finite("effects")
        check_finite("baselines [prompt]", self.baseline)

    def to_frame(self) -> pd.DataFrame:
        """One row per part of a layer, strongest first: part, layer, head (only of heads), aie, stderr, rank."""
        return self._ranked()


@dataclass(frozen=True, eq=False)
class PositionPartMeans(OfParts, Record):
    """Mean activations of parts at each position of clean prompts, in the model's activation units.

    The parts are those of ``PartMeans``, positions and ``by`` those of ``PositionMeans``; ``n`` counts the prompts.

    Example:
        >>> means = iv.mean_position_activations(model, prompts, parts=("head", "mlp"))
        >>> means.parts, means.mlp.shape[0] == len(means.positions)  # position layer d_model
        (('head', 'mlp'), True)
    """

    head: Float[Tensor, "position layer head d_head"] | None
    attention: Float[Tensor, "position layer d_model"] | None
    mlp: Float[Tensor, "position layer d_model"] | None
    residual: Float[Tensor, "position layer d_model"] | None
    n: int
    positions: tuple[str, ...] = field(metadata={"axis": "position"})
    by: str
    task: str = ""

    def __post_init__(self) -> None:
        one_of("by", self.by, POSITIONS_BY)
        self._check_finite("means")


@dataclass(frozen=True, eq=False)
class PositionPartEffects(EffectsOfParts, Record):
    """Indirect effects of parts at each position of corrupted prompts: heads, attention, MLPs, residual streams.

    Each is the metric with the part's activation replaced by its clean mean at all tokens of a position, minus the
    metric without, in the metric's own unit; None where a part was not patched. ``baseline`` [prompt] is the metric
    without.

    Example:
        >>> means = iv.mean_position_activations(model, prompts, parts=("head", "attention", "mlp"))
        >>> effects = iv.position_effects(model, prompts, means, method="attribution")
        >>> effects.aie("mlp").shape == (model.cfg.n_layers, len(effects.positions))
        True
    """

    head: Float[Tensor, "prompt layer head position"] | None
    attention: Float[Tensor, "prompt layer position"] | None
    mlp: Float[Tensor, "prompt layer position"] | None
    residual: Float[Tensor, "prompt layer position"] | None
    baseline: Float[Tensor, " prompt"]
    metric: str
    method: str
    positions: tuple[str, ...] = field(metadata={"axis": "position"})
    task: str = ""
    by: str = field(default="role", metadata={"added": True})

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)
        one_of("by", self.by, POSITIONS_BY)
        self._check_finite("effects")
        check_finite("baselines [prompt]", self.baseline)

    @checked
    def at(self, position: str) -> PartEffects:
        """The effects at one position.

        Args:
            position: one of ``positions``, such as "last".

        Raises:
            ArgumentError: a position that was not patched.

        Example:
            >>> means = iv.mean_position_activations(model, prompts, parts=("mlp",))
            >>> iv.position_effects(model, prompts, means).at("last").aie("mlp").shape  # layer
            torch.Size([2])
        """
        one_of("position", position, self.positions)
        index = self.positions.index(position)
        found = {part: self.of(part)[..., index] for part in self.parts}
        return PartEffects(
            found.get("head"), found.get("attention"), found.get("mlp"), found.get("residual"), self.baseline,
            self.metric, self.method, self.task, provenance=dict(self.provenance),
        )  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row per part of a layer and position, strongest first: part, layer, head (only of heads), position, by,
        aie, stderr, rank."""
        frame = self._ranked(self.positions)
        frame.insert(list(frame).index("position") + 1, "by", self.by)
        return frame

    @classmethod
    def _unpack(cls, prefix: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Self:
        return super()._unpack(prefix, tensors, {**facts, "by": saved_by(facts)})
