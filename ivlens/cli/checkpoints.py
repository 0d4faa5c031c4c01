"""``ivlens compare``: what checkpoints of a base model have forgotten."""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..checkpoints import CheckpointConfig, compare_checkpoints, gate
from ..checkpoints.gating import Limit, in_words, nothing_held
from ..checkpoints.run_folders import with_runs
from ..checkpoints.sources import CheckpointSource, check_sources, name_sources
from ..errors import ArgumentError, RecordError, SourceError, few
from ..files import held
from ..models.shapes import check_shapes, model_shape
from ..records import CheckpointComparison, write_atomically, write_text
from ..records.folders import check_folder
from ..tasks import Task, members
from ..text import did_you_mean, plural
from .asked_alike import of_comparison
from .hand_over import after_comparison
from .loading import given
from .sizes import say_comparison
from .tables import show
from .targets import check_targets
from .task_reading import cut_to_splits, read_tasks
from .wording import as_options

SHOWN = ("checkpoint", "task", "accuracy", "forgetting", "knowledge", "cosine", "norm_ratio", "recovered", "verdict")
RECORD = "comparison.safetensors"
STATUS = {"passed": 0, "failed": 1, "undecided": 3}  # 2 is that of arguments that cannot be parsed
log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> int:
    """Measure base and checkpoints, write record, tables and report, print the verdicts; the status of the gate."""
    from .. import views

    config = CheckpointConfig(**given(options, "CheckpointConfig"))
    tasks = read_tasks(options.tasks, options)
    learned = _learned(options, tasks)
    given_sources = _by_name(options.checkpoints)
    named = with_runs(given_sources)
    sources = {str(each.name): each.source for each in named}
    limits = [*map(Limit.read, options.fail_on)]
    check_targets(*(options.out / name for name in (RECORD, "report.html", "measures/any")))
    check_folder(options.out, "compare")
    check_sources([CheckpointSource("base", options.base), *name_sources(named, options.base)])
    cut_to_splits(tasks, config)
    if shape := model_shape(options.base):
        config.check_model(*shape)
    check_shapes(options.base, sources)
    say_comparison(options)
    log.info(f"loading {options.base}, to compare {plural(len(sources), 'checkpoint')} with it")
    with held(options.out):
        comparison = compare_checkpoints(
            options.base,
            given_sources,
            tasks,
            config,
            out=options.out,
            learned=learned,
            **given(options, "compare_checkpoints"),
            **given(options, "load_model"),
        )
        failures = {name: as_options(reason, options.verb) for name, reason in comparison.failures.items()}
        comparison = replace(comparison, failures=failures)
        if asked := of_comparison(options):
            comparison = replace(comparison, provenance={**comparison.provenance, "options": asked})
        say_replaced(options.out, comparison)
        write_tables(comparison, options.out)
        views.write_comparison_report(options.out / "report.html", comparison)
    log.info(f"wrote {options.out / 'report.html'}: the answer in words, what to do next, prompts of what fell")
    frame = comparison.to_frame()
    general = {"general abilities": comparison.general_frame()} if comparison.general else {}
    show(options, {"verdicts": frame[[name for name in SHOWN if name in frame]], **general})
    for line in after_comparison(comparison):
        log.info(line)
    status = _gate(comparison, options) if limits else 0
    if failures:
        raise SourceError("checkpoints that can all be compared", f"{few(failures)}, which cannot", "see above")
    return status


def say_replaced(folder: Path, comparison: CheckpointComparison) -> None:
    """Say what an earlier comparison in the folder has that this one lacks."""
    file = folder / RECORD
    try:
        earlier = CheckpointComparison.load(file) if file.exists() else comparison
    except RecordError:
        return
    now = {*comparison.tasks, *comparison.checkpoints}
    if lacking := [name for name in (*earlier.tasks, *earlier.checkpoints) if name not in now]:
        log.warning(f"the comparison in {folder} is replaced by one without {few(lacking)}, whose measures stay there")


def _gate(comparison: CheckpointComparison, options: argparse.Namespace) -> int:
    """Hold the comparison to the limits of --fail-on, write what they say, and give the exit status."""
    found = gate(comparison, options.fail_on)
    write_text(options.out / "gate.json", found.as_json())
    write_text(options.out / "gate.xml", found.as_junit())
    for row in found.rows:
        if row["outcome"] != "passed":
            log.info(in_words(row))
    for checkpoint, limits in found.unheld.items():
        for limit in limits:
            log.warning(nothing_held(limit, checkpoint))
    log.info(f"gate: {found.outcome}; wrote {options.out / 'gate.json'} and gate.xml")
    return STATUS[found.outcome]


def write_tables(comparison: CheckpointComparison, folder: Path) -> None:
    """The record, and each of its frames as CSV and parquet."""
    comparison.save(folder / RECORD, overwrite=True)
    frames = {
        "tasks": comparison.to_frame(),
        "heads": comparison.heads_frame(),
        "layers": comparison.layers_frame(),
        "recovery": comparison.recovery_frame(),
        "replies": comparison.replies_frame(),
        "sequence": comparison.sequence(),
        "evidence": comparison.evidence_frame(),
        "spectrum": comparison.spectrum_frame(),
        "general": comparison.general_frame(),
    }
    for name, frame in frames.items():
        write_atomically(folder / f"{name}.csv", partial(frame.to_csv, index=False))
        write_atomically(folder / f"{name}.parquet", partial(frame.to_parquet, index=False))


def _learned(options: argparse.Namespace, tasks: Sequence[Task]) -> list[str]:
    """The names of the learned tasks; a file stands for the task that it holds."""
    sources = [each for name in options.tasks for each in members(name)]
    names = {source: task.name for source, task in zip(sources, tasks, strict=True)}
    learned = [names.get(each, each) for each in options.learned]
    for unknown in dict.fromkeys(each for each in learned if each not in names.values()):
        question = did_you_mean(unknown, names.values())
        log.warning(f"--learned {unknown}: not in --tasks, so nothing is measured against it. {question}".strip())
    return learned


def _by_name(sources: Sequence[str]) -> dict[str, str]:
    """NAME=CKPT, or a checkpoint under its folder's name, which may hold a "=" as in lr=0.1."""
    found: dict[str, str] = {}
    for source in sources:
        name, equals, rest = source.partition("=")
        named = equals and not os.path.exists(Path(source).expanduser())
        key, value = (name, rest) if named else (Path(source).name or source, source)
        if key in found:
            raise ArgumentError("checkpoints of different names", key, "give NAME=CKPT")
        found[key] = value
    return found
