"""Vectors in files: load one for a model, list those of a folder."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..checks import checked
from ..errors import RecordError
from ..models import HookedTransformer, check_fits, model_facts
from ..records.gather import class_name, find_files
from ..text import visible
from .instruction import InstructionVector

log = logging.getLogger("ivlens")


@checked
def load_vector(path: str | Path, model: HookedTransformer, *, force: bool = False) -> InstructionVector:
    """Load a vector for use on ``model``; with ``force``, also one from another kind of model.

    A forced vector keeps its own model's facts under ``"forced from"`` and passes later checks.

    Args:
        path: a file that ``vector.save`` wrote.
        model: the model that it is for.
        force: also load a vector of another kind of model of the same width.

    Returns:
        The vector.

    Raises:
        RecordError: no readable vector at ``path``.
        MismatchError: the vector does not fit the model; always if its width differs.

    Example:
        >>> path = vector.save(tmp_path / "next.safetensors")
        >>> iv.load_vector(path, model).heads == vector.heads
        True
    """
    vector = InstructionVector.load(path)
    if force and vector.values.shape == (model.cfg.d_model,):
        origin = dict(vector.provenance)
        return replace(vector, provenance={**origin, "forced from": origin.get("model"), "model": model_facts(model)})
    check_fits(model, vector.provenance, f"the vector of {path}")
    return vector


@checked
def list_vectors(folder: str | Path) -> pd.DataFrame:
    """The vectors in a folder and its subfolders, without other records.

    Files and folders that cannot be read are named in the log and skipped.

    Args:
        folder: the folder to look in.

    Returns:
        One row per vector: file, task, heads, norm, model, dtype, weights.

    Raises:
        RecordError: no such folder.

    Example:
        >>> path = vector.save(tmp_path / "next.safetensors")
        >>> len(iv.list_vectors(tmp_path))
        1
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError("a folder of vectors", f"{folder}, which is no folder", "save some with vector.save(path)")
    files, unread = find_files([folder])
    rows, top = [], Path(os.path.abspath(folder))
    for path in files:
        try:
            if class_name(path) == InstructionVector.__name__:
                rows.append(_row(path.relative_to(top), InstructionVector.load(path)))
        except Exception as error:  # a malformed file may raise anything; the others are still listed
            unread[path] = str(error).replace(str(path), path.name)
    for path, why in unread.items():
        log.warning(f"{path.relative_to(top)} could not be read: {why}")
    return pd.DataFrame(rows, columns=["file", "task", "heads", "norm", "model", "dtype", "weights"])


def _row(path: Path, vector: InstructionVector) -> dict[str, Any]:
    facts = vector.provenance.get("model", {})
    known = {"file": str(path), "task": vector.task, "heads": len(vector.heads), "norm": vector.norm,
             "model": str(facts.get("source")), "dtype": str(facts.get("dtype")),
             "weights": str(facts.get("weights_sha256"))[:12]}  # fmt: skip
    return {name: visible(value) if isinstance(value, str) else value for name, value in known.items()}
