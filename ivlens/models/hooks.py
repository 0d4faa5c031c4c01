"""Hook names, hooks that are always removed, and where the last prompt token of each row is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from ..errors import HookError

Edit = Callable[[Tensor], Tensor | None]

_last_positions: ContextVar[Int[Tensor, " batch"] | None] = ContextVar("last_positions", default=None)


def z_name(layer: int) -> str:
    """Hook point of the heads' outputs before W_O: [batch, pos, head, d_head]."""
    return f"blocks.{layer}.attn.hook_z"


def resid_pre_name(layer: int) -> str:
    """Hook point of the residual stream entering a block: [batch, pos, d_model]."""
    return f"blocks.{layer}.hook_resid_pre"


def pattern_name(layer: int) -> str:
    """Hook point of the attention patterns: [batch, head, query, key]."""
    return f"blocks.{layer}.attn.hook_pattern"


@contextmanager
def last_prompt_tokens(positions: Int[Tensor, " batch"]) -> Iterator[None]:
    """Within this context, ``last_token`` finds row i's last prompt token at ``positions[i]``."""
    token = _last_positions.set(positions)
    try:
        yield
    finally:
        _last_positions.reset(token)


def last_token(activation: Float[Tensor, "batch pos ..."]) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Index of each row's last prompt token in an activation; outside ``last_prompt_tokens``, the last position."""
    batch, length = activation.shape[:2]
    positions = _last_positions.get()
    if positions is None:
        positions = torch.full((batch,), length - 1)
    return torch.arange(batch, device=activation.device), positions.to(activation.device)


@contextmanager
def hooked(model: HookedTransformer, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Run with ``edits`` at the named hook points; always removed, and an error if one of them never ran.

    Raises:
        HookError: on leaving without an exception, naming the hook points that no forward pass reached.
    """
    unknown = [name for name in edits if name not in model.hook_dict]
    if unknown:
        raise HookError("names of hook points of the model", ", ".join(unknown), "model.hook_dict lists them")
    ran: set[str] = set()

    def run(edit: Edit) -> Callable[[Tensor, HookPoint], Tensor | None]:
        def hook_fn(activation: Tensor, hook: HookPoint) -> Tensor | None:
            ran.add(str(hook.name))
            return edit(activation)

        return hook_fn

    with model.hooks(fwd_hooks=[(name, run(edit)) for name, edit in edits.items()]):
        yield
    never = [name for name in edits if name not in ran]
    if never:
        raise HookError(
            f"a forward pass through {', '.join(never)}", "none inside the with block", "run the model inside it"
        )
