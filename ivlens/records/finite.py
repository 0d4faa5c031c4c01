"""Infinite values and not-a-numbers: no record holds one where a number was measured."""

from torch import Tensor

from ..errors import ArgumentError


def check_finite(what: str, values: Tensor) -> None:
    """Raise ArgumentError where ``values`` are infinite or not a number: nothing is averaged or ranked with such."""
    odd = (~values.isfinite()).nonzero().tolist()
    if odd:
        raise ArgumentError(
            f"finite {what}", f"{len(odd)} of {values.numel()} infinite or not a number, the first at {tuple(odd[0])}",
            "measure them anew, in float32 if half precision overflowed",
        )  # fmt: skip
