"""The instruction vector: the sum of the chosen heads' mean outputs, as they enter the residual stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ArgumentError
from .models import HookedTransformer, check_fits, head_writes, provenance
from .records import Head, HeadMeans, Record


@dataclass(frozen=True, eq=False)
class InstructionVector(Record):
    """An instruction vector with its heads' parts (2406.12227, eq. 4; 2310.15213, eq. 5).

    ``values`` is [d_model], in the residual stream's units; ``parts`` [chosen, d_model] sums to it, one row for each
    of ``heads`` (layer, head).
    """

    values: Float[Tensor, " d_model"]
    parts: Float[Tensor, "chosen d_model"]
    heads: tuple[Head, ...]
    task: str = ""

    @property
    def norm(self) -> float:
        """Euclidean norm of the vector."""
        return self.values.double().norm().item()

    def cosine(self, other: "InstructionVector") -> float:
        """Cosine of the angle to another vector."""
        return torch.cosine_similarity(self.values.double(), other.values.double(), dim=0).item()


@torch.inference_mode()
def instruction_vector(model: HookedTransformer, means: HeadMeans, heads: Sequence[Head]) -> InstructionVector:
    """Sum of the heads' mean outputs through W_O: theta = sum over (l, j) of zbar[l, j] @ W_O[l, j], no biases.

    Where a block normalises its attention output before adding it (Gemma 2 and 3), each part carries that norm's
    gain and the scale that the norm has on the mean output, so that it is what the head adds to the stream.

    Raises:
        ArgumentError: no heads, a head twice, or one that the model does not have.
        MismatchError: the means were not computed on these weights.
    """
    check_fits(model, means.provenance, "the mean activations", same_weights=True)
    heads = tuple((int(layer), int(head)) for layer, head in heads)
    cfg = model.cfg
    if not heads or len(set(heads)) < len(heads):
        raise ArgumentError("different heads, one or more, as (layer, head)", repr(heads)[:80])
    for layer, head in heads:
        if not (0 <= layer < cfg.n_layers and 0 <= head < cfg.n_heads):
            raise ArgumentError(f"layers below {cfg.n_layers} and heads below {cfg.n_heads}", repr((layer, head)))
    parts = torch.stack([head_writes(model, layer, means.values[layer])[head] for layer, head in heads])
    origin = provenance(model, heads=len(heads), means=means.provenance.get("settings"))
    return InstructionVector(parts.sum(0), parts, heads, means.task, provenance=origin)
