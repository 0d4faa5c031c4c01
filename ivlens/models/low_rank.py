"""A change of weights as a PEFT adapter: exact factors of each linear layer's change, where that has low rank."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UnsupportedError
from .export import LORA
from .hugging_face_layout import WeightLayout

HIDDEN = 1e-3  # of the change's norm, at most, may lie below the rounding of the weights
Factors = tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]


def low_rank_adapter(
    layout: Mapping[str, WeightLayout], before: Mapping[str, Tensor], after: Mapping[str, Tensor], most: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's settings and tensors of an adapter that turns the weights ``before`` into those ``after``.

    All modules get the largest rank that one of them needs.

    Raises:
        UnsupportedError: a change of more than ``most`` ranks, or of something other than a layer's linear modules.
    """
    factors: dict[str, Factors] = {}
    for name, weight in after.items():
        if torch.equal(weight, before[name]):
            continue
        one, other = (each.T if layout[name].in_first else each for each in (before[name], weight))
        found = change_factors(one, other, most) if layout[name].linear else None
        if found is None:
            expected = f"changes of rank {most} or less in linear modules, which an adapter holds"
            raise UnsupportedError(expected, f"another change in {name}", "write the whole model (hf)")
        factors[name.removesuffix(".weight")] = found
    rank = max((len(inner) for inner, _ in factors.values()), default=1)
    tensors = {}
    for path, (inner, outer) in factors.items():
        missing = rank - len(inner)
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.nn.functional.pad(inner, (0, 0, 0, missing))
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.nn.functional.pad(outer, (0, missing))
    in_first = any(layout[f"{path}.weight"].in_first for path in factors)
    modules = {"r": rank, "lora_alpha": rank, "fan_in_fan_out": in_first, "target_modules": [*factors]}
    return LORA | modules, tensors


def change_factors(before: Float[Tensor, "out in"], after: Float[Tensor, "out in"], most: int) -> Factors | None:
    """Factors A, B of a change B A, exact up to the rounding of the weights; None for a rank above ``most``.

    Rounding adds to the change a matrix of at most ``eps |W|``, so singular values below that say nothing. Where they
    are not small beside the change, its rank is not known.
    """
    wide = torch.promote_types(after.dtype, torch.float32)
    left, sizes, right = torch.linalg.svd(after.to(wide) - before.to(wide), full_matrices=False)
    rank = int((sizes > torch.finfo(after.dtype).eps * after.to(wide).norm()).sum())
    if rank > most or sizes[rank:].norm() > HIDDEN * sizes.norm():
        return None
    root = sizes[:rank].sqrt()
    return (root[:, None] * right[:rank]).contiguous(), (left[:, :rank] * root).contiguous()
