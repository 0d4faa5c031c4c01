"""The documents of a task file of lm-evaluation-harness: rows of local files, or of a data set that is downloaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import TaskError, brief, few, reason

Document = dict[str, Any]

SPLITS = ("test_split", "validation_split", "training_split")  # the first that a file names is read
LOCAL = {"data_files", "cache_dir"}  # options with which files are read here, without the package datasets


def documents(config: Mapping[str, Any], path: Path) -> list[Document]:
    """The documents that a task is evaluated on: its test split, or else its validation or training split.

    Paths count from the working folder, as in the harness, or else from the folder of the task file.

    Raises:
        TaskError: no split, a file that cannot be read, or a data set that cannot be downloaded.
    """
    split = next((config[key] for key in SPLITS if config.get(key)), None)
    if not isinstance(split, str):
        raise TaskError(f"{path} to name a split, as one of {few(SPLITS)}", brief(split) if split else "none")
    options = {key: value for key, value in (config.get("dataset_kwargs") or {}).items() if key != "trust_remote_code"}
    builder, files = config.get("dataset_path"), _files(options.get("data_files"), path.parent)
    if builder in READERS and files and options.keys() <= LOCAL:
        if split not in files:
            raise TaskError(f"the split {split!r} of {path} to have data_files", few(files))
        rows = [row for file in files[split] for row in _read(str(builder), file)]
    else:
        rows = _downloaded(builder, config.get("dataset_name"), options, split, path)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise TaskError(f"the split {split!r} of {path} to hold objects, at least one", brief(rows[:1]))
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def _files(given: Any, folder: Path) -> dict[str, list[Path]]:
    """Existing local files by split; {} where some are no such files, as URLs and patterns."""
    of_split = given if isinstance(given, dict) else {"train": given}
    named = {split: [each] if isinstance(each, str) else each for split, each in of_split.items()}
    found: dict[str, list[Path]] = {}
    for split, each in named.items():
        if not isinstance(each, list) or not all(isinstance(file, str) for file in each):
            return {}
        here = [next((path for path in (Path(file), folder / file) if path.is_file()), None) for file in each]
        if None in here:
            return {}
        found[str(split)] = [path for path in here if path is not None]
    return found


def _read(builder: str, file: Path) -> list[Any]:
    try:
        rows: list[Any] = READERS[builder](file)
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"{file} to be a file in {builder}", reason(error)) from error
    return rows


def _json_rows(file: Path) -> list[Any]:
    text = file.read_text(encoding="utf-8-sig")
    if text.lstrip()[:1] == "[":
        rows: list[Any] = json.loads(text)
        return rows
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _csv_rows(file: Path) -> list[Any]:
    import pandas as pd

    frame = pd.read_csv(file)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _parquet_rows(file: Path) -> list[Any]:
    from pyarrow.parquet import read_table

    rows: list[Any] = read_table(file).to_pylist()
    return rows


READERS = {"json": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}


def _downloaded(builder: Any, name: Any, options: dict[str, Any], split: str, path: Path) -> list[Any]:
    expected = f"documents for {path}, of the data set {brief(builder)}"
    if not isinstance(builder, str):
        raise TaskError(f"{path} to have a dataset_path", brief(builder))
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise TaskError(
            expected, "no package datasets, which reads it", "run: pip install 'ivlens[lm-eval]'"
        ) from error
    try:
        return [dict(row) for row in load_dataset(builder, name, **options)[split]]
    except Exception as error:  # a data set is somebody else's files, on somebody else's host
        raise TaskError(expected, reason(error), "look whether its files, or the hub, can be reached") from error
