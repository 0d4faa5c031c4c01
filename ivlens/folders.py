"""Folders written as a whole: whenever the process is killed, the old content or the new has the name, on disk too."""

import ctypes
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

UNFINISHED, ASIDE = ".ivlens-unfinished", ".ivlens-old"  # ends of names that nobody else gives


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to write to, and put it in place of ``target`` when the block ends without an error.

    On Linux and macOS the two change their names in one step. Where the file system cannot do that, the old folder
    has another name for the moment between two renames; after a kill in it, the next call brings the old one back.
    Folders that killed processes left unfinished are removed. Someone who reads file by file while the folder is
    replaced can get some of each.
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
    """Within this context ``remove_abandoned`` spares the folder; a killed process has left the context."""
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
    """Remove those of the folders that no living process of this machine has ``in_use``; on Windows none."""
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
    """Have the system write a file, or a folder's list of names, to the disk: a power cut after that loses nothing."""
    if path.is_dir() and os.name != "posix":  # only there can a folder be opened
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move_into_place(unfinished: Path, target: Path) -> None:
    """Give a finished folder its name; what had the name before is then under the other, or removed."""
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
    """Let two paths change places in one step; False where the system cannot."""
    paths = os.fsencode(one), os.fsencode(two)
    if sys.platform == "darwin":
        return bool(ctypes.CDLL(None).renamex_np(*paths, 2) == 0)  # RENAME_SWAP
    if sys.platform == "linux" and hasattr(system := ctypes.CDLL(None), "renameat2"):
        here = -100  # AT_FDCWD
        return bool(system.renameat2(here, paths[0], here, paths[1], 2) == 0)  # RENAME_EXCHANGE
    return False
