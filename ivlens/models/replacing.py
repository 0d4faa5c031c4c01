"""One part of a model replaced at the last prompt token by plain hooks, on any model: the oracle of the sweeps."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from jaxtyping import Float
from torch import Tensor, nn

from ..vocabulary import ModelPart
from .engines import Model
from .head_weights import output_projection
from .hooks import hooked
from .parts import POINTS
from .passes import last_token


@contextmanager
def replaced(model: Model, part: ModelPart, value: Float[Tensor, " d"]) -> Iterator[None]:
    """Within this context ``part`` has another value at the last prompt token.

    Where what a head writes is replaced, its z becomes zero, and the value is added to what the output projection
    gives: so a norm after attention, which sees all heads together, sees it as it sees theirs.
    """
    kind, layer, head = part
    chosen = () if head is None else (head,)

    def edit(activation: Float[Tensor, "batch pos ..."]) -> Tensor:
        activation = activation.clone()
        activation[*last_token(activation), *chosen] = 0 if kind == "head" else value.to(activation)
        return activation

    written = _added(output_projection(model, layer), value) if kind == "head" else nullcontext()
    with hooked(model, {POINTS[kind](layer): edit}), written:
        yield


@contextmanager
def _added(module: nn.Module, value: Float[Tensor, " d_model"]) -> Iterator[None]:
    """Within this context ``value`` is added to what a module gives at the last prompt token."""

    def add(module: nn.Module, args: object, output: Float[Tensor, "batch pos d_model"]) -> Tensor:
        return output.index_put(last_token(output), value.to(output), accumulate=True)

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
