"""How many rows of streams fit into free memory."""

from functools import singledispatch
from typing import Any

import psutil
import torch

SHARE = 6  # streams take up to this part of the weights' memory,
LEAST = 64 << 20  # or these bytes, where a model is small


@singledispatch
def rows_that_fit(model: Any, longest: int, dtype: torch.dtype | None = None) -> int:
    """Rows of streams of prompts of up to ``longest`` tokens whose activations take a sixth of the weights' memory.

    Of small models they take ``LEAST`` bytes. They are also bounded by half of the free memory, next to a block widened
    to ``dtype``.
    """
    cfg = model.cfg
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    free = free_memory(torch.device(cfg.device or "cpu"))
    if dtype not in (None, cfg.dtype):
        free -= sum(parameter.numel() for parameter in model.blocks[0].parameters()) * dtype.itemsize
    room = min(max(weights // SHARE, LEAST), free // 2)
    projected = 2 * (cfg.n_heads + (cfg.n_key_value_heads or cfg.n_heads)) * cfg.d_head
    hidden = (4 if cfg.gated_mlp else 3) * (cfg.d_mlp or 0)
    scores = 3 * cfg.n_heads * longest  # of the prefix, with those of the stream's own tokens, and the pattern
    row = (6 * cfg.d_model + projected + hidden + scores) * (dtype or cfg.dtype).itemsize
    return max(2, room // row)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, or can be freed."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept
