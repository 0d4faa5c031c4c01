"""Tables: CSV in its kinds, Parquet, frames, datasets, and mappings of columns; all become rows by column name."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import TaskError, brief, few, reason
from ..kinds import is_of
from .row_formats import format_of
from .source import PARQUET, Parsed, Rows, Source


def read_table(source: Source) -> Parsed | None:
    """CSV with commas, semicolons or tabs, and a header."""
    other = source.suffix in (".json", ".jsonl") or source.text.lstrip()[0] in "[{"
    if other and source.suffix not in (".csv", ".tsv"):
        return None
    return Parsed(_table_rows(source.text, source.origin, _delimiter(source)))


def _delimiter(source: Source) -> str:
    """What separates the columns: tabs in .tsv, else what the header has, a comma before others."""
    first = source.text.lstrip().partition("\n")[0]
    if source.suffix == ".tsv" or (source.suffix != ".csv" and "\t" in first and "," not in first):
        return "\t"
    return ";" if ";" in first and not {",", "\t"} & {*first} else ","


def _table_rows(text: str, origin: str, delimiter: str) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
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


def is_parquet(data: bytes) -> bool:
    """Whether a file's bytes are those of a Parquet file."""
    return data.startswith(PARQUET)


def read_parquet(path: Path, origin: str) -> Parsed:
    """The rows of a Parquet file, read in batches, with the class names that a Hugging Face Dataset keeps in it."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        do = "pip install pyarrow, or save the table as CSV or JSON lines"
        raise TaskError(f"pyarrow, which reads the Parquet file {origin}", "none installed", do) from error
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if len({*names}) < len(names):
            raise TaskError(f"{origin} to name every column once", few(names))
        kept = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{origin} to be a Parquet file that can be read", reason(error, 100)) from error
    rows = (row for batch in file.iter_batches(1024) for row in batch.to_pylist())
    numbered_rows = ((f"row {at} of {origin}", row) for at, row in enumerate(rows, 1))
    return Parsed(numbered_rows, classes=_class_names_in(kept), name="Parquet")


def _class_names_in(kept: bytes) -> dict[str, list[str]]:
    try:
        features = json.loads(kept)["info"]["features"]
        inner = {name: each.get("feature", each) for name, each in features.items()}
        return {name: [*each["names"]] for name, each in inner.items() if each.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def class_names(source: Any) -> dict[str, list[str]]:
    """The class names of those columns of a Hugging Face Dataset that hold class numbers."""
    features: Any = getattr(source, "features", None)
    if not isinstance(features, Mapping):
        return {}
    inner: dict[str, Any] = {name: getattr(each, "feature", each) for name, each in features.items()}
    return {name: each.names for name, each in inner.items() if hasattr(each, "int2str")}


def numbered(rows: Any, origin: str, key: str = "") -> Rows:
    """The rows of a list, a frame or a dataset with their locations, counted from 1."""
    what = f"field {key!r} of {origin}" if key else origin
    if is_of(rows, "pandas", "DataFrame"):
        names = [*rows.columns]
        if not rows.columns.is_unique:
            raise TaskError(f"{what} to name every column once", few(map(brief, names)))
        rows = (dict(zip(names, values, strict=True)) for values in rows.itertuples(index=False, name=None))
    if isinstance(rows, (str, bytes, Mapping)) or not hasattr(rows, "__iter__") or getattr(rows, "shape", None) == ():
        came = f"a mapping of {few(rows)}" if isinstance(rows, Mapping) else brief(rows)
        raise TaskError(f"{what} to be a list of rows", came, "" if key else "pass one of its splits, or rows or pairs")
    return ((f"row {at} of {what}", row) for at, row in enumerate(rows, 1))


def of_columns(table: Mapping[Any, Any], origin: str, named: bool) -> Parsed | None:
    """The rows of a mapping of columns by name, lists of one length or pandas' mappings by index; else None.

    With ``named`` the user names columns of it. Otherwise they are those of a known format.

    Raises: TaskError where it could as well be a mapping of inputs to lists of answers.
    """
    columns = {name: [*each.values()] if isinstance(each, dict) else each for name, each in table.items()}
    keys = {tuple(each) for each in table.values() if isinstance(each, dict)}
    if not columns or len(keys) > 1 or not all(isinstance(each, list) for each in columns.values()):
        return None
    lengths = {len(each) for each in columns.values()}
    if len(lengths) > 1 or not max(lengths):
        return None
    format = format_of({name: each[0] for name, each in columns.items()})
    if not named and (format is None or "examples" in table):
        return None
    if not named and lengths == {1} and len(columns) > 2 and not keys:
        do = "pass rows, or a pandas.DataFrame"
        raise TaskError(f"{origin} to be a list of rows", f"columns {few(table)}", do)
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return Parsed(((f"row {at} of {origin}", row) for at, row in enumerate(rows, 1)), name="columns")
