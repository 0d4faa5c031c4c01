"""Safetensors files and lines of JSON with a digest, so that damage is noticed.

Cached results carry a SHA-256 of their content and are not trusted without it.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import RecordError
from .files import check_there, write_atomically

HEADER, SEAL = "ivlens", "sha256"  # keys of a safetensors file's metadata: facts as JSON, and the digest of all
UNREADABLE = (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError, OSError)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write tensors and facts (as JSON) to one safetensors file with their digest, atomically.

    Raises:
        RecordError: see ``write_atomically``.
        TypeError: facts that JSON cannot represent.
    """
    header = json.dumps(facts)
    metadata = {HEADER: header, SEAL: _digest(header, tensors)}
    return write_atomically(path, lambda temporary: save_file(dict(tensors), temporary, metadata=metadata))


def load_tensors(path: str | Path, *, unsealed: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts that ``save_tensors`` wrote; with ``unsealed``, also of a file without a digest.

    Raises:
        RecordError: the file is missing, is another kind of file, or is damaged.
    """
    check_there(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (no view of it)
        facts = json.loads(metadata[HEADER])
        if not isinstance(facts, dict):
            raise ValueError(f"a header that holds a {type(facts).__name__}")
        if not (unsealed and set(metadata) == {HEADER}) and metadata[SEAL] != _digest(metadata[HEADER], tensors):
            raise ValueError("its digest differs: the file is damaged")
    except UNREADABLE as error:
        raise RecordError(f"{path} to be an ivlens record", f"an unreadable file ({error})") from error
    return tensors, facts


def stream_tensors(path: str | Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors that ``save_tensors`` wrote, one at a time in the order of their names; the digest is checked last.

    Raises:
        RecordError: see ``load_tensors``.
    """
    check_there(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            digest = sha256(metadata[HEADER].encode())
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name).clone()
                _add_to_digest(digest, name, tensor)
                yield name, tensor
        if digest.hexdigest() != metadata[SEAL]:
            raise ValueError("its digest differs: the file is damaged")
    except UNREADABLE as error:
        raise RecordError(f"{path} to be an ivlens record", f"an unreadable file ({error})") from error


def load_facts(path: str | Path) -> dict[str, Any]:
    """The facts of an ivlens file, without reading tensors or checking the digest; empty for other safetensors files.

    Raises:
        RecordError: the file is missing or cannot be read.
    """
    check_there(path)
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(HEADER, "{}"))
        if not isinstance(facts, dict):
            raise ValueError(f"a header that holds a {type(facts).__name__}")
    except UNREADABLE as error:
        raise RecordError(f"{path} to be an ivlens record", f"an unreadable file ({error})") from error
    return facts


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header and of all tensors' names, types, shapes and bytes."""
    digest = sha256(header.encode())
    for name in sorted(tensors):
        _add_to_digest(digest, name, tensors[name].detach())
    return digest.hexdigest()


def _add_to_digest(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    digest.update(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().data)


def seal(facts: Mapping[str, Any]) -> str:
    """The facts as one line of JSON that ends in their digest, for ``unseal``."""
    line = json.dumps(facts)
    return json.dumps({**facts, SEAL: sha256(line.encode()).hexdigest()[:16]})


def unseal(line: str | bytes) -> dict[str, Any] | None:
    """The facts in a line that ``seal`` made; None where it was changed or is something else."""
    try:
        facts = json.loads(line)
        expected = facts.pop(SEAL)
        return facts if sha256(json.dumps(facts).encode()).hexdigest()[:16] == expected else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
