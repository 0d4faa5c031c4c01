"""The instruction vector: the sum of the chosen heads' mean outputs, as they enter the residual stream."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, checked
from ..errors import ArgumentError, MismatchError, brief
from ..models import Model, check_alike, check_fits, head_writes, provenance
from ..records import Head, HeadEffects, HeadMeans, RacedEffects, Record, check_finite
from ..vocabulary import check_heads


@checked
@dataclass(frozen=True, eq=False)
class InstructionVector(Record):
    """An instruction vector with its heads' parts (2406.12227, eq. 4; 2310.15213, eq. 5).

    ``values`` is [d_model], in the residual stream's units; ``parts`` [chosen, d_model] sums to it, one row per head of
    ``heads`` (layer, head), in the order in which they were chosen. A vector that does not come from heads (a random
    one, a mean difference) has neither. Vectors add, subtract and scale.

    Example:
        >>> half = 0.5 * vector
        >>> abs(vector.cosine(half) - 1) < 1e-4, len(half.heads)
        (True, 3)
    """

    values: Float[Tensor, " d_model"]
    parts: Float[Tensor, "chosen d_model"]
    heads: tuple[Head, ...] = field(metadata={"axis": "chosen"})
    task: str = ""

    def __post_init__(self) -> None:
        check_finite("values of a vector", self.values)
        check_finite("parts of a vector [chosen, d_model]", self.parts)

    @property
    def norm(self) -> float:
        """Euclidean norm of the vector."""
        return self.values.double().norm().item()

    @checked
    def cosine(self, other: "InstructionVector") -> float:
        """Cosine of the angle to another vector.

        Args:
            other: another vector, of a model of the same kind.

        Returns:
            The cosine, -1 to 1.

        Raises:
            MismatchError: vectors of models that differ in shape, architecture or weight processing.
            ArgumentError: a vector of zeros, which has no direction.
        """
        self._check_kin(other)
        if not (self.norm and other.norm):
            zero = other if self.norm else self
            raise ArgumentError("two vectors that are not zero, to compare directions", f"zeros, {zero.task[:60]!r}")
        return torch.cosine_similarity(self.values.double(), other.values.double(), dim=0).item()

    @checked
    def first(self, k: int) -> "InstructionVector":
        """The vector of its first ``k`` heads only.

        Args:
            k: how many heads.

        Raises:
            ArgumentError: it has fewer heads.

        Example:
            >>> len(vector.first(2).heads)
            2
        """
        if not 1 <= k <= len(self.heads):
            raise ArgumentError(f"a number of heads from 1 to {len(self.heads)}, those of the vector", repr(k))
        return replace(self, values=self.parts[:k].sum(0), parts=self.parts[:k], heads=self.heads[:k])

    @checked
    def interpolate(self, other: "InstructionVector", weight: float) -> "InstructionVector":
        """``(1 - weight)`` times this vector plus ``weight`` times another.

        Args:
            other: another vector, of a model of the same kind.
            weight: 0 for this vector, 1 for the other.
        """
        return (1 - weight) * self + weight * other

    @checked
    def __add__(self, other: "InstructionVector") -> "InstructionVector":
        self._check_kin(other)
        heads = tuple(dict.fromkeys(self.heads + other.heads)) if self.heads and other.heads else ()
        parts = torch.zeros(len(heads), len(self.values), dtype=self.values.dtype)
        for vector in (self, other) if heads else ():
            parts[[heads.index(head) for head in vector.heads]] += vector.parts
        origin = {name: self.provenance[name] for name in ("model", "versions") if name in self.provenance}
        terms = [term for vector in (self, other) for term in vector._terms()]
        return replace(
            self,
            values=self.values + other.values,
            parts=parts,
            heads=heads,
            task=f"{self.task} + {other.task}",
            provenance=origin | {"settings": {"sum of": terms}},
        )

    @checked
    def __mul__(self, factor: float) -> "InstructionVector":
        terms = [term | {"factor": factor * term["factor"]} for term in self._terms()]
        return replace(
            self,
            values=factor * self.values,
            parts=factor * self.parts,
            task=f"{factor:g} * ({self.task})",
            provenance=dict(self.provenance) | {"settings": {"sum of": terms}},
        )

    __rmul__ = __mul__

    def __neg__(self) -> "InstructionVector":
        return -1 * self

    @checked
    def __sub__(self, other: "InstructionVector") -> "InstructionVector":
        return self + -1 * other

    def to_frame(self) -> pd.DataFrame:
        """One row per head: layer, head, norm of its part, cosine of its part with the vector (nan where one is zero).

        Example:
            >>> list(vector.to_frame())
            ['layer', 'head', 'norm', 'cosine']
        """
        parts, values = self.parts.double(), self.values.double()
        cosines = parts @ values / (parts.norm(dim=1) * values.norm())
        frame = pd.DataFrame(list(self.heads), columns=["layer", "head"])
        return frame.assign(norm=parts.norm(dim=1).numpy(), cosine=cosines.numpy())

    def _terms(self) -> list[dict[str, Any]]:
        """The vectors and factors that it sums: itself, unless it is a result of arithmetic."""
        settings = self.provenance.get("settings") or {}
        if "sum of" in settings:
            return list(settings["sum of"])
        weights = self.provenance.get("model", {}).get("weights_sha256")
        return [{"factor": 1.0, "task": self.task, "heads": len(self.heads), "weights_sha256": weights}]

    def _check_kin(self, other: "InstructionVector") -> None:
        check_alike(
            self.provenance, other.provenance, "two vectors to fit each other", "use vectors of one kind of model"
        )
        if self.values.shape != other.values.shape:
            raise MismatchError(
                f"two vectors of shape {tuple(self.values.shape)}", f"one of {tuple(other.values.shape)}"
            )


@checked
@torch.no_grad()
def instruction_vector(
    model: Model,
    source: HeadEffects | RacedEffects | HeadMeans,
    heads: Sequence[Head] | None = None,
    *,
    k: Count | None = None,
) -> InstructionVector:
    """Sum of the heads' mean outputs through W_O: theta = sum over (l, j) of zbar[l, j] @ W_O[l, j], no biases.

    Where a block normalises its attention output before adding it (Gemma 2 and 3), each part includes that norm's gain
    and its scale at the mean output, so that it is what the head adds to the stream.

    Args:
        model: the model that the means were computed on.
        source: effects, which keep the means that they were measured with, or means.
        heads: the heads to sum, as (layer, head); None for the ``k`` heads of largest average effect.
        k: how many of the strongest heads are summed (None: 20, or as many as a race was for). It does not count where
            ``heads`` are given.

    Returns:
        The vector, [d_model], with each head's part.

    Raises:
        ArgumentError: no heads, a head twice, one that the model does not have, means alone without ``heads``, or more
            heads than a race was for.
        MismatchError: the means were not computed on these weights.

    Example:
        >>> vector = iv.instruction_vector(model, effects, k=3)
        >>> vector.values.shape, len(vector.heads)
        (torch.Size([32]), 3)
    """
    if heads is None:
        if isinstance(source, HeadMeans):
            raise ArgumentError("heads= beside means", "none", "pass effects, whose strongest k heads are summed")
        heads = source.top(k or (source.k if isinstance(source, RacedEffects) else 20))
    means = source if isinstance(source, HeadMeans) else source.means
    if means is None:
        raise ArgumentError("effects with the means that they were measured with", "ones without", "pass the means")
    check_fits(model, means.provenance, "the mean activations", same_weights=True)
    cfg = model.cfg
    shape = (cfg.n_layers, cfg.n_heads, cfg.d_head)
    if tuple(means.values.shape) != shape:
        raise MismatchError(f"means of shape {shape}", f"{tuple(means.values.shape)}", "effects keep theirs as .means")
    check_finite("mean activations [layer, head, d_head]", means.values)
    parts = outputs_of_heads(model, means.values, heads)
    origin = provenance(model, heads=len(heads), means=means.provenance.get("settings"))
    return InstructionVector(parts.sum(0), parts, tuple(heads), means.task, provenance=origin)


def outputs_of_heads(
    model: Model, z: Float[Tensor, "layer head d_head"], heads: Sequence[Head]
) -> Float[Tensor, "part d_model"]:
    """What each of the heads adds to the residual stream for outputs ``z`` of all heads before W_O, on the CPU.

    Raises:
        ArgumentError: no heads, a head twice, or one that the model does not have.
    """
    if not heads or len(set(heads)) < len(heads):
        raise ArgumentError("different heads, one or more, as (layer, head)", brief(list(heads)))
    check_heads((model.cfg.n_layers, model.cfg.n_heads), heads)
    writes = {layer: head_writes(model, layer, z[layer]) for layer in {layer for layer, _ in heads}}
    return torch.stack([writes[layer][head] for layer, head in heads]).cpu()


def vector_values(model: Model, vector: InstructionVector | Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """The vector's values on the model's device.

    Raises:
        MismatchError: see ``steer``.
    """
    if isinstance(vector, InstructionVector):
        check_fits(model, vector.provenance, "the instruction vector")
    values = vector.values if isinstance(vector, InstructionVector) else vector
    if tuple(values.shape) != (model.cfg.d_model,):
        raise MismatchError(f"a vector of shape ({model.cfg.d_model},)", f"{tuple(values.shape)}")
    if not values.isfinite().all():
        raise ArgumentError("a vector of finite values", "infinite ones or not-a-numbers")
    return values.to(model.cfg.device)
