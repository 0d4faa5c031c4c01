"""The matrices of a block, each as one matrix: those of its attention, and those of its MLP."""

from functools import singledispatch
from typing import Any

from jaxtyping import Float
from torch import Tensor


@singledispatch
def mlp_weights(model: Any, layer: int) -> dict[str, Float[Tensor, "_ _"]]:
    """A layer's matrices beside those of its attention, by name: W_in, W_out, W_gate where there is one."""
    found = {}
    for path, module in model.blocks[layer].mlp.named_modules(prefix="mlp"):
        for name in ("W_in", "W_gate", "W_out"):
            weight = getattr(module, name, None)
            if isinstance(weight, Tensor) and weight.ndim == 2:
                found[f"{path}.{name}"] = weight.detach()
    return found


def as_matrix(name: str, weight: Float[Tensor, "*head _ _"]) -> Float[Tensor, "_ _"]:
    """A weight of all heads as the matrix from or to the residual stream; other weights as they are."""
    if weight.ndim == 2:
        return weight
    return weight.flatten(0, 1) if name.endswith("W_O") else weight.transpose(0, 1).flatten(1)
