"""Where weights lie in memory: stored so that TransformerLens' per-call transposes are views, and not in a file.

TransformerLens copies its transposed weights to contiguous memory at each call. If they are stored transposed, no copy
is made: shapes and values stay, the forward pass gets faster (``figures/benchmark/sweep.py``).

transformers maps a checkpoint's file into memory (on Windows it reads it): overwriting the file would change the
weights whose hash is recorded, and truncating it would crash the process. So mapped weights are copied, one by one, and
each one's pages of the file are given back, so that the file and the copy are never in memory as a whole.
"""

import ctypes
import mmap
import sys
from pathlib import Path

import torch
from torch import Tensor

from .engines import HookedTransformer


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
    """Give every weight that is mapped from a file its own memory, in place."""
    files = _file_maps()
    for weight in model.parameters():
        if weight.numel() and (files is None or _is_mapped(weight, files)):
            mapped, weight.data = weight.data, _own_copy(weight, weight.dtype)
            _give_back(mapped, files)


@torch.no_grad()
def copy_weights(model: torch.nn.Module, source: torch.nn.Module) -> None:
    """Fill a model with the weights and buffers of another one of its class, in its own dtype and memory.

    A buffer that follows the model's dtype, and is not saved, stays as it was computed in that dtype.
    """
    files, saved = _file_maps(), source.state_dict().keys()
    for ours, theirs in zip(model.parameters(), source.parameters(), strict=True):
        if theirs.numel():
            ours.data = _own_copy(theirs, ours.dtype)
            _give_back(theirs, files)
    for name, buffer in source.named_buffers():
        own = model.get_buffer(name)
        if name in saved or (buffer.ndim and buffer.dtype == own.dtype):
            own.copy_(buffer)


def _own_copy(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in memory of the system, which gets it back with the model; malloc may keep blocks of this size."""
    if sys.platform == "win32":
        return weight.detach().to(dtype, copy=True)
    size = weight.numel() * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(weight.shape).copy_(weight.detach())


def _file_maps() -> list[range] | None:
    """The addresses of this process that are mapped from files; None where the system does not tell."""
    listing = Path("/proc/self/maps")
    if not listing.exists():
        return [] if sys.platform == "win32" else None
    found = []
    for line in listing.read_text(errors="replace").splitlines():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            start, end = addresses.split("-")
            found.append(range(int(start, 16), int(end, 16)))
    return found


def _is_mapped(weight: Tensor, files: list[range]) -> bool:
    return any(weight.data_ptr() in addresses for addresses in files)


def _give_back(weight: Tensor, files: list[range] | None) -> None:
    """Let the system drop the pages of a weight that is mapped from a file: read again, they come from the file."""
    if not files or not weight.is_contiguous() or not _is_mapped(weight, files):
        return
    page, address = mmap.PAGESIZE, weight.data_ptr()
    first, last = (address + page - 1) // page * page, (address + weight.nbytes) // page * page
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
