"""Readers of files: a format is recognised by its content. To add one, write its reader, and give it a row here."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..errors import TaskError, brief
from .documents import read_big_bench, read_examples, read_mapping, read_natural_instructions, read_squad
from .source import Parsed, Source, read_json
from .tables import numbered, read_table


def parse(source: Source) -> Parsed:
    """The rows of a file, read by the first of the ``READERS`` that recognises it."""
    if not source.text.strip():
        raise TaskError(f"{source.origin} to hold a task", "an empty file")
    for name, read in READERS.items():
        if (parsed := read(source)) is not None:
            return replace(parsed, name=parsed.name or name)
    raise TaskError(f"{source.origin} to hold a list of rows", brief(source.payload))


def _read_json_lines(source: Source) -> Parsed | None:
    """Two lines or more, the first of them an object."""
    lines = _lines(source.text)
    _, first = next(lines)
    if next(lines, None) is None or not _is_object(first):
        return None
    return Parsed(_json_lines(source.text, source.origin))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    start, number = 0, 0
    while start <= len(text):
        number += 1
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else len(text)]
        if line.strip():
            yield number, line
        if end < 0:
            return
        start = end + 1


def _json_lines(text: str, origin: str) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(text):
        where = f"line {number} of {origin}"
        try:
            yield where, read_json(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{where} to be JSON", f"{error}") from error


def _is_object(line: str) -> bool:
    try:
        return isinstance(read_json(line), dict)
    except (ValueError, RecursionError):
        return False


def _read_rows(source: Source) -> Parsed | None:
    """A list of rows (function vectors' and TRACE's files), or a single row."""
    rows = [source.payload] if isinstance(source.payload, dict) else source.payload
    return Parsed(numbered(rows, source.origin)) if isinstance(rows, list) else None


# A file format is one row here: its reader returns None for files of another format. The first that does not, reads.
# What the rows themselves look like, in any of them, is in ``row_formats``.
READERS: dict[str, Callable[[Source], Parsed | None]] = {
    "CSV": read_table,
    "JSON lines": _read_json_lines,
    "a mapping": read_mapping,
    "Super-NaturalInstructions": read_natural_instructions,
    "SQuAD": read_squad,
    "BIG-bench": read_big_bench,
    "a JSON object with examples": read_examples,
    "a JSON list": _read_rows,
}
