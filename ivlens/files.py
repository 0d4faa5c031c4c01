"""Files that are whole or not there, that say when they are damaged, and that one process at a time works on.

A file is written beside its target, brought to the disk, and moved over the target in one step, so that a power cut
leaves the old one or the new one. Kept work carries a SHA-256 of what it holds, without which it is not believed.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import RecordError, reason
from .folders import to_disk

HEADER, SEAL = "ivlens", "sha256"  # keys of a safetensors file's metadata: facts as JSON, and the digest of all
LONGEST = 120  # bytes of a name, which leaves room for suffixes in the 255 that file systems allow
UNREADABLE = (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError, OSError)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it over ``path`` in one step; return ``path``.

    A link stays, and the file that it leads to is replaced.

    Raises:
        RecordError: ``path`` is a folder, device, FIFO or socket, or it cannot be written (a full disk).
    """
    path = Path(path)
    target, mode = _target(path)
    temporary = target.with_name(f".{target.name[:40]}.{uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(made).st_mode) if mode is None else mode
        os.close(made)
    except (OSError, ValueError) as error:
        raise RecordError(f"to write {path}", reason(error), "choose a folder to write to") from error
    try:
        write(temporary)
        temporary.chmod(mode)
        to_disk(temporary)
        temporary.replace(target)
        to_disk(target.parent)
    except (OSError, SafetensorError) as error:
        raise RecordError(f"to write {path}", reason(error), "make room for it") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` to ``path`` as UTF-8, atomically; halves of surrogate pairs, which UTF-8 lacks, as escapes."""
    return write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    )


def _target(path: Path) -> tuple[Path, int | None]:
    """The file that is to be replaced, links followed, and its permissions if it is there."""
    try:
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        found = path.stat().st_mode
    except FileNotFoundError:
        return target, None
    except (OSError, ValueError) as error:
        raise RecordError(f"to write {path}", reason(error), "choose a folder to write to") from error
    if not stat.S_ISREG(found):
        raise RecordError(f"a file to write at {path}", _kind(found), "choose another name")
    return target, stat.S_IMODE(found)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write tensors and facts (as JSON) to one safetensors file with their digest, atomically.

    Raises:
        RecordError: see ``write_atomically``.
        TypeError: facts that JSON does not know.
    """
    header = json.dumps(facts)
    metadata = {HEADER: header, SEAL: _digest(header, tensors)}
    return write_atomically(path, lambda temporary: save_file(dict(tensors), temporary, metadata=metadata))


def load_tensors(path: str | Path, *, unsealed: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts that ``save_tensors`` wrote; with ``unsealed`` also those of a file that has no digest.

    Raises:
        RecordError: the file is missing, is another kind of file, or is damaged.
    """
    _check_there(path)
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


def load_facts(path: str | Path) -> dict[str, Any]:
    """The facts of a safetensors file of ours, its tensors unread and its digest unchecked; none of another's file.

    Raises:
        RecordError: the file is missing or cannot be read.
    """
    _check_there(path)
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(HEADER, "{}"))
        if not isinstance(facts, dict):
            raise ValueError(f"a header that holds a {type(facts).__name__}")
    except UNREADABLE as error:
        raise RecordError(f"{path} to be an ivlens record", f"an unreadable file ({error})") from error
    return facts


def _check_there(path: str | Path) -> None:
    try:
        found = Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise RecordError(f"a file at {path}", "no such file" if missing else reason(error)) from error
    if not stat.S_ISREG(found):
        raise RecordError(f"a file at {path}", _kind(found))


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header and of all tensors' names, types, shapes and bytes."""
    digest = sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def seal(facts: Mapping[str, Any]) -> str:
    """The facts as one line of JSON that ends in a digest of them, for ``unseal``."""
    line = json.dumps(facts)
    return json.dumps({**facts, SEAL: sha256(line.encode()).hexdigest()[:16]})


def unseal(line: str | bytes) -> dict[str, Any] | None:
    """The facts that ``seal`` made the line of; None where a byte of it has changed, or it is something else."""
    try:
        facts = json.loads(line)
        expected = facts.pop(SEAL)
        return facts if sha256(json.dumps(facts).encode()).hexdigest()[:16] == expected else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Within this context a folder, which is made, is this thread's alone; another process that asks is refused.

    Raises:
        RecordError: another process, or another thread of this one, holds it, or it cannot be written to.
    """
    folder = Path(folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise RecordError(
            f"a folder that no one else works in, for {folder}", "one in which another process is at work",
            "wait until it has ended, or choose another folder",
        ) from error  # fmt: skip
    except (OSError, ValueError) as error:
        raise RecordError(f"to write into {folder}", reason(error), "choose a folder to write to") from error
    try:
        yield
    finally:
        lock.release()


def safe_name(name: str) -> str:
    """``name`` as the name of one file in one folder; an ordinary name stays as it is.

    Letters, digits and ``. _ + - =`` are kept, but no leading dot or hyphen; a name that had to be changed ends in
    ``~`` and a hash of the whole of it, so that different names stay different.
    """
    kept = re.sub(r"[^\w.+=-]+", "-", name).strip(".-").encode("utf-8", "ignore")[:LONGEST].decode("utf-8", "ignore")
    if name and kept == name:
        return name
    return f"{kept or 'name'}~{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
