"""Memory layout of weights: the same parameters, stored so that TransformerLens' per-call transposes are views.

TransformerLens copies its transposed weights to contiguous memory at each call. If they are stored transposed, no copy
is made: shapes and values stay, the forward pass gets faster (``figures/benchmark/sweep.py``).
"""

import mmap
import sys

import torch
from torch import Tensor
from transformer_lens import HookedTransformer


def store_transposed(model: HookedTransformer) -> None:
    """Change, in place, the memory layout of every weight that TransformerLens transposes at each call."""
    for block in model.blocks:
        attention = block.attn
        for name in ("W_Q", "_W_K", "_W_V") if hasattr(attention, "_W_K") else ("W_Q", "W_K", "W_V"):
            _store(getattr(attention, name), (0, 2, 1))  # (head d_head) d_model
        _store(attention.W_O, (2, 0, 1))  # d_model (head d_head)
        for name in ("W_in", "W_out", "W_gate"):
            if hasattr(block.mlp, name):
                _store(getattr(block.mlp, name), (1, 0))
    _store(model.unembed.W_U, (1, 0))


@torch.no_grad()
def _store(weight: Tensor, order: tuple[int, ...]) -> None:
    """Make ``weight.permute(order)`` contiguous without changing shape or values of ``weight``."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    weight.data = weight.data.permute(order).contiguous().permute(inverse)


@torch.no_grad()
def copy_from_file(model: torch.nn.Module) -> None:
    """Give every weight its own memory, in place.

    transformers maps a checkpoint's file into memory (on Windows it reads it): overwriting the file would change the
    weights whose hash is recorded, and truncating it would crash the process. The memory comes from the system
    directly, so that it is returned when the model is freed; malloc may keep blocks of this size.
    """
    if sys.platform == "win32":
        return
    for weight in model.parameters():
        if weight.numel():
            memory = mmap.mmap(-1, weight.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            weight.data = torch.frombuffer(memory, dtype=weight.dtype).view(weight.shape).copy_(weight)
