"""``ivlens continual``: tasks learned one after the other, all abilities measured after each; also as an ablation."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, DivergedError, PromptError, few
from ..files import held, safe_name
from ..models import check_export, check_training, export_hf, only_hooked
from ..models.shapes import model_shape
from ..records import ContinualRun, compare_sequences, compare_variants, write_atomically
from ..records.folders import check_folder
from ..tasks import Task, find_sequence, list_sequences, list_tasks, load_sequence
from ..text import plural
from ..training import ContinualConfig, ablations, continual
from ..training.continual_config import reference
from ..training.processes import joined_processes
from ..vectors import load_vector
from .loading import given, read_model
from .sizes import say_sequence
from .tables import show
from .targets import check_targets
from .task_reading import instruct_groups, load_groups
from .training import check_for_model, check_vector_file, training_config

RECORD, PAGE, MODEL = "continual.safetensors", "continual.html", "model"
log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Learn the sequence, or every variant of an ablation from the base; write records, a page and the model."""
    check_training()
    tasks, kept, general = _tasks(options)
    config = ContinualConfig(training_config(options), **given(options, "ContinualConfig"))
    check_vector_file(config.training.guidance, options.vector)
    if options.vector is not None and options.ablate_ks:
        raise ArgumentError("--ablate-ks with a vector whose heads can vary", "--vector", "leave one of them out")
    variants = ablations(config, **given(options, "ablations"))
    folders = {name: options.out if len(variants) == 1 else options.out / safe_name(name) for name in variants}
    if shape := model_shape(options.model, options.revision):
        for each in variants.values():
            with_vectors = each.vectors or ("vector" in each.training.guidance.needs and options.vector is None)
            check_for_model(each.training, each.k if with_vectors else None, *shape)
    processes = joined_processes()
    if processes.is_first:
        check_targets(options.out / PAGE, *(folder / RECORD for folder in folders.values()))
        check_folder(options.out, "continual")
        if len(variants) == 1:
            check_export(options.out / MODEL)
    runs, left_out = _learned(options, variants, tasks, kept, general, folders)
    if processes.is_first:
        _write(options, runs)
    if left_out:
        raise DivergedError("runs whose loss stays finite", f"{few(map(repr, left_out))} left out", "see above")


def _learned(
    options: argparse.Namespace,
    variants: Mapping[str, ContinualConfig],
    tasks: Sequence[Task],
    kept: Sequence[Task],
    general: Sequence[Task],
    folders: Mapping[str, Path],
) -> tuple[dict[str, ContinualRun], list[str]]:
    """The runs of all variants, and the names of those that diverged, or whose reference did."""
    runs: dict[str, ContinualRun] = {}
    left_out: list[str] = []
    # answers that are not finite are seen by the process that measures, alone: the others would wait for it
    broken = (DivergedError, PromptError) if joined_processes().count == 1 else (DivergedError,)
    for number, (name, each) in enumerate(variants.items(), 1):
        if len(variants) > 1:
            log.info(f"run {number} of {len(variants)}: {name}")
        first = next(iter(runs.values()), None)
        try:
            if (whole := reference(name)) in left_out:
                raise DivergedError(f"a finite loss of {whole!r}, with which {name!r} is compared")
            runs[name] = _run(options, each, tasks, kept, general, folders[name], first, len(variants))
        except broken as error:
            if not runs:
                raise
            left_out.append(name)
            log.warning(f"{name} is left out: {error}")
    return runs, left_out


def _write(options: argparse.Namespace, runs: Mapping[str, ContinualRun]) -> None:
    from .. import views

    write_atomically(options.out / "runs.csv", partial(compare_sequences(runs).to_csv, index=False))
    (options.out / "variants.csv").unlink(missing_ok=True)
    if len(runs) > 1:
        write_atomically(options.out / "variants.csv", partial(compare_variants(runs).to_csv, index=False))
    views.write_continual_report(options.out / PAGE, runs)
    log.info(f"wrote {options.out}: {PAGE}, runs.csv, and of each run {RECORD}")
    show(options, _shown(runs))


def _run(
    options: argparse.Namespace,
    config: ContinualConfig,
    tasks: Sequence[Task],
    kept: Sequence[Task],
    general: Sequence[Task],
    folder: Path,
    first: ContinualRun | None,
    count: int,
) -> ContinualRun:
    """One of ``count`` runs from the base, in its folder; the model is written if the run is the only one."""
    model = only_hooked(read_model(options, engine="hooked"), "training")
    if first is None:
        say_sequence(model, config.training, options.out, count)
    adds = options.vector is not None and "vector" in config.training.guidance.needs
    vector = load_vector(options.vector, model) if adds else None
    found = continual(model, tasks, config, keep=kept, general=general, out=folder, like=first, vector=vector)
    if count == 1 and joined_processes().is_first:
        with held(folder):
            export_hf(model, folder / MODEL)
    return found


def _tasks(options: argparse.Namespace) -> tuple[list[Task], list[Task], list[Task]]:
    """The tasks to learn, to keep, and general ones."""
    names = options.sequence
    if len(names) == 1 and not (names[0] in list_tasks() or Path(names[0]).exists() or Path(names[0]).suffix):
        find_sequence(names[0])
    if len(names) > 1 and (named := [name for name in names if name in list_sequences()]):
        raise ArgumentError("one sequence by its name alone, or tasks", f"{named[0]} among {len(names)} names")
    if len(names) > 1 or names[0] not in list_sequences():
        if options.data is not None:
            raise ArgumentError(
                "--data with one sequence by its name", " ".join(names), f"one of {', '.join(list_sequences())}"
            )
        tasks, kept, general = load_groups([names, options.keep, options.general], options)
    else:
        kept, general = load_groups([options.keep, options.general], options)
        tasks = load_sequence(names[0], options.data)
    tasks, kept, general = instruct_groups([tasks, kept, general], options.instruction)
    return tasks, kept, general


def _shown(runs: Mapping[str, ContinualRun]) -> dict[str, Any]:
    """The measures of a run, or one row per run of an ablation."""
    if len(runs) > 1:
        return {plural(len(runs), "run"): compare_sequences(runs), "against the first": compare_variants(runs)}
    (only,) = runs.values()
    return {f"after {plural(only.stages, 'task')}": only.summary()}
