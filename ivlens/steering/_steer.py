"""``with steer(...)``: a vector added to the residual stream, in forward passes, evaluations and generation."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import Index, checked
from ..errors import ArgumentError, brief
from ..models import Hooks, Model, attn_out_name, fork_layer, resid_post_name, resid_pre_name, this_pass
from ..records import check_finite
from ..vectors import InstructionVector, vector_values
from ..vocabulary import POSITIONS, Site, check_layer

Tokens = str | Index | Sequence[Index]
Vector = InstructionVector | Float[Tensor, " d_model"]
SITES = {"resid_pre": resid_pre_name, "resid_post": resid_post_name, "attn_out": attn_out_name}


class Steering(Hooks):
    """The context of ``steer``: what is ``added``, and the layer that the stream enters after it, for ``Forks``.

    ``forks_at`` is None where it is added elsewhere than to the stream at the last prompt token.
    """

    added: Float[Tensor, " d_model"]
    forks_at: int | None


@checked
def steer(
    model: Model,
    vector: Vector,
    layer: int,
    scale: float = 1.0,
    position: Tokens = "last",
    site: Site = "resid_pre",
) -> Steering:
    """Within this context, add ``scale`` times the vector to the residual stream at ``layer``; contexts add up.

    Every row of a batch is steered as its prompt would be alone: padding does not count. In a forward pass all tokens
    count as prompt; in ``model.generate``, which uses its key-value cache, generated tokens do not. The context may be
    entered again after it was left, and belongs to the thread that entered it.

    Args:
        model: the model to steer.
        vector: an instruction vector, or values of your own, [d_model].
        layer: the block at which the vector is added. A paper's layer whose *output* is steered (2310.15213, repeng) is
            ours with ``site="resid_post"``, or the next one.
        scale: factor of the vector.
        position: "last", the prompt's last token; "generated", that and every later token (answer tokens, steps of
            ``model.generate``); "all", all tokens; or indices into the prompt, negative ones from its end.
        site: "resid_pre", where the stream enters the block; "resid_post", where it leaves the block, which is where it
            enters the next one; or "attn_out", on what the block's attention adds (2502.11019).

    Returns:
        A context; the hook is removed on leaving, whatever happens.

    Raises:
        ArgumentError: a layer, scale, position or site that does not exist.
        MismatchError: a vector of another width, or computed on a model that it does not fit.
        HookError: on leaving, when no forward pass ran inside; in a pass, when padding cannot be distinguished from
            tokens, or another thread runs it.

    Example:
        >>> with iv.steer(model, vector, layer=1, scale=2.0):
        ...     steered = iv.evaluate(model, prompts)
        >>> steered.n
        4
    """
    _check_position(position)
    check_layer(model.cfg.n_layers, layer)
    added = scale * vector_values(model, vector)
    check_finite("values of the vector times scale", added)

    def edit(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        return stream + _steered_tokens(position, stream)[..., None] * added.to(stream)

    facts = {
        "steer": vector.task if isinstance(vector, InstructionVector) else "a tensor", "layer": layer, "scale": scale,
        "position": position if isinstance(position, (str, int)) else list(position), "site": site,
    }  # fmt: skip
    steering = Steering(model, {SITES[site](layer): edit}, facts, in_parts=True, at_last=position == "last")
    steering.added = added
    steering.forks_at = fork_layer(layer, site) if position == "last" and site != "attn_out" else None
    return steering


def _check_position(position: Tokens) -> None:
    if isinstance(position, str) and position not in POSITIONS:
        raise ArgumentError(f"position to be one of {', '.join(map(repr, POSITIONS))}, or indices", brief(position))
    if not isinstance(position, (str, int)) and not position:
        raise ArgumentError("position to be indices, one or more whole numbers", "none")


def _steered_tokens(position: Tokens, stream: Float[Tensor, "batch pos d_model"]) -> Bool[Tensor, "batch pos"]:
    """The tokens to steer, in a pass over whole prompts or one that continues them by a token."""
    at = torch.arange(stream.shape[1], device=stream.device).expand(stream.shape[:2])
    if position == "all":
        return at >= 0
    rows = this_pass(stream)
    if rows.continues:
        return at >= 0 if position == "generated" else at < 0
    last = rows.last[:, None]
    if isinstance(position, str):
        return at == last if position == "last" else at >= last
    number = rows.prompt.cumsum(1) - 1  # of each token in its prompt
    count = number[:, -1:] + 1
    nowhere = at < 0
    for index in [position] if isinstance(position, int) else position:
        target = count + index if index < 0 else torch.full_like(count, index)
        if (target < 0).any() or (target >= count).any():
            raise ArgumentError("position to lie within every prompt", f"index {index} for {int(count.min())} tokens")
        nowhere = nowhere | (rows.prompt & (number == target))
    return nowhere
