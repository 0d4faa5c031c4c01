"""Tasks from their built-in names, from files, and from rows; a file's format is recognised by its content."""

import csv
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from ..checks import checked
from ..errors import ArgumentError, TaskError
from .builtin import list_tasks, read_builtin
from .examples import Example, as_text
from .task import Task

Columns = Sequence[str]
Rows = Iterable[tuple[str, Any]]

TRACE = ("prompt", "answer")
COLUMNS: tuple[Columns, ...] = (("input", "output"), TRACE, ("question", "answer"))
ABOUT = ("name", "kind", "instructions", "labels", "cloze")


@checked
def load_task(
    source: Any,
    *,
    name: str | None = None,
    instructions: str | list[str] | tuple[str, ...] | None = None,
    labels: Columns | None = None,
    cloze: str | None = None,
    fields: Sequence[str] | None = None,
) -> Task:
    """A built-in task by its name, or a task from a file or from rows: a list of dicts or a Hugging Face Dataset.

    Files: ivlens' own JSON, JSON lists of ``{"input", "output"}`` (function vectors), Super-NaturalInstructions, TRACE
    (``{"prompt", "answer"}``; rows with an empty answer are skipped with a warning), JSON lines, and CSV with a header.
    ``fields`` names the columns of the input and of the answers where they are called something else. Several answers
    to one input are all accepted. The other options replace what the source says.

    Raises: TaskError that names the file, the row or line, and the field where something is missing or malformed;
    ArgumentError where ``fields`` is not two names.
    """
    if fields is not None and len(fields) != 2:
        raise ArgumentError("fields to be the names of two columns, of the input and of the answers", repr(fields))
    options = {"name": name, "instructions": instructions, "labels": labels, "cloze": cloze}
    given: dict[str, Any] = {field: value for field, value in options.items() if value is not None}
    if isinstance(source, str) and source in list_tasks():
        return replace(Task(**read_builtin(source), source="ivlens"), **given)
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        origin, called = str(path), path.stem
        about, rows = _parse(_read(source, path), origin, path.suffix.lower())
    else:
        origin, called = "the rows given", "custom"
        about, rows = {}, _numbered(source, origin)
    return Task(**{"name": called, **about, **given}, examples=_examples(rows, fields, origin), source=origin)


def _read(source: str | Path, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        close = get_close_matches(str(source), list_tasks(), n=1)
        advice = f"did you mean {close[0]!r}? " if close else ""
        raise TaskError(
            "a file that exists, or the name of a built-in task",
            repr(str(source)),
            f"{advice}The built-in tasks are: {', '.join(list_tasks())}",
        ) from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} to be text in UTF-8", f"{error.reason} at byte {error.start}") from error
    except (OSError, ValueError) as error:
        raise TaskError(f"a file that can be read at {brief(str(path))}", str(error)) from error


def _parse(text: str, origin: str, suffix: str) -> tuple[dict[str, Any], Rows]:
    """What a file says of its task, and its rows, each with where it stands."""
    if not text.strip():
        raise TaskError(f"{origin} to hold a task", "an empty file")
    if suffix == ".csv" or (suffix not in (".json", ".jsonl") and text.lstrip()[0] not in "[{"):
        return {}, _csv_rows(text, origin)
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [(f"line {at} of {origin}", line) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) > 1 and _is_object(lines[0][1]):
            return {}, _json_lines(lines)
        raise TaskError(f"{origin} to be JSON", f"{error}") from error
    if isinstance(payload, list):
        return {}, _numbered(payload, origin)
    if not isinstance(payload, dict):
        raise TaskError(f"{origin} to hold a list of rows", brief(payload))
    if "Instances" in payload:
        definition = payload.get("Definition")
        about = {} if definition is None else {"instructions": definition}
        return about, _numbered(payload["Instances"], origin, "Instances")
    if "examples" in payload:
        about = {field: payload[field] for field in ABOUT if payload.get(field) is not None}
        return about, _numbered(payload["examples"], origin, "examples")
    return {}, _numbered([payload], origin)


def _numbered(rows: Any, origin: str, field: str = "") -> Rows:
    """The rows of a list, each with where it stands, counted from 1."""
    what = f"field {field!r} of {origin}" if field else origin
    if isinstance(rows, (str, Mapping)) or not hasattr(rows, "__iter__"):
        came = f"a mapping of {', '.join(map(str, rows))}" if isinstance(rows, Mapping) else brief(rows)
        raise TaskError(f"{what} to be a list of rows", came, "" if field else "pass one of its splits or lists")
    return ((f"row {at} of {what}", row) for at, row in enumerate(rows, 1))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(lines: list[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    for where, line in lines:
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{where} to be JSON", f"{error}") from error


def _csv_rows(text: str, origin: str) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    begins = 1
    try:
        for row in reader:
            where, begins = f"line {begins} of {origin}", reader.line_num + 1
            if not header:
                header = [cell.strip() for cell in row]
                if len(set(header)) < len(header):
                    raise TaskError(f"{where} to name every column once", ", ".join(header))
            elif row and len(row) != len(header):
                raise TaskError(f"{where} to have {len(header)} fields, as the header", str(len(row)))
            elif row:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise TaskError(f"line {begins} of {origin} to be CSV", str(error)) from error


def _examples(rows: Rows, columns: Columns | None, origin: str) -> tuple[Example, ...]:
    """The examples of the rows, in which the answers to one input are together."""
    merged: dict[str, dict[str, None]] = {}
    skipped = 0
    for where, row in rows:
        columns = columns or _columns(row, where)
        asked, answered = _cell(row, columns[0], where), _cell(row, columns[1], where)
        if columns == TRACE and isinstance(answered, str) and not answered.strip():
            skipped += 1
            continue
        answers = answered if isinstance(answered, (list, tuple)) else [answered]
        if not answers:
            raise TaskError(f"field {columns[1]!r} in {where} to have one answer or more", "an empty list")
        known = merged.setdefault(_text(asked, columns[0], where), {})
        known.update(dict.fromkeys(_text(answer, columns[1], where) for answer in answers))
    if not merged:
        raise TaskError(f"{origin} to hold one example or more", f"{skipped} rows, none with an answer")
    if skipped:
        warnings.warn(f"{skipped} rows of {origin} have no answer and were left out", stacklevel=4)
    return tuple(Example(asked, tuple(answers)) for asked, answers in merged.items())


def _columns(row: Any, where: str) -> Columns:
    """The columns of the input and the answers, as the first row shows them."""
    if not isinstance(row, Mapping):
        return COLUMNS[0]
    found = next((columns for columns in COLUMNS if all(column in row for column in columns)), None)
    if found is None:
        raise TaskError(
            f"{where} to have the fields " + " or ".join(f"{asked}/{answered}" for asked, answered in COLUMNS),
            f"the fields {', '.join(map(repr, row)) or '(none)'}",
            "name the fields of the input and the answer with fields=(..., ...)",
        )
    return found


def _cell(row: Any, column: str, where: str) -> Any:
    """The value of a column in a row, which is a mapping, or a pair of an input and its answers."""
    if isinstance(row, (list, tuple)) and len(row) == 2 and column in COLUMNS[0]:
        return row[COLUMNS[0].index(column)]
    if not isinstance(row, Mapping):
        raise TaskError(f"{where} to be an object with fields, or a pair of an input and its answers", brief(row))
    if column not in row:
        raise TaskError(f"{where} to have the field {column!r}", f"the fields {', '.join(map(repr, row)) or '(none)'}")
    return row[column]


def _text(value: Any, column: str, where: str) -> str:
    if isinstance(value, Real) and not isinstance(value, bool) and (isinstance(value, Integral) or isfinite(value)):
        value = str(value)
    return as_text(f"field {column!r} in {where}", value)
