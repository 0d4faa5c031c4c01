"""Records that commands of ``tests/benchmarks`` or of experiments wrote as JSON, read again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RecordError, reason


def read_measured(path: Path, command: str, parts: Sequence[str] = ()) -> dict[str, Any]:
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
