"""What every computation of effects checks before it runs a model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, MismatchError, refuse_odd
from ..models import HookedTransformer, check_fits
from ..records import HeadMeans, PositionMeans, check_finite
from ..tasks import Prompt


def check_steps(method: str, steps: int) -> None:
    """Raise ArgumentError for steps that the method does not take."""
    if steps > 1 and method != "attribution":
        raise ArgumentError("steps above 1 with method='attribution' only", f"{steps} with method={method!r}")


def check_stream_dtype(model: HookedTransformer, method: str, stream_dtype: torch.dtype | None) -> None:
    """Raise ArgumentError for a dtype narrower than the weights', or of no stream."""
    if stream_dtype is None:
        return
    if method != "exact":
        raise ArgumentError("stream_dtype with method='exact' only", f"{stream_dtype} with method={method!r}")
    widest = max(torch.float32, model.cfg.dtype, key=lambda dtype: dtype.itemsize)
    if stream_dtype not in (widest, torch.float64):
        raise ArgumentError(f"stream_dtype to be {widest} or torch.float64", str(stream_dtype))


def check_effects(
    prompts: Sequence[Prompt],
    effects: Float[Tensor, "prompt layer head *place"],
    baseline: Float[Tensor, " prompt"],
) -> None:
    """Raise PromptError that names the prompts, and heads, whose effects are infinite or not a number."""
    odd = ~effects.isfinite().reshape(*effects.shape[:3], -1).all(-1)  # prompt layer head
    numbers = (odd.flatten(1).any(1) | ~baseline.isfinite()).nonzero().flatten().tolist()
    heads = [tuple(head) for head in odd.any(0).nonzero().tolist()]
    some = "" if len(heads) in (0, odd[0].numel()) else f" of {len(heads)} heads, {heads[0]} first,"
    refuse_odd("effects", [prompt.text for prompt in prompts], numbers, some)


def check_means(model: HookedTransformer, means: HeadMeans | PositionMeans) -> None:
    """Raise unless ``means`` are finite, and of such a model.

    Raises:
        ArgumentError: means that are not finite.
        MismatchError: means of a model of another shape, architecture or weight processing.
    """
    check_fits(model, means.provenance, "the mean activations")
    shape: tuple[int, ...] = (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head)
    if isinstance(means, PositionMeans):
        shape = (len(means.places), *shape)
    if tuple(means.values.shape) != shape:
        raise MismatchError(f"means of shape {shape}", f"{tuple(means.values.shape)}")
    check_finite("mean activations", means.values)
