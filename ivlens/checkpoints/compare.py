"""``compare_checkpoints``: what was forgotten, where, and is it still in there?"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ..checks import Count, checked
from ..effects.checks import check_stream_dtype
from ..errors import ArgumentError, SourceError, WorkerError, reason
from ..files import held
from ..models import check_device, worker_device
from ..models.shapes import check_shapes
from ..parallel import map_pieces, workers
from ..progress import ProgressBar
from ..records import CheckpointComparison, HeadReading
from ..tasks import Task, as_tasks, is_chat
from ..vectors import InstructionVector
from ..vocabulary import Condition
from .config import CheckpointConfig
from .further import FurtherMeasures
from .general import GeneralPrompts, general_prompts, general_rows, measure_general
from .measure import (
    CheckpointMeasurements,
    Measurement,
    SteeringPoint,
    log,
    reselected_vector_of,
    vector_of,
)
from .prompts import TaskPrompts, check_same_tokens, draw_prompts, warn_of_another_template
from .run_folders import with_runs
from .sources import CheckpointSource, CheckpointUnderTest, check_comparable, check_sources, name_sources
from .summary import summarize

MEASURES, FACTS = "measures", "facts"  # folders in ``out``


@checked
def compare_checkpoints(
    base: Any,
    checkpoints: Mapping[str, Any] | Sequence[Any],
    tasks: Sequence[Task | str],
    config: CheckpointConfig | None = None,
    *,
    out: str | Path | None = None,
    learned: Sequence[str] = (),
    n_jobs: Count | None = 1,
    **options: Any,
) -> CheckpointComparison:
    """Measure a base model and its checkpoints on tasks, one checkpoint in memory at a time, and compare them.

    Every finished measure is saved in ``out`` and found again by content: an interrupted comparison resumes, and an
    additional checkpoint costs only its own measures. The logger "ivlens" reports at level INFO what is measured.
    Numbers do not depend on ``n_jobs``, except for rounding where workers have other devices or another number of
    threads.

    Args:
        base: anything that ``load_model`` reads.
        checkpoints: checkpoints of the base: what ``load_model`` reads, hub names with ``@revision``, adapters of the
            base, or folders of training runs; with ``checkpoint-N`` folders inside, as transformers' Trainer, TRL and
            LLaMA-Factory leave them, it stands for all of them by their steps. A mapping gives names.
        tasks: tasks with different names, or names of built-in ones or files.
        config: what is measured and how (None: the defaults of ``CheckpointConfig``).
        out: folder for the measures, accessible to all workers (None: a temporary one).
        learned: for a sequence of checkpoints, the task that each, or each run, was trained on; where it is one of
            ``tasks``, the old tasks are also measured against it (spillover, its vector subtracted).
        n_jobs: workers that share the checkpoints; the base is measured here first. None: what
            ``joblib.parallel_config`` says.
        options: options of ``load_model`` for all models: ``device``, ``dtype``, ``tokenizer``.

    Returns:
        The comparison, the base first; a checkpoint that could not be loaded or compared is logged as a warning, and
        named in ``failures``.

    Raises:
        ArgumentError: no checkpoints or tasks, or two of one name; no checkpoint of the base's shape; a task that
            ``config`` gives neither instruction nor demonstrations; with workers, a checkpoint that is a model object.
        SourceError: the base, or a checkpoint, does not exist, which is said before anything is loaded; or no
            checkpoint could be compared.
        UnsupportedError, DownloadError, SourceError: the base cannot be loaded.
        HookError: hooks are active on the base.
        RecordError: ``out`` cannot be written, or another process is at work in it.
        WorkerError: a worker died, or cannot access ``out``; finished measures are kept there.

    Example:
        >>> config = iv.CheckpointConfig(n_clean=4, groups=2, n_corrupted=2, k=2, shots=1, n_test=2, n_validation=2)
        >>> iv.compare_checkpoints(model, {"same": model}, [task], config).checkpoints
        ('base', 'same')
    """
    config = config or CheckpointConfig()
    check_device(options.get("device"))
    asked = as_tasks(tasks)
    if not asked or len({task.name for task in asked}) < len(asked):
        raise ArgumentError("different tasks, one or more", ", ".join(task.name for task in asked) or "none")
    named = with_runs(checkpoints)
    sources = given = name_sources(named, base)
    if learned and len(learned) == len(checkpoints):
        learned = [learned[each.number] for each in named]
    if learned and len(learned) != len(sources):
        raise ArgumentError(f"learned to name a task for each of {len(sources)} checkpoints", f"{len(learned)} names")
    check_sources([CheckpointSource("base", base), *sources])
    check_shapes(base, {each.name: each.source for each in sources}, all_of_them=False)
    share = workers(n_jobs) > 1 and len(sources) > 1
    sources = [each.for_worker() for each in sources] if share else sources
    with tempfile.TemporaryDirectory() as scratch, held(scratch if out is None else out):
        folder = Path(scratch if out is None else out).absolute()
        first, *others = [
            CheckpointUnderTest(each, each.options(options), folder / FACTS)
            for each in (CheckpointSource("base", base), *sources)
        ]
        tokenizer = first.tokenizer() if is_chat(config.format) else None
        new = [task for task in asked if task.name in learned]
        prompts = [draw_prompts(task, config, tokenizer, new) for task in asked]
        learned_by = {each.name: task for each, task in zip(sources, learned, strict=False)}
        with ProgressBar(total=len(sources) + 1, desc="checkpoints", unit="checkpoint") as bar:
            reference = _measure_base(FurtherMeasures(folder / MEASURES, config), first, prompts, learned_by)
            bar.update()
            outcomes = _by_workers(reference, others, n_jobs, bar) if share else _here(reference, others, bar)
    comparison = _comparison(reference, dict(zip([each.name for each in sources], outcomes, strict=True)), learned)
    if len(comparison.failures) == len(sources):
        reasons = "; ".join(f"{name}: {why}" for name, why in comparison.failures.items())
        raise SourceError("one checkpoint or more that can be compared", f"none ({reasons:.1000})")
    for name, why in comparison.failures.items():
        log.warning("%s was not compared: %s", name, why)
    origins = {
        "checkpoints": {each.name: each.text for each in given if each.text},
        "tasks": {task.name: task.source for task in asked if task.source},
    }
    return replace(comparison, provenance={**comparison.provenance, **origins})


def drop_base_tensors(out: Path) -> None:
    """Remove the base's matrices and outputs that ``compare_checkpoints`` kept in ``out`` for further checkpoints."""
    for kept in ("attention", "mlp", "outputs"):
        for path in (out / MEASURES).glob(f"{kept}-*.safetensors"):
            path.unlink()


@dataclass(frozen=True)
class Reference:
    """The base, as checkpoints are compared with it: facts, tokenizer, measures, prompts, what each one learned.

    ``general`` are the prompts of general abilities that the base could be asked.
    """

    measures: FurtherMeasures
    prompts: list[TaskPrompts]
    general: GeneralPrompts
    facts: dict[str, Any]
    tokenizer: Any
    measured: CheckpointMeasurements
    learned: Mapping[str, str]

    @property
    def readings(self) -> dict[str, HeadReading]:
        """The base's heads and vector of each task."""
        return {task: each.heads for task, each in self.measured.tasks.items()}


def _measure_base(
    measures: FurtherMeasures, base: CheckpointUnderTest, prompts: list[TaskPrompts], learned: Mapping[str, str]
) -> Reference:
    """All measures of the base, and the layer and scale at which each task's vector works best on it."""
    try:
        measures.config.check_model(base.facts["n_layers"], base.facts["n_heads"])
        check_stream_dtype(getattr(torch, base.facts["dtype"]), measures.config.stream_dtype)
        measures.keep_attention(base)
        measures.keep_mlps(base)
        for asked in ([], *(each.test for each in prompts if each.task in learned.values())):
            measures.keep_outputs(base, asked)
        tokenizer = base.tokenizer()
        readings = {each.task: measures.heads(base, each, None) for each in prompts}
        steered = {}
        for each in prompts:
            sweep = measures.sweep(base, each, vector_of(readings[each.task], each.task))
            steered[each.task] = SteeringPoint(*sweep.best()[:2])
        by_task = _measure_tasks(measures, base, prompts, readings, readings, steered)
        general = general_prompts(measures.config, base)
        answers = measure_general(measures.folder, base, general)
        measured = CheckpointMeasurements(by_task, measures.weights(base, base.facts).values, general=answers)
        return Reference(measures, prompts, general, base.facts, tokenizer, measured, learned)
    finally:
        base.release()


def _measure(reference: Reference, checkpoint: CheckpointUnderTest) -> CheckpointMeasurements:
    """All measures of a checkpoint.

    Raises:
        MismatchError: its numbers are not comparable with the base's.
    """
    measures, facts = reference.measures, checkpoint.facts
    check_comparable(reference.facts, facts)
    if any(reference.facts.get(name) != facts.get(name) for name in ("tokenizer_sha256", "bos")):
        clean = chain.from_iterable((*each.clean, *each.test) for each in reference.prompts)
        own = checkpoint.tokenizer()
        check_same_tokens(checkpoint.name, reference.tokenizer, own, clean)
        warn_of_another_template(checkpoint.name, reference.tokenizer, own, measures.config.format)
    readings = {
        each.task: measures.heads(checkpoint, each, reference.readings[each.task].heads) for each in reference.prompts
    }
    by_task = _measure_tasks(
        measures, checkpoint, reference.prompts, readings, reference.readings, reference.measured.steered
    )
    new = next((each for each in reference.prompts if each.task == reference.learned.get(checkpoint.name)), None)
    divergence = None
    if new is not None:
        divergence = measures.divergence(checkpoint, new, reference.facts)
        vector = reselected_vector_of(readings[new.task], new.task)
        by_task = {
            task: each if task == new.task
            else replace(each, against_new=measures.against_new(checkpoint, each.prompts, vector, new.task))
            for task, each in by_task.items()
        }  # fmt: skip
    return CheckpointMeasurements(
        by_task, measures.weights(checkpoint, reference.facts).values, divergence,
        measures.text_divergence(checkpoint, reference.facts), measures.spectrum(checkpoint, reference.facts),
        measure_general(measures.folder, checkpoint, reference.general),
    )  # fmt: skip


def _measure_tasks(
    measures: FurtherMeasures,
    checkpoint: CheckpointUnderTest,
    prompts: list[TaskPrompts],
    own: Mapping[str, HeadReading],
    base: Mapping[str, HeadReading],
    steered: Mapping[str, SteeringPoint],
) -> dict[str, Measurement]:
    """The measures that need the heads: the checkpoint's ``own`` and those of the base."""
    names = [each.task for each in prompts]
    by_task = {}
    for number, each in enumerate(prompts):
        task = each.task
        vectors: dict[str, InstructionVector] = {
            Condition.BASE_VECTOR: vector_of(base[task], task),
            Condition.OWN_VECTOR: reselected_vector_of(own[task], task),
        }
        if len(names) > 1:
            other = names[(number + 1) % len(names)]
            vectors[Condition.OTHER_VECTOR] = vector_of(base[other], other)
        answers, hidden = measures.answers_and_hidden(checkpoint, each)
        by_task[task] = Measurement(
            answers, measures.knowledge(checkpoint, each), own[task],
            hidden, measures.recovery(checkpoint, each, vectors, steered[task], answers),
            steered[task], measures.replies(checkpoint, task, each.test, "replies"),
            measures.steered_replies(checkpoint, each, vectors[Condition.BASE_VECTOR], steered[task]), each,
        )  # fmt: skip
    return by_task


def _outcome(reference: Reference, checkpoint: CheckpointUnderTest) -> CheckpointMeasurements | str:
    """All measures of a checkpoint, or why it could not be measured."""
    try:
        return _measure(reference, checkpoint)
    except Exception as error:  # from any library; the other checkpoints are still measured
        return reason(error, 1000)
    finally:
        checkpoint.release()


def _here(
    reference: Reference, checkpoints: Sequence[CheckpointUnderTest], bar: ProgressBar
) -> list[CheckpointMeasurements | str]:
    """The checkpoints' outcomes, measured in this process."""
    outcomes = []
    for checkpoint in checkpoints:
        outcomes.append(_outcome(reference, checkpoint))
        bar.update()
    return outcomes


def _by_workers(
    reference: Reference, checkpoints: Sequence[CheckpointUnderTest], n_jobs: int | None, bar: ProgressBar
) -> list[CheckpointMeasurements | str]:
    """The checkpoints' outcomes, measured by workers, one checkpoint at a time each; their messages are logged here."""

    def finished(_: CheckpointUnderTest, result: tuple[CheckpointMeasurements | str, list[str]]) -> None:
        for message in result[1]:
            log.info("%s", message)
        bar.update()

    names = [f"checkpoint {checkpoint.name}" for checkpoint in checkpoints]
    results = map_pieces(_in_worker, checkpoints, n_jobs, names, reference, finished=finished)
    return [outcome for outcome, _ in results]


def _comparison(
    reference: Reference, outcomes: Mapping[str, CheckpointMeasurements | str], learned: Sequence[str]
) -> CheckpointComparison:
    """The record of the checkpoints that were measured, and why the others were not."""
    measured = {name: each for name, each in outcomes.items() if not isinstance(each, str)}
    failures = {name: each for name, each in outcomes.items() if isinstance(each, str)}
    trained_on = dict(zip(outcomes, learned, strict=False))
    every = {"base": reference.measured, **measured}
    comparison = summarize(
        every, reference.measures.config, reference.facts, failures,
        tuple(trained_on.get(name, "") for name in measured),
    )  # fmt: skip
    return replace(comparison, general=general_rows(every))


def _in_worker(checkpoint: CheckpointUnderTest, reference: Reference) -> tuple[CheckpointMeasurements | str, list[str]]:
    """In the worker: a checkpoint's outcome, and its log messages."""
    path = reference.measures.attention_file(reference.facts)
    if not path.is_file():
        raise WorkerError(f"out to be a folder that every worker sees, with {path.name}", f"none in {path.parent}")
    device = worker_device(checkpoint.options.get("device"))
    checkpoint = replace(checkpoint, options={**checkpoint.options, "device": device})
    with _messages() as messages:
        return _outcome(reference, checkpoint), messages


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Within this context collect log messages, which nobody would see in a worker; those on loading are left out."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == log.name:
                messages.append(record.getMessage())

    before = log.handlers, log.level, log.propagate
    log.handlers, log.propagate = [Collect()], False
    log.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        log.handlers, log.propagate = before[0], before[2]
        log.setLevel(before[1])
