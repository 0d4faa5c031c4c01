"""Sums over tensors' memory, by which a change of a model is noticed much faster than by hashing it."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache

import torch
from torch import Tensor

SMALL = 1024  # elements up to which tensors are summed together
WORD = 8  # bytes of the integers that are summed,
ROW, ROWS_AT_ONCE = 1 << 15, 16  # in blocks of 2 MB, which the second sum finds in the processor's cache


def memory_sums(tensors: Iterable[Tensor]) -> list[bytes]:
    """Hashes of the sums over the tensors' elements in memory; any change of an element, or of their order, shows."""
    return [_sums(flat) for flat in _in_memory(tensors)]


def _in_memory(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """All elements in memory order: each large tensor's, then those of small ones together, which is much faster."""
    small: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        flat = tensor.detach().permute(order).contiguous().flatten()
        if len(flat) > SMALL:
            yield flat
        else:
            small.setdefault((flat.dtype, flat.device), []).append(flat)
    yield from map(torch.cat, small.values())


def _sums(flat: Tensor) -> bytes:
    """A hash of the sums of rows of memory, of the elements' bits and of the elements weighted by position.

    No change of an element is too small for the sums of bits, which are integers, nor does rounding change them. The
    weighted sums notice what these cannot: elements that changed their order or their sign.
    """
    if lacking := -flat.nbytes % WORD:
        flat = torch.cat([flat, flat.new_zeros(lacking // flat.itemsize)])
    if flat.storage_offset() * flat.itemsize % WORD:
        flat = flat.clone()
    whole = len(flat) - len(flat) % ROW
    parts = [*flat[:whole].view(-1, ROW).split(ROWS_AT_ONCE), flat[whole:][None]]
    dtype = torch.float64 if flat.dtype == torch.float64 else torch.float32
    weights = _weights(dtype, flat.device)
    sums = []
    for part in parts:
        sums += [(part.to(dtype) @ weights[: part.shape[1]]).double().view(torch.int64), part.view(torch.int64).sum(1)]
    return hashlib.sha256(torch.cat(sums).cpu().numpy().data).digest()


@cache
def _weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    """From 1 to 2 and in no order, so that no regular change of a weight cancels in its weighted sums."""
    return (1 + torch.rand(ROW, generator=torch.Generator().manual_seed(0), dtype=dtype)).to(device)
