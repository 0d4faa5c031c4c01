"""Hook names, hooks that are always removed, and where the last prompt token of each row is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
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


def attn_out_name(layer: int) -> str:
    """Hook point of what a block's attention adds to the residual stream: [batch, pos, d_model]."""
    return f"blocks.{layer}.hook_attn_out"


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


@contextmanager
def cached_passes(model: HookedTransformer, layer: int) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether the pass now running continues a prompt out of a key-value cache.

    TransformerLens' ``generate`` feeds the whole prompt first, then one token a pass.
    """
    continuing = False

    def look(block: nn.Module, args: Any, options: dict[str, Any]) -> None:
        nonlocal continuing
        cache = options.get("past_kv_cache_entry")
        continuing = cache is not None and cache.past_keys.shape[1] > 0

    handle = model.blocks[layer].register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield lambda: continuing
    finally:
        handle.remove()
