"""Precision: tolerances of logits, checks of weights, and computing in a wider dtype than the weights'."""

import copy
from collections.abc import Mapping
from functools import singledispatch
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, MismatchError, SourceError
from .outside_errors import few_of

# Largest difference allowed between two computations of the same logits, relative to the largest logit.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
QUERIES_AND_KEYS = ("_Q", "_K", "q_norm", "k_norm")  # in the names of what makes them
M = TypeVar("M", bound=nn.Module)


def check_finite_weights(weights: Mapping[str, Tensor], name: str) -> None:
    """Raise SourceError, naming the tensors, where weights are NaN or infinite."""
    if broken := [each for each, weight in weights.items() if weight.is_floating_point() and not _is_finite(weight)]:
        raise SourceError(
            f"finite weights in {name}",
            f"NaN or infinity in {few_of(broken)}",
            "its training diverged or its file is damaged (in float16: try another dtype); give another checkpoint",
        )


def _is_finite(weight: Tensor) -> bool:
    """Whether all values are finite, without a tensor of its size beside it, unless it is of 8 bits."""
    if not weight.numel():
        return True
    least, most = torch.aminmax(weight.half() if weight.itemsize == 1 else weight)
    return bool(least.isfinite() and most.isfinite())


@singledispatch
def check_dtype(model: Any) -> None:
    """Raise MismatchError where a model was cast by ``half()`` or ``double()``, which do not change its config."""
    if model.W_E.dtype != model.cfg.dtype:
        raise MismatchError(
            f"weights of {model.cfg.dtype}, as the model's config says", str(model.W_E.dtype),
            f"cast it with model.to({model.W_E.dtype}), which changes both, or load it with dtype=",
        )  # fmt: skip


@torch.no_grad()
@singledispatch
def check_attention(model: Any) -> None:
    """Raise ArgumentError where what makes a model's queries and keys is NaN or infinite.

    TransformerLens turns the patterns that follow from it into zeros, as if heads were ablated; any other such weight
    shows in the logits.
    """
    weights = [
        (f"blocks.{layer}.attn.{name}", weight)
        for layer, block in enumerate(model.blocks) for name, weight in block.attn.named_parameters()
        if any(part in name for part in QUERIES_AND_KEYS)
    ]  # fmt: skip
    sums = torch.stack([weight.sum(dtype=at_least_float32(weight.dtype)).to(model.W_E.device) for _, weight in weights])
    if broken := [name for (name, _), finite in zip(weights, sums.isfinite().tolist(), strict=True) if not finite]:
        raise ArgumentError(
            "a model with finite weights", f"NaN or infinity in {few_of(broken)}", "load it anew from its source"
        )


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums and comparisons: float32 for half precision, otherwise the same."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def in_dtype(module: M, dtype: torch.dtype) -> M:
    """The module, or a copy that computes in ``dtype`` with the same weights and rotary angles of that dtype."""
    cfg = getattr(module, "cfg", None)
    if cfg is None or cfg.dtype == dtype:
        return module
    weights = (*module.parameters(), *module.buffers())
    wide = copy.deepcopy(module, {id(weight): _widened(weight, dtype) for weight in weights})
    part: Any
    for part in wide.modules():
        if hasattr(part, "cfg"):
            part.cfg.dtype = dtype
        if hasattr(part, "rotary_cos"):
            part._extend_rotary_embeddings(len(part.rotary_cos))
    return wide


def _widened(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in ``dtype``; masks are unchanged."""
    if not weight.is_floating_point():
        return weight
    wide = weight.detach().to(dtype)
    return nn.Parameter(wide, requires_grad=False) if isinstance(weight, nn.Parameter) else wide
