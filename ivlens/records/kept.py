"""Finished work is kept: a record is computed once for its key and loaded after that."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import RecordError
from .store import Record

R = TypeVar("R", bound=Record)


def load_or_compute(path: Path, kind: type[R], key: Mapping[str, Any], compute: Callable[[], R]) -> R:
    """The record at ``path`` if it was saved under the same ``key``; otherwise compute, save and return it.

    The key holds whatever the numbers depend on (weights' hash, settings, versions); a file that is missing, or kept
    under another key, is computed anew, and so is a damaged one, with a warning.
    """
    key = json.loads(json.dumps(key))
    if path.exists():
        try:
            kept = kind.load(path)
            if kept.provenance.get("key") == key:
                return kept
        except RecordError as error:
            warnings.warn(f"ivlens: {error}; it is measured again", stacklevel=2)
    record = compute()
    record = replace(record, provenance={**record.provenance, "key": key})
    record.save(path, overwrite=True)
    return record
