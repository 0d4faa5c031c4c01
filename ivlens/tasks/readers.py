"""Readers: from a file's text, or an object in memory, to rows.

A file's format is recognised by its content. To add one, write its reader and give it a row in ``READERS``.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import TaskError, brief, few
from .rows import Rows, known_columns

ABOUT = ("name", "kind", "instructions", "labels", "cloze")
PACKED = {
    b"\x1f\x8b": ("gzip", "unpack it first"),
    b"PK\x03\x04": ("zip", "unpack it first, or save a spreadsheet as CSV"),
    b"PAR1": ("Parquet", "pass the frame: load_task(pandas.read_parquet(...))"),
}


def read_text(path: Path) -> str:
    """The text of a file in UTF-8."""
    if path.is_char_device():  # /dev/zero never ends
        raise TaskError(f"{path} to be a file", "a device")
    data = path.read_bytes()
    for magic, (kind, advice) in PACKED.items():
        if data.startswith(magic):
            raise TaskError(f"{path} to be text in UTF-8", f"a {kind} file", advice)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} to be text in UTF-8", f"{error.reason} at byte {error.start}") from error


@dataclass(frozen=True)
class Parsed:
    """Rows with their locations, what their source says about the task, and notes for the user."""

    rows: Rows
    about: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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
            return _json(self.text)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{self.origin} to be JSON", f"{error}") from error


def parse(source: Source) -> Parsed:
    """The rows of a file, read by the first of the ``READERS`` that recognises it."""
    if not source.text.strip():
        raise TaskError(f"{source.origin} to hold a task", "an empty file")
    for read in READERS.values():
        if (parsed := read(source)) is not None:
            return parsed
    raise TaskError(f"{source.origin} to hold a list of rows", brief(source.payload))


def _read_table(source: Source) -> Parsed | None:
    other = source.suffix in (".json", ".jsonl") or source.text.lstrip()[0] in "[{"
    if other and source.suffix not in (".csv", ".tsv"):
        return None
    return Parsed(_table_rows(source.text, source.origin, source.suffix))


def _read_json_lines(source: Source) -> Parsed | None:
    numbers = enumerate(source.text.split("\n"), 1)
    lines = [(f"line {number} of {source.origin}", line) for number, line in numbers if line.strip()]
    return Parsed(_json_lines(lines)) if len(lines) > 1 and _is_object(lines[0][1]) else None


def _read_mapping(source: Source) -> Parsed | None:
    allowed = source.mapping and source.suffix != ".jsonl" and isinstance(source.payload, dict)
    return of_mapping(source.payload, source.origin) if allowed else None


def _read_natural_instructions(source: Source) -> Parsed | None:
    """Super-NaturalInstructions; its other fields describe how the task was made."""
    if not isinstance(source.payload, dict) or "Instances" not in source.payload:
        return None
    definition = source.payload.get("Definition")
    rows = _without_id(numbered(source.payload["Instances"], source.origin, "Instances"))
    return Parsed(rows, {} if definition is None else {"instructions": definition})


def _read_own(source: Source) -> Parsed | None:
    if not isinstance(source.payload, dict) or "examples" not in source.payload:
        return None
    about = {key: source.payload[key] for key in ABOUT if source.payload.get(key) is not None}
    others = [key for key in source.payload if key not in (*ABOUT, "examples")]
    notes = (f"fields of {source.origin} were not read: {few(map(brief, others))}",) if others else ()
    return Parsed(numbered(source.payload["examples"], source.origin, "examples"), about, notes)


def _read_rows(source: Source) -> Parsed | None:
    """A list of rows (function vectors' and TRACE's files), or a single row."""
    rows = [source.payload] if isinstance(source.payload, dict) else source.payload
    return Parsed(numbered(rows, source.origin)) if isinstance(rows, list) else None


# A file format is one row here: its reader returns None for files of another format. The first that does not, reads.
READERS: dict[str, Callable[[Source], Parsed | None]] = {
    "CSV, TSV": _read_table,
    "JSON lines": _read_json_lines,
    "{input: answer}": _read_mapping,
    "Super-NaturalInstructions": _read_natural_instructions,
    "ivlens": _read_own,
    "JSON rows": _read_rows,
}


def numbered(rows: Any, origin: str, key: str = "") -> Rows:
    """The rows of a list, a frame or a dataset with their locations, counted from 1."""
    what = f"field {key!r} of {origin}" if key else origin
    if isinstance(rows, pd.DataFrame):
        if not rows.columns.is_unique:
            raise TaskError(f"{what} to name every column once", few(map(brief, rows.columns)))
        rows = rows.to_dict("records")
    if isinstance(rows, (str, bytes, Mapping)) or not hasattr(rows, "__iter__") or getattr(rows, "shape", None) == ():
        came = f"a mapping of {few(rows)}" if isinstance(rows, Mapping) else brief(rows)
        raise TaskError(f"{what} to be a list of rows", came, "" if key else "pass one of its splits, or rows or pairs")
    return ((f"row {at} of {what}", row) for at, row in enumerate(rows, 1))


def of_mapping(mapping: dict[Any, Any], origin: str) -> Parsed | None:
    """The pairs of a mapping of inputs to answers, such as {word: translation}; None for other mappings.

    A mapping of fewer than three entries could also be a row.

    Raises: TaskError where it could be a table of columns by name.
    """
    texts = all(isinstance(each, (str, int, float)) for each in mapping.values())
    lists = all(isinstance(each, list) and each and isinstance(each[0], str) for each in mapping.values())
    if len(mapping) < 3 or not (texts or lists) or mapping.keys() <= {*ABOUT} or (lists and "examples" in mapping):
        return None
    columns = known_columns(mapping)
    if lists and columns:
        raise TaskError(f"{origin} to be a list of rows", f"columns {few(mapping)}", "pass rows, or a pandas.DataFrame")
    note = f"{origin} was read as {len(mapping):,} pairs, the words {columns} among them, not as one row"
    pairs = [(f"entry {brief(pair[0])} of {origin}", pair) for pair in mapping.items()]
    return Parsed(pairs, notes=(note,) if columns else ())


def _without_id(rows: Rows) -> Rows:
    for where, row in rows:
        yield where, {name: row[name] for name in row if name != "id"} if isinstance(row, Mapping) else row


def class_names(source: Any) -> dict[str, list[str]]:
    """The class names of those columns of a Hugging Face Dataset that hold class numbers."""
    features: Any = getattr(source, "features", None)
    if not isinstance(features, Mapping):
        return {}
    inner: dict[str, Any] = {name: getattr(each, "feature", each) for name, each in features.items()}
    return {name: each.names for name, each in inner.items() if hasattr(each, "int2str")}


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, or a ValueError where a name is repeated, since Python would keep only the last value."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{brief(name)} twice in one object")
        fields[name] = value
    return fields


def _is_object(line: str) -> bool:
    try:
        return isinstance(_json(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(lines: list[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    for where, line in lines:
        try:
            yield where, _json(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{where} to be JSON", f"{error}") from error


def _table_rows(text: str, origin: str, suffix: str) -> Iterator[tuple[str, Any]]:
    first = text.lstrip().partition("\n")[0]
    tabs = suffix == ".tsv" or (suffix != ".csv" and "\t" in first and "," not in first)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", skipinitialspace=True, strict=True
    )
    header: list[str] = []
    begins = 1
    try:
        for row in reader:
            where, begins = f"line {begins} of {origin}", reader.line_num + 1
            if not header:
                header = [name.strip() for name in row]
                if len(set(header)) < len(header):
                    raise TaskError(f"{where} to name every column once", few(header))
            elif row and len(row) != len(header):
                raise TaskError(f"{where} to have {len(header)} fields, as the header", str(len(row)))
            elif row:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise TaskError(f"line {begins} of {origin} to be CSV", str(error)) from error
