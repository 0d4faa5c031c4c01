"""``with steer(...)``: a vector added to the residual stream, in forward passes, evaluations and generation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import check_layer, checked
from ..errors import ArgumentError, one_of
from ..models import (
    HookedTransformer,
    attn_out_name,
    cached_passes,
    hooked,
    last_token,
    resid_pre_name,
)
from ..vectors import InstructionVector, vector_values

Position = str | int | Sequence[int]

POSITIONS = ("last", "every", "all")
SITES = {"block input": resid_pre_name, "attention output": attn_out_name}


@checked
@contextmanager
def steer(
    model: HookedTransformer,
    vector: InstructionVector | Float[Tensor, " d_model"],
    layer: int,
    scale: float = 1.0,
    position: Position = "last",
    site: str = "block input",
) -> Iterator[HookedTransformer]:
    """Within this context, add ``scale`` times the vector to the residual stream at ``layer``; contexts add up.

    ``position``: ``"last"``, the prompt's last token; ``"every"``, that and every token after it (answer tokens, steps
    of ``model.generate`` with its key-value cache); ``"all"``, all tokens; or indices into the prompt, negative
    ones from its end. ``site``: ``"block input"``, where the stream enters the block (2310.15213), or
    ``"attention output"``, on what its attention adds (2502.11019). The hook is removed on leaving, whatever happens.

    Raises:
        ArgumentError: a layer, scale, position or site that does not exist.
        MismatchError: a vector of another width, or computed on a model that it does not fit.
        HookError: on leaving, when no forward pass ran inside.
    """
    _check_position(position)
    one_of("site", site, tuple(SITES))
    check_layer(model.cfg.n_layers, layer)
    added = scale * vector_values(model, vector)

    with cached_passes(model, layer) as continuing:

        def edit(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
            return stream + _places(position, stream, continuing())[..., None] * added.to(stream)

        with hooked(model, {SITES[site](layer): edit}):
            yield model


def _check_position(position: Position) -> None:
    indices = [position] if isinstance(position, int) else position
    if isinstance(position, bool) or (isinstance(position, str) and position not in POSITIONS):
        raise ArgumentError(f"position to be one of {', '.join(map(repr, POSITIONS))}, or indices", repr(position))
    if not isinstance(indices, str) and not (indices and all(isinstance(index, int) for index in indices)):
        raise ArgumentError("position to be indices, one or more whole numbers", repr(position))


def _places(
    position: Position, stream: Float[Tensor, "batch pos d_model"], continuing: bool
) -> Bool[Tensor, "batch pos"]:
    """Where the vector is added, in a pass over whole prompts or in one that continues them by a token."""
    batch, length = stream.shape[:2]
    nowhere = torch.zeros(batch, length, dtype=torch.bool, device=stream.device)
    if position == "all" or (position == "every" and continuing):
        return ~nowhere
    if continuing:
        return nowhere
    last = last_token(stream)[1][:, None]
    at = torch.arange(length, device=stream.device)[None]
    if isinstance(position, str):
        return at == last if position == "last" else at >= last
    for index in [position] if isinstance(position, int) else position:
        place = last + 1 + index if index < 0 else torch.full_like(last, index)
        if (place < 0).any() or (place > last).any():
            raise ArgumentError(
                "position to lie within every prompt", f"index {index} for {int(last.min()) + 1} tokens"
            )
        nowhere |= at == place
    return nowhere
