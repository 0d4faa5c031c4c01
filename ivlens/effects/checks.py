"""What every computation of effects checks before it runs a model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, MismatchError, at_least, instance, one_of, refuse_odd, whole
from ..models import HookedTransformer, check_fits
from ..records import METRICS, HeadMeans, PositionMeans, Record, check_finite
from ..tasks import Prompt


def check_asked(method: str, methods: tuple[str, ...], metric: str, steps: int) -> None:
    """Raise ArgumentError for a method or metric that there is not, or steps that the method does not take."""
    one_of("method", method, methods)
    one_of("metric", metric, METRICS)
    whole("steps", steps, 1)
    if steps > 1 and method != "attribution":
        raise ArgumentError("steps above 1 with method='attribution' only", f"{steps} with method={method!r}")


def check_streams(
    model: HookedTransformer, method: str, stream_budget: int | None, stream_dtype: torch.dtype | None
) -> None:
    """Raise ArgumentError for a budget of less than two rows, or a dtype narrower than the weights' or of no stream."""
    if stream_budget is not None:
        at_least("stream_budget", stream_budget, 2)
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
    found = (odd.flatten(1).any(1) | ~baseline.isfinite()).nonzero().flatten().tolist()
    heads = [tuple(head) for head in odd.any(0).nonzero().tolist()]
    some = "" if len(heads) in (0, odd[0].numel()) else f" of {len(heads)} heads, {heads[0]} first,"
    refuse_odd("effects", [prompt.text for prompt in prompts], found, some)


def check_means(model: HookedTransformer, means: HeadMeans | PositionMeans, kind: type[Record] = HeadMeans) -> None:
    """Raise unless ``means`` are of the kind that is asked for, finite, and of such a model.

    Raises:
        ArgumentError: means of another kind, at places where those of heads belong or the other way, or not finite.
        MismatchError: means of a model of another shape, architecture or weight processing.
    """
    instance("means", means, kind)
    check_fits(model, means.provenance, "the mean activations")
    shape: tuple[int, ...] = (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head)
    if isinstance(means, PositionMeans):
        shape = (len(means.places), *shape)
    if tuple(means.values.shape) != shape:
        raise MismatchError(f"means of shape {shape}", f"{tuple(means.values.shape)}")
    check_finite("mean activations", means.values)
