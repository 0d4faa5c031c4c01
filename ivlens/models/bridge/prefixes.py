"""Prompts run once into Hugging Face's own key-value cache, and what may follow them run from copies of its rows."""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...vocabulary import TokenizedPrompt
from ..attached import has_hooks
from ..hooks import hooked
from ..points import resid_post_name
from ..precision import TOLERANCE
from ..prefixes import Prefixes, run_after, run_prefixes, run_prompts, run_tails, shares_prefixes
from ..runs import answer_residual, final_logits, padded
from .model import Bridge, run_cached
from .trial import TEXT, furthest


@shares_prefixes.register(Bridge)
def _shares_prefixes(model: Bridge) -> bool:
    tried = "shares_prefixes" in vars(model)
    return (tried or not has_hooks(model)) and model.shares_prefixes  # what is tried is the model's own


@run_prefixes.register(Bridge)
def _run_prefixes(model: Bridge, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]) -> Prefixes:
    residual, cache = _run(model, tokens, mask, None)
    return Prefixes(mask, residual[:, -1], cache)


@run_tails.register(Bridge)
def _run_tails(
    model: Bridge,
    prefixes: Prefixes,
    owners: Int[Tensor, " row"],
    tokens: Int[Tensor, "row width"],
    mask: Int[Tensor, "row width"],
) -> Float[Tensor, "row width d_model"]:
    return _run(model, tokens, torch.cat([prefixes.mask[owners], mask], 1), _rows_of(prefixes.cache, owners))[0]


def _run(
    model: Bridge, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch cached_and_pos"], cache: Any
) -> tuple[Float[Tensor, "batch pos d_model"], Any]:
    """The final residual streams of tokens after what is cached, and the cache with both."""
    found: list[Tensor] = []
    with hooked(model, {resid_post_name(model.cfg.n_layers - 1): found.append}):
        output = run_cached(model, tokens, mask, cache)
    return found[0], output.past_key_values


def _rows_of(cache: Any, owners: Int[Tensor, " row"]) -> Any:
    """A cache with a row for each of ``owners``, the rows of another one, which stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [_copied(layer) for layer in cache.layers]
    chosen.reorder_cache(owners)
    return chosen


def _copied(layer: Any) -> Any:
    """A copy of what a layer has cached, whose tensors and tables of tensors can be replaced."""
    copied = copy.copy(layer)
    vars(copied).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
    return copied


@torch.no_grad()
def try_prefixes(bridge: Bridge) -> bool:
    """Whether two prompts of unlike length and what follows them give in two passes what they give in one."""
    tokens = tuple(bridge.to_tokens(TEXT)[0].tolist())
    half = len(tokens) // 2
    prompts, tails = [tokens[:-2], tokens[:half]], [tokens[-2:], tokens[:1], tokens[half : half + 3]]
    owners = [0, 0, 1]
    pairs = [TokenizedPrompt(prompts[owner], (*tail, 0)) for owner, tail in zip(owners, tails, strict=True)]
    whole = final_logits(bridge, answer_residual(bridge, padded(pairs, bridge.cfg.device)))
    try:
        prefixes = run_prompts(bridge, prompts)
        after = run_after(bridge, prefixes, owners, tails)
    except Exception:  # whatever a model's code does with a cache that it does not know in this way
        return False
    rows = [torch.cat([prefixes.last[owner][None], row]) for owner, row in zip(owners, after, strict=True)]
    difference, size = furthest(final_logits(bridge, torch.cat(rows)), whole)
    return difference <= TOLERANCE[bridge.cfg.dtype] * max(1.0, size)
