"""Finished work is kept: a record is computed once for its key and loaded after that."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import RecordError
from .store import Record

R = TypeVar("R", bound=Record)


def recall(path: Path, kind: type[R], key: Mapping[str, Any], compute: Callable[[], R]) -> R:
    """The record at ``path`` if it was saved under the same ``key``; otherwise compute, save and return it.

    The key holds whatever the numbers depend on (weights' hash, settings, versions); a missing, broken or otherwise
    keyed file is computed anew.
    """
    key = json.loads(json.dumps(key))
    try:
        kept = kind.load(path)
        if json.loads(json.dumps(kept.provenance.get("key"))) == key:
            return kept
    except RecordError:
        pass
    record = compute()
    record = replace(record, provenance={**record.provenance, "key": key})
    record.save(path)
    return record
