"""What a run computes before its first step, kept in its folder and found again by all that it depends on."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import RecordError
from ..files import short_hash
from ..tensor_files import load_tensors, save_tensors

Tensors = dict[str, Tensor]


def load_or_compute_tensors(
    folder: Path | None, name: str, key: Mapping[str, Any], compute: Callable[[], Tensors]
) -> Tensors:
    """The tensors that are kept under ``key``, or else computed, and kept if there is a folder.

    The file's name has a hash of the key: what has another key has another file. A damaged one is computed again.

    Args:
        folder: the folder of the run, if it has one.
        name: the beginning of the file's name.
        key: all that the tensors depend on, as JSON has it.
        compute: computes them.
    """
    if folder is None:
        return compute()
    facts = json.loads(json.dumps(key))
    path = folder / f"{name}-{short_hash(json.dumps(facts, sort_keys=True))}.safetensors"
    if path.exists():
        try:
            tensors, found = load_tensors(path)
            if found == facts:
                return tensors
        except RecordError as error:
            warnings.warn(f"ivlens: {error}; it is computed again", stacklevel=2)
    tensors = compute()
    try:
        save_tensors(path, {name: each.detach().cpu().contiguous() for name, each in tensors.items()}, facts)
    except RecordError as error:
        warnings.warn(f"ivlens: {error}; training goes on", stacklevel=2)
    return tensors
