"""Vectors in files: one that is to be used on a model, and a folder of them."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..errors import RecordError
from ..models import HookedTransformer, check_fits, model_facts
from .vector import InstructionVector


def load_vector(path: str | Path, model: HookedTransformer, *, force: bool = False) -> InstructionVector:
    """Load a vector for use on ``model``; with ``force``, also one that was computed on another kind of model.

    A forced vector keeps the facts of the model it came from under ``"forced from"``, and passes later checks.

    Raises:
        RecordError: no readable vector at ``path``.
        MismatchError: the vector does not fit the model; always if its width differs.
    """
    vector = InstructionVector.load(path)
    if force and vector.values.shape == (model.cfg.d_model,):
        origin = dict(vector.provenance)
        return replace(vector, provenance={**origin, "forced from": origin.get("model"), "model": model_facts(model)})
    check_fits(model, vector.provenance, f"the vector of {path}")
    return vector


def list_vectors(folder: str | Path) -> pd.DataFrame:
    """The vectors in a folder and below it: file, task, heads, norm, model, dtype, weights; other files are left out.

    Raises:
        RecordError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError("a folder of vectors", f"{folder}, which is no folder", "save some with vector.save(path)")
    rows = []
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            vector = InstructionVector.load(path)
        except RecordError:
            continue
        facts = vector.provenance.get("model", {})
        row = {
            "file": str(path.relative_to(folder)),
            "task": vector.task,
            "heads": len(vector.heads),
            "norm": vector.norm,
        }
        row |= {"model": str(facts.get("source")), "dtype": str(facts.get("dtype"))}
        rows.append(row | {"weights": str(facts.get("weights_sha256"))[:12]})
    return pd.DataFrame(rows, columns=["file", "task", "heads", "norm", "model", "dtype", "weights"])
