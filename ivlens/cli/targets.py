"""Outputs are tried before a verb measures anything."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ArgumentError
from ..text import visible


def check_targets(*files: Path) -> None:
    """Check that all ``files`` can be written, leaving no new folder behind.

    Raises: ArgumentError that names what cannot be written: no permission, or no regular file.
    """
    for file in files:
        if visible(str(file)) != str(file):
            raise ArgumentError("a path to write to without control characters, its name in UTF-8", str(file))
        with _named(file):
            other = "a folder" if file.is_dir() else "a device, pipe or socket" if _is_special(file) else ""
        if other:
            raise ArgumentError(f"a file to write at {file}", other, "choose another --out")
    for folder in dict.fromkeys(file.parent for file in files):
        with _named(folder):
            _write_in(folder)


def _is_special(file: Path) -> bool:
    return file.exists() and not file.is_file()


def _write_in(folder: Path) -> None:
    """Create the folder and a file in it, and remove both again."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn file system errors into one that names what could not be written."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ArgumentError(f"a path to write to at {path}", reason, "choose another --out") from error
