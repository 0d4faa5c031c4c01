"""A source of rows: a file, unpacked and decoded, or an object in memory; and what is read from it."""

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import TaskError, brief
from .row_formats import RowFormat

Rows = Iterable[tuple[str, Any]]  # location and row

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Source:
    """A file's text, its name in messages, and its suffix; ``mapping`` allows {input: answer}."""

    text: str
    origin: str
    suffix: str
    mapping: bool

    @cached_property
    def payload(self) -> Any:
        """The text parsed as JSON.

        Raises:
            TaskError: the text is not JSON.
        """
        try:
            return read_json(self.text)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{self.origin} to be JSON", f"{error}") from error


@dataclass(frozen=True)
class Parsed:
    """Rows with their locations, what their source says about the task, and notes for the user.

    ``name`` is the format, "" for rows in memory. ``rows_format`` is the rows' own; None: the one that the first row
    fits. ``classes`` are class names of columns with class numbers, and ``demonstrations`` further rows, which are no
    queries.
    """

    rows: Rows
    about: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows_format: RowFormat | None = None
    classes: dict[str, list[str]] = field(default_factory=dict)
    demonstrations: Rows = ()
    name: str = ""


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is packed with gzip."""
    if path.is_char_device():  # /dev/zero never ends
        raise TaskError(f"{path} to be a file", "a device")
    data = path.read_bytes()
    if data.startswith(ZIP):
        raise TaskError(f"{path} to be text in UTF-8", "a zip file", "unpack it first, or save a spreadsheet as CSV")
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} to be a whole gzip file", f"{error}") from error


def decoded(data: bytes, path: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} to be text in UTF-8", f"{error.reason} at byte {error.start}") from error


def read_json(text: str) -> Any:
    """The value of a JSON text, or a ValueError; a name that is repeated in an object is one, too."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, or a ValueError where a name is repeated, since Python would keep only the last value."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{brief(name)} twice in one object")
        fields[name] = value
    return fields
