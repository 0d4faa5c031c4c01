"""``ivlens repair``: weights of the base put back into a checkpoint, and the repaired model handed over."""

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoints import (
    RepairConfig,
    check_adapter,
    export_repaired_adapter,
    mergekit_config,
    mergekit_names,
    repair,
    repaired_model,
)
from ..checkpoints.compare import drop_base_tensors
from ..checkpoints.run_folders import NamedSource
from ..checkpoints.sources import CheckpointSource, check_sources, name_sources
from ..errors import UnsupportedError
from ..files import held
from ..models import check_export, export_hf
from ..models.shapes import check_shapes
from ..records import Repair, write_atomically, write_text
from ..records.folders import check_folder
from ..tasks import Task
from .diagnosis import DIAGNOSES, MEASURES, answers, diagnose
from .hand_over import after_repair
from .loading import given
from .sizes import say_repair
from .tables import show
from .targets import check_targets
from .task_reading import cut_to_splits, read_groups

RECORD, REPORT, MERGEKIT = "repair.safetensors", "report.html", "mergekit.yaml"
EXPORTS = {"hf": "model", "adapter": "adapter"}  # folders
log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Search, write record, tables, report and model, and print what was forgotten, what to do and what that costs."""
    from .. import views
    from ..views.checkpoints.repair import repair_headline

    config = RepairConfig(**given(options, "RepairConfig"))
    keep, learned, others = _tasks(options)
    loading = given(options, "load_model")
    check_targets(*(options.out / name for name in (RECORD, REPORT, MERGEKIT, f"{MEASURES}/any")))
    check_folder(options.out, "repair")
    if options.export != "none":
        check_export(options.out / EXPORTS[options.export])
    tuned = name_sources([NamedSource("tuned", options.tuned)], options.base)
    check_sources([CheckpointSource("base", options.base), *tuned])
    cut_to_splits([*keep, *learned, *(others or ())], config)
    check_shapes(options.base, {"the tuned model": options.tuned})
    if options.export == "adapter":
        check_adapter(options.base, options.tuned, **loading)
    say_repair(options)
    earlier = written_in(options.out)
    with held(options.out):
        log.info(f"loading {options.base} and {options.tuned}")
        found = repair(
            options.base, options.tuned, keep, learned, others=others, config=config, out=options.out / MEASURES,
            **given(options, "repair"), **loading,
        )  # fmt: skip
        write_tables(found, options.out)
        views.write_repair_report(options.out / REPORT, found)
        if found.found:
            hand_over(options, found, loading)
        further = diagnose(options, config, keep, learned) if options.diagnose else []
        views.write_repair_report(options.out / REPORT, found, further)
        drop_base_tensors(options.out / MEASURES)
    left = [name for name, time in written_in(options.out).items() if earlier.get(name) == time]
    if left:
        log.warning(f"of an earlier run, not written again: {', '.join(left)}")
    written = [name for name in (REPORT, RECORD, *written_in(options.out)) if name not in left]
    log.info(f"wrote {options.out}: {', '.join(written)}")
    log.info(repair_headline(found))
    show(options, answers([found, *further]))
    if not found.found or options.export != "none":
        exported = options.out / EXPORTS[options.export] if found.found else None
        for line in after_repair(options, exported, [task.name for task in learned]):
            log.info(line)


def _tasks(options: argparse.Namespace) -> tuple[list[Task], list[Task], list[Task] | None]:
    """The tasks to keep, the learned ones, and others if they are named."""
    keep, learned, others = read_groups([options.keep, options.learned, options.others or ()], options)
    return keep, learned, None if options.others is None else others


def written_in(folder: Path) -> dict[str, int]:
    """When each result that not every repair writes was written, in nanoseconds."""
    records = (f"{name}.safetensors" for name in DIAGNOSES)
    paths = [folder / name for name in (MERGEKIT, *EXPORTS.values(), *records)]
    return {path.name: path.stat().st_ctime_ns for path in paths if path.exists()}


def write_tables(found: Repair, folder: Path) -> None:
    """The record, and each of its frames as CSV."""
    found.save(folder / RECORD, overwrite=True)
    frames = {"tasks": found.task_gains(), "roles": found.gains(), "trials": found.trials_frame()}
    for name, frame in frames.items():
        write_atomically(folder / f"{name}.csv", partial(frame.to_csv, index=False))


def hand_over(options: argparse.Namespace, found: Repair, loading: dict[str, Any]) -> None:
    """The repaired model as a Hugging Face folder or an adapter, and the same for mergekit."""
    model = repaired_model(options.base, options.tuned, found, **loading)
    if options.export == "hf":
        export_hf(model, options.out / EXPORTS["hf"])
    try:
        config = mergekit_config(model, found, *mergekit_names(options.base, options.tuned))
    except UnsupportedError as error:
        log.warning(f"{MERGEKIT} is left out: {error}")
    else:
        write_text(options.out / MERGEKIT, config)
    if options.export == "adapter":
        del model
        export_repaired_adapter(options.base, options.tuned, found, options.out / EXPORTS["adapter"], **loading)
