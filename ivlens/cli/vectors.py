"""``ivlens vector`` builds an instruction vector, ``ivlens vectors`` lists those in a folder."""

import argparse
import logging
from pathlib import Path

import pandas as pd

from ..effects import locate_heads
from ..errors import ArgumentError, RecordError
from ..files import safe_name
from ..models import Model, model_facts
from ..models.shapes import model_shape
from ..vectors import InstructionVector, instruction_vector, list_vectors, logit_lens
from ..vocabulary import check_count
from .loading import check_locating, read_model
from .tables import show
from .targets import check_targets
from .task_reading import read_task

log = logging.getLogger("ivlens")


def run_vector(options: argparse.Namespace) -> None:
    """Locate a task's heads, sum them into its vector, save it, and print its heads and logit lens."""
    task = read_task(options.task, options)
    out = options.out or Path(f"{safe_name(task.name)}.vector.safetensors")
    check_targets(out)
    (settings,) = check_locating(options, [task])
    if shape := model_shape(options.model, options.revision):
        check_count(options.k, shape[0] * shape[1], name="--k")
    model = read_model(options)
    heads = model.cfg.n_layers * model.cfg.n_heads
    check_count(options.k, heads, name="--k")
    _check_own(out, model)
    log.info(f"{task.name}: indirect effects of {heads} heads")
    effects = locate_heads(model, task, **settings)
    vector = instruction_vector(model, effects, k=options.k)
    path = vector.save(out)
    log.info(f"wrote {path}: {len(vector.heads)} heads, norm {vector.norm:.1f}")
    show(options, {f"{task.name}: heads": vector.to_frame(), "reads as": logit_lens(model, vector)})


def _check_own(path: Path, model: Model) -> None:
    """Raise unless the file is new or holds a vector of this model."""
    if not path.exists():
        return
    try:
        facts = dict(InstructionVector.load(path).provenance).get("model") or {}
    except RecordError:
        facts = {}
    if facts.get("weights_sha256") != model_facts(model)["weights_sha256"]:
        raise ArgumentError(
            f"a new file, or one with a vector of this model, at {path}", "another", "choose another --out"
        )


def run_vectors(options: argparse.Namespace) -> None:
    """Print the vectors in a folder and its subfolders."""
    found = list_vectors(options.folder)
    show(options, {f"{len(found)} vectors in {options.folder}": found if len(found) else pd.DataFrame()})
