"""Greedy decoding with a ``Bridge``, by Hugging Face's own key-value cache."""

import inspect
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from ...errors import UnsupportedError
from ..decoding import NextLogits, start_decoding
from .model import Bridge


@start_decoding.register(Bridge)
def _start_decoding(model: Bridge, batch: int) -> NextLogits:
    cache: Any = None
    placed = "position_ids" in inspect.signature(type(model.hugging_face).forward).parameters

    def run(tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch all"]) -> Float[Tensor, "batch vocab"]:
        nonlocal cache
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        if placed:  # a row's own, from 0 at its first token that is no padding
            options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = model.run(tokens, mask, **options)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise UnsupportedError("a model that gives its key-value cache", f"{model!r:.80}, which gives none")
        logits: Tensor = output.logits[:, -1]
        return logits.float() if logits.element_size() < 4 else logits

    return run
