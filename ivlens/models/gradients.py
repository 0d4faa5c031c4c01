"""Gradients: trainable weights, computing with the base weights, recomputing blocks in the backward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformer_lens import HookedTransformer

from ..errors import UnsupportedError
from .hooks import thread_of_pass
from .lora import has_lora, lora_off


@contextmanager
def base_weights(model: HookedTransformer, anchors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context, without gradients, the model computes with its initial weights.

    With LoRA the updates are switched off; otherwise the parameters named in ``anchors`` point to those tensors.
    """
    if has_lora(model):
        with lora_off(model), torch.no_grad():
            yield
        return
    parameters = dict(model.named_parameters())
    trained = {name: parameters[name].data for name in anchors}
    try:
        for name, anchor in anchors.items():
            parameters[name].data = anchor
        with torch.no_grad():
            yield
    finally:
        for name, values in trained.items():
            parameters[name].data = values


@contextmanager
def only_trainable(model: HookedTransformer, names: set[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Within this context only the named parameters require gradients; yield them, with earlier gradients cleared."""
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
        parameter.grad = None
    try:
        yield [(name, parameter) for name, parameter in model.named_parameters() if name in names]
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before.get(name, True))
            parameter.grad = None


@contextmanager
def differentiable(model: HookedTransformer) -> Iterator[None]:
    """Within this context gradients flow through activations but not to parameters, whatever torch's mode outside.

    Raises:
        UnsupportedError: weights or buffers that were made in inference mode, which autograd cannot use.
    """
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise UnsupportedError(
            "a model that autograd can use", "weights or buffers made in torch.inference_mode", "make them outside it"
        )
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def checkpointed(model: HookedTransformer) -> Iterator[None]:
    """Within this context blocks keep only their inputs and are recomputed in the backward pass, hooks included."""
    for block in model.blocks:
        vars(block)["forward"] = _recomputed(block.forward)
    try:
        yield
    finally:
        for block in model.blocks:
            del vars(block)["forward"]


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(residual: Tensor, *args: Any, **options: Any) -> Tensor:
        context = copy_context()  # hooks can then find their pass also when autograd's thread runs them again
        context.run(thread_of_pass.set, get_ident())
        return checkpoint(partial(context.run, forward, **options), residual, *args, use_reentrant=False)

    return run
