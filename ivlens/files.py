"""Files and folders that are written completely or not at all, by one process at a time.

A file or folder is written beside its target, flushed to disk, and renamed over the target in one step: whenever the
process is killed or the power fails, the name holds the old content or the new one.
"""

import ctypes
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .errors import RecordError, reason

if sys.platform != "win32":
    import fcntl

LONGEST = 120  # bytes of a name; leaves room for suffixes within the 255 of file systems
UNFINISHED, ASIDE = ".ivlens-unfinished", ".ivlens-old"  # suffixes that only ivlens uses


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it over ``path`` in one step; return ``path``.

    A link stays; the file that it points to is replaced.

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
    """Write ``text`` to ``path`` as UTF-8, atomically; lone surrogates are escaped."""
    return write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    )


def _target(path: Path) -> tuple[Path, int | None]:
    """The file to replace, after following links, and its permissions if it exists."""
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


def check_there(path: str | Path) -> None:
    """Raise RecordError unless there is a file at ``path``."""
    try:
        found = Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise RecordError(f"a file at {path}", "no such file" if missing else reason(error)) from error
    if not stat.S_ISREG(found):
        raise RecordError(f"a file at {path}", _kind(found))


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to write to, and put it in place of ``target`` when the block ends without an error.

    On Linux and macOS the two folders are exchanged in one step. Where the file system cannot do that, the old folder
    has another name between two renames; if the process is killed there, the next call restores it. Unfinished folders
    of killed processes are removed. A reader that opens files one by one during the exchange may see some of each.
    """
    target = target.absolute()
    _tidy(target)
    unfinished = target.with_name(f".{target.name}.{uuid4().hex[:8]}{UNFINISHED}")
    unfinished.mkdir(parents=True)
    try:
        with in_use(unfinished):
            yield unfinished
            for path in (*unfinished.rglob("*"), unfinished):
                to_disk(path)
            _move_into_place(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Within this context ``remove_abandoned`` keeps the folder; it is released when the process is killed."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove the folders that no living process on this machine holds with ``in_use``; on Windows, none."""
    if sys.platform == "win32":
        return
    for folder in folders:
        with suppress(OSError):  # another user's, or one on a file system without locks
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _tidy(target: Path) -> None:
    """Undo what a killed process left beside ``target``."""
    if not target.parent.is_dir():
        return
    aside = _aside(target)
    if aside.exists() and not target.exists():
        aside.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
    beside = [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}.")]
    remove_abandoned(path for path in beside if path.name.endswith(UNFINISHED))


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}{ASIDE}")


def to_disk(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk, so that a power failure loses nothing."""
    if path.is_dir() and os.name != "posix":  # only POSIX can open a folder
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move_into_place(unfinished: Path, target: Path) -> None:
    """Rename a finished folder to its final name; the folder that had it gets the other name, or is removed."""
    if not target.exists():
        unfinished.rename(target)
    elif not _exchange(unfinished, target):
        aside = _aside(target)
        target.rename(aside)
        try:
            unfinished.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    to_disk(target.parent)


def _exchange(one: Path, two: Path) -> bool:
    """Exchange two paths in one step; False where the system cannot."""
    paths = os.fsencode(one), os.fsencode(two)
    if sys.platform == "darwin":
        return bool(ctypes.CDLL(None).renamex_np(*paths, 2) == 0)  # RENAME_SWAP
    if sys.platform == "linux" and hasattr(system := ctypes.CDLL(None), "renameat2"):
        here = -100  # AT_FDCWD
        return bool(system.renameat2(here, paths[0], here, paths[1], 2) == 0)  # RENAME_EXCHANGE
    return False


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Create the folder and lock it for this thread; other processes and threads are refused meanwhile.

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


def short_hash(value: object) -> str:
    """A short hash of the value's repr, for keys and names."""
    return sha256(repr(value).encode()).hexdigest()[:16]


def safe_name(name: str) -> str:
    """``name`` as a valid file name; an ordinary name is unchanged.

    Letters, digits and ``. _ + - =`` are kept, but no leading dot or hyphen; a changed name ends in ``~`` and a hash of
    the original, so that different names stay different.
    """
    kept = re.sub(r"[^\w.+=-]+", "-", name).strip(".-").encode("utf-8", "ignore")[:LONGEST].decode("utf-8", "ignore")
    if name and kept == name:
        return name
    return f"{kept or 'name'}~{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
