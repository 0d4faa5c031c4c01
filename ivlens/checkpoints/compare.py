"""``compare_checkpoints``: what was forgotten, where, and is it still in there?"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..checks import Count, checked
from ..errors import ArgumentError, WorkerError, reason
from ..files import held
from ..models import check_device, worker_device
from ..parallel import map_pieces, workers
from ..records import CheckpointComparison
from ..tasks import Task, load_task
from .cells import Cells
from .config import CheckpointConfig
from .measuring import Found, Measuring
from .sources import Checkpoint, named
from .subject import Subject

LEDGER = "checkpoints"


@checked
def compare_checkpoints(
    base: Any,
    checkpoints: Mapping[str, Any] | Sequence[Any],
    tasks: Sequence[Task | str],
    config: CheckpointConfig | None = None,
    *,
    out: str | Path | None = None,
    learned: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    n_jobs: Count | None = 1,
    **options: Any,
) -> CheckpointComparison:
    """Measure a base model and its checkpoints on tasks, one checkpoint in memory at a time, and compare them.

    ``base`` and ``checkpoints`` are anything that ``load_model`` reads (``options`` go to it), hub names with
    ``@revision``, adapters of the base, or folders of training runs; a mapping names them. Every measure of a task on a
    checkpoint is kept in ``out`` when it is finished and found again by its content: an interrupted comparison resumes,
    another checkpoint costs itself only. ``learned``: for a sequence, what each checkpoint was trained on.

    With ``n_jobs`` workers (None: what ``joblib.parallel_config`` says) the base is measured here, then each checkpoint
    by a worker that loads it; ``say`` is told of its cells when it is finished. Numbers do not depend on ``n_jobs``,
    but for rounding where workers have other devices or another number of threads. All workers must see ``out``.

    A checkpoint that cannot be loaded or compared is named in ``failures``, and the others go on.

    Raises:
        ArgumentError: no checkpoints or tasks, or two of one name; with workers, a checkpoint that is a model object.
        SourceError, UnsupportedError, DownloadError: the base cannot be loaded.
        HookError: hooks are active on the base.
        RecordError: ``out`` cannot be written, or another process is at work in it.
        WorkerError: a worker died, or does not see ``out``; what was measured until then is kept there.
    """
    config = config or CheckpointConfig()
    check_device(options.get("device"))
    asked = [load_task(task) if isinstance(task, str) else task for task in tasks]
    if not asked or len({task.name for task in asked}) < len(asked):
        raise ArgumentError("different tasks, one or more", ", ".join(task.name for task in asked) or "none")
    sources = named(checkpoints, base)
    if learned and len(learned) != len(sources):
        raise ArgumentError(f"learned to name a task for each of {len(sources)} checkpoints", f"{len(learned)} names")
    alone = workers(n_jobs) == 1 or len(sources) == 1
    sources = sources if alone else [_loadable(each) for each in sources]
    with tempfile.TemporaryDirectory() as scratch, held(scratch if out is None else out):
        folder = Path(scratch if out is None else out).absolute()
        everyone = (Checkpoint("base", base), *sources)
        first, *others = [Subject(each, each.loading(options), folder / LEDGER) for each in everyone]
        measuring = Measuring(Cells(folder / "cells", config, say), asked, first)
        with tqdm(total=len(sources) + 1, desc="checkpoints", unit="checkpoint", disable=None) as bar:
            found = {"base": measuring.measure(first)}
            first.release()
            bar.update()
            outcomes = (_here if alone else _spread)(measuring, others, n_jobs, bar)
        outcome_of = dict(zip((each.name for each in sources), outcomes, strict=True))
        found |= {name: outcome for name, outcome in outcome_of.items() if not isinstance(outcome, str)}
        failures = {name: outcome for name, outcome in outcome_of.items() if isinstance(outcome, str)}
        trained = dict(zip(outcome_of, learned, strict=False))
        return measuring.record(found, failures, tuple(trained.get(name, "") for name in found if name != "base"))


def _loadable(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as a worker finds it, whatever its working directory."""
    source, adapter = checkpoint.source, checkpoint.adapter
    if not isinstance(source, (str, Path)):
        raise ArgumentError(
            "checkpoints that a worker can load: names, folders or files",
            f"{checkpoint.name}: a {type(source).__name__} object",
            "save it, or use n_jobs=1",
        )
    path = Path(source).expanduser()
    return replace(
        checkpoint, source=path.absolute() if path.exists() else source, adapter=adapter and adapter.absolute()
    )


def _here(measuring: Measuring, subjects: Sequence[Subject], n_jobs: int | None, bar: tqdm) -> list[Found | str]:
    """The checkpoints' outcomes, one after the other."""
    outcomes = []
    for subject in subjects:
        outcomes.append(_outcome(measuring, subject))
        bar.update()
    return outcomes


def _outcome(measuring: Measuring, subject: Subject) -> Found | str:
    """All that is measured of a checkpoint, or why it could not be."""
    try:
        return measuring.measure(subject)
    except Exception as error:  # of any library: the other checkpoints go on
        return reason(error, 1000)
    finally:
        subject.release()


def _spread(measuring: Measuring, subjects: Sequence[Subject], n_jobs: int | None, bar: tqdm) -> list[Found | str]:
    """The checkpoints' outcomes by workers, each of which has one of them at a time."""
    base = measuring.base
    known = Subject(Checkpoint("base", None), {}, base.ledger, known=base.facts)
    sent = replace(measuring, base=known, cells=replace(measuring.cells, say=print))

    def finished(_: Subject, result: tuple[Found | str, list[str]]) -> None:
        for line in result[1]:
            measuring.cells.say(line)
        bar.update()

    names = [f"checkpoint {subject.name}" for subject in subjects]
    return [outcome for outcome, _ in map_pieces(_in_worker, subjects, n_jobs, names, sent, finished=finished)]


def _in_worker(subject: Subject, measuring: Measuring) -> tuple[Found | str, list[str]]:
    """In the worker: a checkpoint's outcome, and what was said of it."""
    kept = measuring.cells.attention(measuring.base)
    if not kept.is_file():
        raise WorkerError(f"out to be a folder that every worker sees, with {kept.name}", f"none in {kept.parent}")
    said: list[str] = []
    device = worker_device(subject.options.get("device"))
    here = replace(measuring, cells=replace(measuring.cells, say=said.append))
    return _outcome(here, replace(subject, options={**subject.options, "device": device})), said
