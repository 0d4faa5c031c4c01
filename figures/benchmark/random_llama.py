"""A Llama with random weights of any shape, with SmolLM2's vocabulary."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig

import ivlens as iv
from ivlens.models.facts import stamp
from ivlens.models.families import hooked_config
from ivlens.models.loading import attach_tokenizer, without_weights
from ivlens.models.weight_memory import store_transposed


def random_llama(
    tokenizer: Any, shape: Mapping[str, int], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
    *, seed: int = 0,
) -> Any:  # fmt: skip
    """Built here, since loading one holds Hugging Face's model beside ours for a while; ``shape`` is of its config.

    Weights are drawn where they stay, and named by their seed: on a GPU, drawing 7 billion on the CPU or hashing them
    would take longer than all that is measured.
    """
    device = torch.device(device)
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), tie_word_embeddings=False, **shape)
    with device:
        model = without_weights(hooked_config(config, dtype=dtype, device=str(device)))
    random = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".W_" in name or "._W_" in name:
                weight.normal_(0, config.initializer_range, generator=random)
            else:
                weight.fill_(float(name.endswith(".w")))  # the norms' gains; biases
    store_transposed(model)
    attach_tokenizer(model, tokenizer)
    named = f"random, seed {seed} of {device.type}"
    stamp(model, source="random weights", revision=None, adapter=None, weights=named)
    return iv.load_model(model, device=device)
