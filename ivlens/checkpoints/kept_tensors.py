"""The base's tensors in files, so that no second model is held beside a checkpoint."""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import RecordError
from ..files import write_text
from ..tensor_files import load_facts, save_tensors, seal, stream_tensors, unseal
from .facts_cache import SETTLED, file_times


def keep_tensors(
    path: Path, facts: Mapping[str, Any], tensors: Callable[[], dict[str, Tensor]], facts_folder: Path
) -> None:
    """Write tensors to a file whose ``facts`` say what they are of, unless they are in it undamaged.

    A file that was found whole is not read again while its size, inode and times are the same; a note of them is in
    ``facts_folder``.
    """
    note = facts_folder / f"{path.stem}.json"
    if path.exists():
        if _noted(note) == _note(path):
            return
        try:
            if load_facts(path) == facts:
                for _ in stream_tensors(path):
                    pass
                if time.time() - path.stat().st_ctime >= SETTLED:  # else its times might not reveal another write
                    write_text(note, seal(_note(path)))
                return
            warnings.warn(f"ivlens: {path} holds something else; it is written again", stacklevel=3)
        except RecordError as error:
            warnings.warn(f"ivlens: {error}; it is written again", stacklevel=3)
    save_tensors(path, tensors(), facts)


def _note(path: Path) -> dict[str, Any]:
    return {"file": path.name, "times": file_times(path)}


def _noted(note: Path) -> dict[str, Any] | None:
    return unseal(note.read_bytes()) if note.is_file() else None
