"""``ivlens export`` writes a vector for another tool, ``ivlens import`` reads one of another tool."""

import argparse
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import ArgumentError
from ..integrations import export_vector, import_vector
from ..integrations.vector_formats import FORMATS
from ..models.shapes import model_shape
from ..vectors import InstructionVector, load_vector
from ..vocabulary import check_layer
from .loading import given, read_model
from .tables import show
from .targets import check_targets
from .task_reading import cut_counts, read_task

log = logging.getLogger("ivlens")


def run_export(options: argparse.Namespace) -> None:
    """Measure what a vector loses in another tool, where it is added elsewhere there, and write its file."""
    kind = FORMATS[options.to]
    if kind.everywhere and options.position != "all" and not options.task:
        expected = f"--task, to measure what is lost: {kind.tools} adds a vector at all positions, not at the one meant"
        raise ArgumentError(expected, f"--position {options.position} alone", "or pass --position all")
    if not kind.folder:
        check_targets(options.out)
    tasks = [read_task(options.task, options)] if options.task else []
    InstructionVector.load(options.vector)  # before the model, which says whether it fits
    if shape := model_shape(options.model, options.revision):
        check_layer(shape[0], options.layer, "--layer")
    counted: Any = {"validation": {"n_validation": options.n_validation}}
    counts = cut_counts(tasks, counted, options.verb.defaults())
    model = read_model(options)
    vector = load_vector(options.vector, model, **given(options, "load_vector"))
    prompts = [
        prompt
        for task, counted in zip(tasks, counts, strict=True)
        for prompt in task.prompts(
            counted["n_validation"], seed=options.seed, tokenizer=model.tokenizer, shots=0, instruction=False,
            split="validation", **given(options, "Task.prompts"),
        )
    ]  # fmt: skip
    made = export_vector(
        model, vector, options.out, options.layer, options.scale, options.position, options.site,
        format=options.to, validation=prompts,
    )  # fmt: skip
    if made.comparison is None and not options.json:
        print(made)
    else:
        show(options, {str(made): pd.DataFrame() if made.comparison is None else made.comparison.to_frame()})


def run_import(options: argparse.Namespace) -> None:
    """Read a vector of another tool, save it as one of ivlens, and print how it is to be added."""
    out = options.out or Path(f"{options.file.stem}.vector.safetensors")
    check_targets(out)
    found = import_vector(options.file, position=options.position, **given(options, "import_vector"))
    vector = found.vector
    path = vector.save(out)
    log.info(f"wrote {path}: norm {vector.norm:.1f}")
    facts = {"layer": found.layer, "site": found.site, "scale": found.scale, "position": str(found.position)}
    show(options, {f"{options.file}: how it is to be added": pd.DataFrame([facts | {
        "assumed": ", ".join(found.assumed) or "nothing", "norm": vector.norm,
    }])})  # fmt: skip
