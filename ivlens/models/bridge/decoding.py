"""Greedy decoding with a ``Bridge``, by Hugging Face's own key-value cache."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from ...errors import UnsupportedError
from ..decoding import NextLogits, start_decoding
from .model import Bridge, run_cached


@start_decoding.register(Bridge)
def _start_decoding(model: Bridge, batch: int) -> NextLogits:
    cache: Any = None

    def run(tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch all"]) -> Float[Tensor, "batch vocab"]:
        nonlocal cache
        output = run_cached(model, tokens, mask, cache)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise UnsupportedError("a model that gives its key-value cache", f"{model!r:.80}, which gives none")
        logits: Tensor = output.logits[:, -1]
        return logits.float() if logits.element_size() < 4 else logits

    return run
