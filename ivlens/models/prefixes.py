"""Prompts run once into a key-value cache, and what may follow them run from there.

Prompts are padded on the left, so that in the cache, too, a token's distance to another is that in its text, as sliding
windows and ALiBi need it. What follows is padded on the right. The numbers are those of one pass over a prompt with
what follows it, up to rounding; edits of activations that are active must allow it (``hooks.runs_in_parts``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..vocabulary import Ids
from .passes import after_prompts
from .runs import overflow_shown, padded_ids


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Prompts that were run: which tokens are no padding, the final residual stream of each last token, the cache."""

    mask: Int[Tensor, "prompt pos"]
    last: Float[Tensor, "prompt d_model"]
    cache: Any


def run_prompts(model: Any, prompts: Sequence[Ids]) -> Prefixes:
    """Run prompts, once each."""
    tokens, mask = padded_ids(prompts, model.cfg.device, left=True)
    return run_prefixes(model, tokens, mask)


def run_after(
    model: Any, prefixes: Prefixes, owners: Sequence[int], tails: Sequence[Ids]
) -> list[Float[Tensor, "tail d_model"]]:
    """Final residual streams of ``tails``, each of which follows the prompt whose number is in ``owners``."""
    tokens, mask = padded_ids(tails, model.cfg.device)
    with after_prompts():
        residual = run_tails(model, prefixes, torch.tensor(owners, device=mask.device), tokens, mask)
    return [row[: len(tail)] for row, tail in zip(residual, tails, strict=True)]


@singledispatch
def shares_prefixes(model: Any) -> bool:
    """Whether the model gives the same for a prompt with what follows it in one pass and in two."""
    cfg = model.cfg
    known = cfg.positional_embedding_type in ("rotary", "standard", "alibi") and cfg.attention_dir == "causal"
    return known and not (cfg.use_dynamic_ntk_rope or cfg.use_logn_attn or cfg.num_experts)


@singledispatch
def run_prefixes(model: Any, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]) -> Prefixes:
    """Run prompts that are padded on the left."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, len(tokens))
    with overflow_shown(model, mask):
        residual = model(tokens, attention_mask=mask, past_kv_cache=cache, stop_at_layer=model.cfg.n_layers)
    return Prefixes(mask, residual[:, -1], cache)


@singledispatch
def run_tails(
    model: Any,
    prefixes: Prefixes,
    owners: Int[Tensor, " row"],
    tokens: Int[Tensor, "row width"],
    mask: Int[Tensor, "row width"],
) -> Float[Tensor, "row width d_model"]:
    """Final residual streams of rows that follow prompts, the numbers of which are ``owners``; the cache is kept."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
    from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry

    entries = [
        TransformerLensKeyValueCacheEntry(
            entry.past_keys[owners.to(entry.past_keys.device)],
            entry.past_values[owners.to(entry.past_values.device)],
            frozen=True,
        )
        for entry in prefixes.cache.entries
    ]
    cache = TransformerLensKeyValueCache(entries, prefixes.mask[owners], frozen=True)
    with overflow_shown(model, mask):
        residual: Tensor = model(tokens, attention_mask=mask, past_kv_cache=cache, stop_at_layer=model.cfg.n_layers)
    return residual
