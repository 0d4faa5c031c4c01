"""The runs of the study: one after the other in each of several processes, and a file with a line for each."""

import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ivlens import ContinualConfig, ContinualRun, DivergedError, continual, load_model
from ivlens.files import safe_name, short_hash
from ivlens.models import has_lora, merge_lora, only_hooked, unchanged
from ivlens.training import Ability
from ivlens.training.monitor import measured_row

from ..base_weights import BaseWeights
from .config import METHODS, REGIMES, Run, StudyConfig

KEPT = ("stage", "role", "ability", "accuracy", "probability", "correct")  # of what is measured of an ability
Line = dict[str, Any]
logger = logging.getLogger("ivlens")


class Trainer:
    """A model that is trained, and then made the base again."""

    def __init__(self, config: StudyConfig, device: str) -> None:
        self.config = config
        self.model = only_hooked(load_model(config.source, device=device), "training")
        self.earlier: dict[tuple[str, ...], ContinualRun] = {}  # by its tasks; its measures of the base serve again
        self.base = BaseWeights.of(self.model)
        self.finished: Finished | None = None  # the last run whose weights serve again

    def line(self, run: Run) -> Line:
        """What a run learned and kept: a row for each ability before and after."""
        began = time.perf_counter()
        try:
            measured, why = self._interpolated(run) if METHODS[run.method].at_end else self._learned(run), ""
        except DivergedError as error:
            measured, why = (), str(error)
        finally:
            if has_lora(self.model):  # of a task that was stopped
                merge_lora(self.model)
            self.base.put_back()
        device = self.model.cfg.device or "cpu"
        return {
            "run": run._asdict(), "key": key_of(run, self.config), "stopped": why,
            "rows": [{name: row[name] for name in KEPT} for row in measured],
            "seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU",
        }  # fmt: skip

    def _learned(self, run: Run) -> Sequence[Line]:
        """Learn the run's tasks, and measure all before and after."""
        new, old = self.config.tasks(run)
        names = tuple(task.name for task in (*new, *old))
        found = continual(self.model, new, self._settings(run), keep=old, like=self.earlier.get(names))
        self.earlier[names] = found
        return found.measured

    def _interpolated(self, run: Run) -> Sequence[Line]:
        """The same with a share of the whole change kept, measured again; the weights serve all shares."""
        alike = run._replace(strength=0.0)
        if self.finished is None or self.finished.run != alike:
            self.finished = Finished(alike, self._learned(run), BaseWeights.of(self.model))
        self.base.put_back()
        self.finished.weights.move_to(run.strength)
        end = max(row["stage"] for row in self.finished.measured)
        earlier = [row for row in self.finished.measured if row["stage"] < end]
        with unchanged(self.model):
            last = [
                {"stage": end, "role": role} | measured_row(self.model, ability, per_prompt=True)
                for role, ability in self._abilities(run)
            ]
        return [*earlier, *last]

    def _abilities(self, run: Run) -> Iterator[tuple[str, Ability]]:
        """What is measured of a run, with the prompts of ``continual``."""
        settings = self._settings(run)
        shots = {"new": settings.shots, "keep": settings.keep_shots}
        for role, tasks in zip(shots, self.config.tasks(run), strict=True):
            for task in tasks:
                n = min(self.config.n_test, len(task.split("test")))
                yield role, Ability(task.name, tuple(task.prompts(n, shots=shots[role], split="test")))

    def _settings(self, run: Run) -> ContinualConfig:
        training = self.config.training(run)
        return ContinualConfig(training, n_test=self.config.n_test, vectors=False, measure_after="last")


class Finished(NamedTuple):
    """A run whose strength is not of its training, what was measured of it, and its weights."""

    run: Run
    measured: Sequence[Line]
    weights: BaseWeights


def key_of(run: Run, config: StudyConfig) -> str:
    """Hash of all that a run depends on, but the code and the machine."""
    new, old = config.tasks(run)
    facts = [config.source, config.n_test, config.training(run).facts, *(task.digest for task in (*new, *old))]
    return short_hash(facts)


def records_file(folder: Path, config: StudyConfig) -> Path:
    """The file of a model's runs within the study's folder."""
    return folder / "records" / f"{safe_name(config.source)}.jsonl"


def read(path: Path, config: StudyConfig) -> dict[Run, Line]:
    """The lines of a file of runs, those of other settings left out; a line that a kill cut off is none."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        run = Run(**line["run"])
        if run.method in METHODS and run.regime in REGIMES and line["key"] == key_of(run, config):
            found[run] = line
    return found


def measure(
    runs: Iterable[Run | None], path: Path, config: StudyConfig, *, workers: int, device: str, minutes: float
) -> None:
    """Measure the runs that the file lacks, in as many processes, and append each when it is finished.

    No run begins after ``minutes``, nor one that comes after a None before all runs in front of it are in the file.
    """
    known, end = set(read(path, config)), time.monotonic() + 60 * minutes
    wanted = _new(runs, known)
    path.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with (
        path.open("a", encoding="utf-8") as file,
        ProcessPoolExecutor(workers, context, _begin, (config, device)) as pool,
    ):
        if file.tell() and not path.read_bytes().endswith(b"\n"):  # cut off by a kill
            file.write("\n")
        for number, line in enumerate(_in_turn(pool, wanted, workers, end), 1):
            file.write(json.dumps(line) + "\n")
            file.flush()
            left = (end - time.monotonic()) / 60
            logger.info("%d: %s, %.0f s; %.1f min left", number, line["run"], line["seconds"], left)


def _new(runs: Iterable[Run | None], known: set[Run]) -> Iterator[Run | None]:
    """Each run once that is not known, and each None."""
    seen = set(known)
    for run in runs:
        if run is None:
            yield None
        elif run not in seen:
            seen.add(run)
            yield run


def _in_turn(pool: ProcessPoolExecutor, runs: Iterator[Run | None], workers: int, end: float) -> Iterator[Line]:
    """Lines as they are finished; a run is handed out when a process is free for it, and none after one has failed."""
    pending: set[Future[Line]] = set()
    failed: list[BaseException] = []

    def lines(done: Iterable[Future[Line]]) -> Iterator[Line]:
        for each in done:
            if error := each.exception():
                failed.append(error)
            else:
                yield each.result()

    for run in runs:
        while len(pending) >= (workers if run else 1):
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from lines(done)
        if failed or time.monotonic() >= end:
            break
        if run:
            pending.add(pool.submit(_run, run))
    yield from lines(as_completed(pending))
    if failed:
        raise failed[0]


_trainer: Callable[[Run], Line]  # of a process


def _begin(config: StudyConfig, device: str) -> None:
    global _trainer
    torch.set_num_threads(1)
    _trainer = Trainer(config, device).line


def _run(run: Run) -> Line:
    return _trainer(run)
