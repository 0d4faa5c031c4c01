"""Checks that the computations of effects share."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, refuse_odd
from ..models import at_least_float32
from ..records import HeadMeans, OfParts, PositionMeans
from ..tasks import Prompt
from ..vocabulary import ModelPart, check_different_parts


def check_method(method: str, steps: int = 1, stream_dtype: torch.dtype | None = None) -> None:
    """Raise ArgumentError for ``steps`` or a ``stream_dtype`` that the method does not support."""
    if steps > 1 and method != "attribution":
        raise ArgumentError("steps above 1 with method='attribution' only", f"{steps} with method={method!r}")
    if stream_dtype is not None and method != "exact":
        raise ArgumentError("stream_dtype with method='exact' only", f"{stream_dtype} with method={method!r}")


def check_means_of(means: HeadMeans | PositionMeans | OfParts, parts: Sequence[str], how: str) -> None:
    """Raise ArgumentError unless there are means of different parts; ``how`` to take those of others."""
    check_different_parts(parts)
    have = means.parts if isinstance(means, OfParts) else ("head",)
    if missing := [part for part in parts if part not in have]:
        expected, came = f"means of the parts {', '.join(parts)}", f"none of {', '.join(missing)}"
        raise ArgumentError(expected, came, f"take them by {how.format(tuple(parts))}")


def check_race(race: bool, method: str) -> None:
    """Raise ArgumentError for a race of estimates, which come for all heads at once."""
    if race and method == "attribution":
        raise ArgumentError("race=True only with method='exact' or 'loop'", f"method={method!r}", "leave race=True out")


def check_stream_dtype(weights: torch.dtype, stream_dtype: torch.dtype | None) -> None:
    """Raise ArgumentError for a dtype narrower than the weights', or of no stream."""
    widest = at_least_float32(weights)
    if stream_dtype not in (None, widest, torch.float64):
        raise ArgumentError(f"stream_dtype to be {widest} or torch.float64", str(stream_dtype))


def check_effects(
    prompts: Sequence[Prompt],
    effects: Float[Tensor, "prompt part *position"],
    baseline: Float[Tensor, " prompt"],
    parts: Sequence[ModelPart],
    *,
    first: int = 0,
) -> None:
    """Raise PromptError naming the prompts and parts, or heads alone, whose effects are infinite or not a number.

    The effects are those of the prompts from number ``first`` on.
    """
    odd = ~effects.isfinite().flatten(2).all(-1) if effects.ndim > 2 else ~effects.isfinite()  # prompt part
    numbers = (first + (odd.any(1) | ~baseline.isfinite()).nonzero()).flatten().tolist()
    found = [parts[number] for number in odd.any(0).nonzero().flatten().tolist()]
    what = "heads" if all(each.head is not None for each in parts) else "parts"
    named = "" if not found else found[0] if what == "parts" else (found[0].layer, found[0].head)
    some = "" if len(found) in (0, len(parts)) else f" of {len(found)} {what}, {named} first,"
    refuse_odd("effects", [prompt.text for prompt in prompts], numbers, some)
