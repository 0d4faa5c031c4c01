"""Tables of saved records, and the pages that quote them.

A study writes its tables into ``tables.md`` beside its page. A page quotes one below a comment that names the file and
the table's number in it, as ``<!-- tables.md 2 -->``; ``quote_again`` puts all of a page's tables in anew.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from ivlens.errors import RecordError, reason
from ivlens.records import standard_error, write_text
from ivlens.text import one_line

T = TypeVar("T")
QUOTED = re.compile(r"(?<=<!-- )(\S+\.md) ([1-9]\d*)( -->\n)((?:\|.*\n)*)")

logger = logging.getLogger("ivlens")


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table; a bar or a line feed in a name does not end its cell."""

    def row(cells: Iterable[object]) -> str:
        texts = (f"{cell:g}" if isinstance(cell, float) else one_line(str(cell)) for cell in cells)
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    lines = [row(frame.columns), "|" + "---|" * len(frame.columns), *map(row, frame.itertuples(index=False))]
    return "\n".join(lines) + "\n"


def with_error(values: Sequence[float]) -> str:
    """A mean with its standard error, and without it where that is not known."""
    mean = sum(values) / len(values) if values else float("nan")
    return f"{mean:.2f}" + (f" ± {standard_error(values):.2f}" if len(values) > 1 else "")


def write_tables(path: Path, *frames: pd.DataFrame) -> Path:
    """Write frames as Markdown tables, an empty line between them."""
    return write_text(path, "\n".join(map(markdown, frames)))


def quote_again(page: Path) -> Path:
    """Put the tables of the files that ``page`` names in comments in again, below each comment.

    Raises:
        RecordError: a named file, or a table of that number in it, is missing.
    """

    def with_table(found: re.Match[str]) -> str:
        name, number, end, _ = found.groups()
        return f"{name} {number}{end}{_table(page.parent / name, int(number))}"

    return write_text(page, QUOTED.sub(with_table, page.read_text(encoding="utf-8")))


def _table(path: Path, number: int) -> str:
    tables = path.read_text(encoding="utf-8").strip().split("\n\n") if path.exists() else []
    if number > len(tables):
        raise RecordError(f"{number} tables or more in {path.name}", str(len(tables)), "run python -m figures")
    return tables[number - 1] + "\n"


def read_json(path: Path, command: str, parts: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON object in ``path``, which ``command`` writes, with all of its ``parts``.

    Raises:
        RecordError: the file is missing, or is no such record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"a record in {path}", reason(error), command) from error
    if not isinstance(record, dict):
        raise RecordError(f"a JSON object in {path}", type(record).__name__, command)
    missing = [part for part in parts if part not in record]
    if missing:
        raise RecordError(f"{', '.join(missing)} in {path}", "a record without", command)
    return record


def load_or_measure(folder: Path, load: Callable[[Path], T], measure: Callable[[Path], T], fresh: bool) -> T:
    """What ``folder`` holds, or else is measured; fresh records take the place of the old when all are there."""
    if not fresh:
        try:
            return load(folder)
        except RecordError:
            pass
    logger.info("measuring %s: minutes to an hour; what is finished is kept", folder)
    unfinished = folder.with_name(f"{folder.name}.fresh") if fresh else folder
    measured = measure(unfinished)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return measured
