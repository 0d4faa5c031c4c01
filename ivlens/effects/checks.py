"""Checks that the computations of effects share."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, refuse_odd
from ..models import at_least_float32
from ..tasks import Prompt


def check_method(method: str, steps: int = 1, stream_dtype: torch.dtype | None = None) -> None:
    """Raise ArgumentError for ``steps`` or a ``stream_dtype`` that the method does not support."""
    if steps > 1 and method != "attribution":
        raise ArgumentError("steps above 1 with method='attribution' only", f"{steps} with method={method!r}")
    if stream_dtype is not None and method != "exact":
        raise ArgumentError("stream_dtype with method='exact' only", f"{stream_dtype} with method={method!r}")


def check_stream_dtype(weights: torch.dtype, stream_dtype: torch.dtype | None) -> None:
    """Raise ArgumentError for a dtype narrower than the weights', or of no stream."""
    widest = at_least_float32(weights)
    if stream_dtype not in (None, widest, torch.float64):
        raise ArgumentError(f"stream_dtype to be {widest} or torch.float64", str(stream_dtype))


def check_effects(
    prompts: Sequence[Prompt],
    effects: Float[Tensor, "prompt layer head *position"],
    baseline: Float[Tensor, " prompt"],
) -> None:
    """Raise PromptError naming the prompts and heads whose effects are infinite or not a number."""
    odd = ~effects.isfinite().reshape(*effects.shape[:3], -1).all(-1)  # prompt layer head
    numbers = (odd.flatten(1).any(1) | ~baseline.isfinite()).nonzero().flatten().tolist()
    heads = [tuple(head) for head in odd.any(0).nonzero().tolist()]
    some = "" if len(heads) in (0, odd[0].numel()) else f" of {len(heads)} heads, {heads[0]} first,"
    refuse_odd("effects", [prompt.text for prompt in prompts], numbers, some)
