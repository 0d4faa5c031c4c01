"""Finished work is kept: a record is computed once for its key and loaded after that."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..effects import locate_heads
from ..errors import RecordError
from ..models import HookedTransformer, provenance
from ..records import Record
from ..tasks import Task
from ..vectors import InstructionVector, instruction_vector

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


def recall_vector(
    model: HookedTransformer, path: Path, task: Task, heads: int, clean: int, corrupted: int, seed: int = 0
) -> InstructionVector:
    """The instruction vector of a task's strongest heads, located on this model once."""

    def compute() -> InstructionVector:
        effects = locate_heads(model, task, clean=clean, corrupted=corrupted, seed=seed)
        assert effects.means is not None  # locate_heads keeps them
        return instruction_vector(model, effects.means, effects.top(heads))

    key = provenance(model, task=task.name, heads=heads, clean=clean, corrupted=corrupted, seed=seed)
    return recall(path, InstructionVector, key, compute)
