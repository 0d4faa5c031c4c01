"""What forks rows off the clean one in a layer, at the last prompt token: the same for streams and for a Bridge.

In a layer, rows fork at three points: entering the block, where a vector is added to the stream or the stream is
replaced; after attention, where a head's z, what a head writes, or all that attention adds is replaced; and after the
MLP, where what it adds is replaced. Forks "entering" the layer after the last one fork off the final stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..vocabulary import ModelPart, Part, StreamSite
from .parts import PartValues

# The kinds of forks in the order in which they fork in a layer, and the parts that they replace.
KINDS = ("added", "residual", "z", "written", "attention", "mlp")
KIND: dict[Part, str] = {
    "residual": "residual", "z": "z", "head": "written", "attention": "attention", "mlp": "mlp",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Forks:
    """One layer's forks by kind: their values, [fork, prompt, d], with one prompt where all have the same.

    They fork in the order of the kinds. ``heads`` are those of ``z``, then those of ``written``.
    """

    added: Float[Tensor, "_ _ d_model"] | None = None
    residual: Float[Tensor, "_ _ d_model"] | None = None
    z: Float[Tensor, "_ _ d_head"] | None = None
    written: Float[Tensor, "_ _ d_model"] | None = None
    attention: Float[Tensor, "_ _ d_model"] | None = None
    mlp: Float[Tensor, "_ _ d_model"] | None = None
    heads: tuple[int, ...] = ()

    def of_prompt(self, number: int) -> "Forks":
        """The forks of one of the prompts."""
        values = {kind: getattr(self, kind) for kind in KINDS}
        own = {
            kind: each if each is None or each.shape[1] == 1 else each[:, number : number + 1]
            for kind, each in values.items()
        }
        return replace(self, **own)

    @property
    def spans(self) -> dict[str, slice]:
        """Where the forks of each kind are among all."""
        counts = [0 if (values := getattr(self, kind)) is None else len(values) for kind in KINDS]
        ends = accumulate(counts)
        return {kind: slice(end - count, end) for kind, count, end in zip(KINDS, counts, ends, strict=True)}

    @property
    def count(self) -> int:
        """How many rows fork."""
        return self.spans["mlp"].stop


NO_FORKS = Forks()


def fork_layer(layer: int, site: StreamSite) -> int:
    """The layer that a stream enters after it was changed at a site, which is the number of layers after the last."""
    return layer + 1 if site == "resid_post" else layer


def additions(vectors: Mapping[int, Float[Tensor, "fork d_model"]]) -> dict[int, Forks]:
    """By layer, a fork for each vector, which is added to the stream that enters the block."""
    return {layer: Forks(added=of_layer[:, None]) for layer, of_layer in vectors.items()}


def replacements(values: PartValues, parts: Sequence[ModelPart]) -> dict[int, Forks]:
    """By layer, a fork for each part, which is replaced by its value."""
    chosen: dict[int, dict[Part, list[Any]]] = {}
    for part, layer, head in parts:
        chosen.setdefault(layer, {}).setdefault(part, []).append(head)
    return {
        layer: Forks(
            **{KIND[part]: _values(values, part, layer, heads) for part, heads in here.items()},
            heads=(*here.get("z", ()), *here.get("head", ())),
        )
        for layer, here in chosen.items()
    }


def _values(values: PartValues, part: Part, layer: int, heads: list[Any]) -> Float[Tensor, "fork prompt d"]:
    found = values.of(part)
    assert found is not None
    of_layer = found[:, layer]
    return of_layer[:, heads].transpose(0, 1) if of_layer.ndim == 3 else of_layer[None].expand(len(heads), -1, -1)


def rows_of(parts: Sequence[ModelPart]) -> list[int]:
    """The row of the clean run, 0, and that of each part, where rows fork layer by layer."""
    order = sorted(range(len(parts)), key=lambda n: _turn(parts[n]))
    rows = torch.tensor(order, dtype=torch.long).argsort() + 1
    return [0, *rows.tolist()]


def in_order(parts: Sequence[ModelPart]) -> list[ModelPart]:
    """The parts in the order in which their rows fork."""
    return sorted(parts, key=_turn)


def _turn(part: ModelPart) -> tuple[int, int]:
    return part.layer, KINDS.index(KIND[part.part])
