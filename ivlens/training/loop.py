"""``fine_tune``: the training loop, top to bottom."""

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from ..checks import checked
from ..errors import HookError, RecordError
from ..files import held, short_hash
from ..models import HookedTransformer, Model, active_edits, identity, only_hooked, provenance
from ..progress import ProgressBar
from ..records import TrainingRun
from ..records.folders import check_folder
from ..scoring import listed
from ..tasks import AnyFormat, Prompt, Task
from ..text import plural
from ..vectors import InstructionVector
from .config import TrainingConfig
from .earlier_adapters import earlier_factors, factors_digest
from .log import Log
from .monitor import Abilities, Ability, accuracies
from .penalties import Penalty, penalties_of
from .processes import Processes, joined_processes
from .state import CheckpointManager
from .step import TrainingStep
from .trainable import Trainable, check_trainable

NOT_OF_WEIGHTS = ("save_every", "evaluate_every")  # settings that a resumed run may change
LINES = 10  # on the measured abilities in a run, about
progress = logging.getLogger("ivlens")


@checked
@torch.inference_mode(False)
def fine_tune(
    model: Model,
    data: Task | Iterable[Prompt] | Prompt,
    config: TrainingConfig | None = None,
    *,
    vector: InstructionVector | None = None,
    new: Sequence[Ability] = (),
    keep: Sequence[Ability | Task] = (),
    rehearse: Iterable[Prompt] | Prompt = (),
    replay: Iterable[Prompt] | Prompt = (),
    adapters: Sequence[str | Path | Mapping[tuple[int, str], tuple[Tensor, Tensor]]] = (),
    format: AnyFormat = "labelled",
    out: str | Path | None = None,
) -> TrainingRun:
    """Train the model in place on new prompts while ``config.guidance`` preserves its abilities; return the run's log.

    With ``config.lora`` the updates stay separate; ``merge_lora(model)`` merges them. A loss or gradient that is not
    finite stops the run before the weights change. SIGINT and SIGTERM save and end it after the current step; to
    resume, load the base model again. In several processes, as ``accelerate launch`` starts them, each takes its part
    of every step's prompts; the first one measures and writes.

    Args:
        model: the base model, in float32 or float64.
        data: prompts, or a task, whose train split is trained on and whose test split is measured.
        config: how it trains (None: ``TrainingConfig()``).
        vector: the instruction vector that terms of the guidance need, computed on this model.
        new: new abilities to measure, on prompts that are not trained on.
        keep: old abilities, or tasks, to measure, on prompts that are not trained on.
        rehearse: prompts for ``Rehearsal`` (see ``rehearsal_prompts``).
        replay: examples of old tasks for ``Replay`` and ``EWC``.
        adapters: for ``OLoRA``, the LoRA of each task learned before, which is merged into ``model``: the folder of its
            run, or its factors, ``ivlens.models.lora_factors(model)`` from before the merge. Each of another seed.
        format: how the prompts of tasks are written: "labelled", "plain", "qa", "chat", the model's chat template, or a
            ``Chat``, or a callable of your own.
        out: folder for state and log; the same call on the same base model resumes the run, to the same weights.

    Returns:
        Losses by step, and the measurements of the abilities.

    Raises:
        ArgumentError: something that a term needs is missing, or the model has LoRA already.
        PromptError: a prompt that cannot be tokenised or is longer than the model's context.
        HookError: within ``steer`` or ``ablate``, or with hooks on the model.
        MismatchError: the vector does not fit the model, or ``out`` holds a run of other settings or abilities.
        RecordError: ``out`` cannot be written, holds another command's results, or another process is at work in it.

    Example:
        >>> run = iv.fine_tune(model, task, iv.TrainingConfig(steps=2), keep=[iv.Ability("old", tuple(prompts))])
        >>> run.steps, run.final()["ability"].tolist()[-1]
        (2, 'old')
    """
    model = only_hooked(model, "training")
    _check_no_edits(model)
    config = config or TrainingConfig()
    ability = partial(Ability.of, format=format, tokenizer=model.tokenizer)
    if isinstance(data, Task):
        new = new or [ability(data)]
        data = data.prompts(split="train", format=format, tokenizer=model.tokenizer)
    abilities = Abilities(tuple(new), tuple(ability(each) for each in keep))
    abilities.check(model)
    check_trainable(model, config)
    folder, processes = None if out is None else Path(out), joined_processes()
    check_folder(folder, "train")
    processes.check(config.guidance)
    factors = [earlier_factors(each) for each in adapters]
    prompts = listed(data), vector, _listed_any(rehearse), _listed_any(replay)
    step = TrainingStep.of(model, config, *prompts, folder, processes)
    settings = {name: value for name, value in config.facts.items() if name not in NOT_OF_WEIGHTS}
    merged = {"adapters": [factors_digest(each) for each in factors]} if factors else {}
    origin = provenance(model, training=settings, vector=vector_digest(vector), **step.digests, **merged)
    key = origin["settings"] | {name: fact for name, fact in identity(origin["model"]).items() if name != "versions"}
    with held(folder) if folder is not None and processes.is_first else nullcontext():
        checkpoints = CheckpointManager(folder, key, abilities.digests, config.steps)
        log = Log(folder if processes.is_first else None, key)
        with Trainable.of(model, config) as trainable:
            step.prepare(trainable.anchors)
            penalties = penalties_of(model, trainable, config, step.fisher_pairs, factors, folder)
            start = checkpoints.load(trainable, log)
            stopped = _Loop(step, trainable, penalties, checkpoints, log, abilities, processes).run(start)
    processes.wait()
    earlier = {"earlier_versions": checkpoints.versions[:-1]} if len(checkpoints.versions) > 1 else {}
    return log.run({*abilities.digests}, stopped, origin | earlier)


@dataclass(frozen=True)
class _Loop:
    """A run's steps and the files that they write."""

    training_step: TrainingStep
    trainable: Trainable
    penalties: tuple[Penalty, ...]
    checkpoints: CheckpointManager
    log: Log
    abilities: Abilities
    processes: Processes

    def run(self, start: int) -> str:
        """Take the steps from ``start`` on; return why they ended early, if so."""
        steps = self.training_step.config.steps
        bar = ProgressBar(total=steps, initial=start, desc="training", unit="step")
        with interrupts() as received, bar:
            stopped = self._steps(range(start, steps), received, bar)
            if stop := self.processes.largest(received()):  # since the last step
                raise _interruption(stop)
        return stopped

    def _steps(self, numbers: range, received: Callable[[], int], bar: ProgressBar) -> str:
        config = self.training_step.config
        self._measure_if_due(numbers.start)
        for number in numbers:
            row = self._step(number)
            if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
                return self._stopped(number, row)
            self.log.step(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            bar.update()
            done = number + 1
            self.trainable.average(number)
            if done == config.steps:
                if not self.trainable.is_finite():  # no further loss would show it
                    return _warned(f"step {number}: weights that are not finite after it")
                self.trainable.finish()
            stop = self.processes.largest(received())
            if stop or self._due(config.save_every, done):
                self._save()
            if stop:
                raise _interruption(stop)
            self._measure_if_due(done)
        return ""

    def _step(self, number: int) -> dict[str, float]:
        """Take a step, unless its loss or gradient is not finite; return its row of the log."""
        began, rate = time.perf_counter(), self.training_step.config.rate(number)
        losses = self.processes.sum_values(self.training_step.losses, self.training_step.backward(number))
        self.processes.sum_gradients(self.trainable.parameters.values())
        for penalty in self.penalties:
            found = penalty.backward()
            losses |= found | {"loss": losses["loss"] + found["loss"]}
        norm = self.trainable.clipped_norm()
        if math.isfinite(losses["loss"]) and math.isfinite(norm):
            self.trainable.step(rate)
        seconds = time.perf_counter() - began
        return {"step": number} | losses | {"learning_rate": rate, "gradient_norm": norm, "seconds": seconds}

    def _stopped(self, number: int, row: dict[str, float]) -> str:
        if number:
            self._save()
        found = f"loss {row['loss']}, gradient norm {row['gradient_norm']}"
        return _warned(f"step {number}: {found}; the weights are those before it")

    def _due(self, every: int, done: int) -> bool:
        return done == self.training_step.config.steps or (every > 0 and done % every == 0)

    def _measure_if_due(self, done: int) -> None:
        config = self.training_step.config
        if not (self.processes.is_first and self._due(config.evaluate_every, done)):
            return
        if self.abilities.digests and done == 0:
            progress.info("measuring %s before the first step", plural(len(self.abilities.digests), "task"))
        for row in self.abilities.measure(self.training_step.model, done, self.log.has):
            self.log.ability(row)
        part, earlier = (LINES * step // config.steps for step in (done, done - config.evaluate_every))
        if self.abilities.digests and (done in (0, config.steps) or part > earlier):
            rows = [self.log.measured[done, name] for name in self.abilities.digests]
            progress.info("step %d of %d: accuracy %s", done, config.steps, accuracies(rows))

    def _save(self) -> None:
        if not self.processes.is_first:
            return
        try:
            self.checkpoints.save(self.trainable, self.log)
        except RecordError as error:
            warnings.warn(f"ivlens: {error}; training goes on", stacklevel=4)


@contextmanager
def interrupts() -> Iterator[Callable[[], int]]:
    """Within this context SIGINT and SIGTERM are recorded: the call returns the signal, or 0; a second acts at once.

    Only the main thread can handle signals; in other threads nothing changes.
    """
    received = 0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return

    def listen(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, listen)
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interruption(signal_number: int) -> BaseException:
    """What a signal raises where it was not listened to."""
    return KeyboardInterrupt() if signal_number == signal.SIGINT else SystemExit(128 + signal_number)


def _check_no_edits(model: HookedTransformer) -> None:
    if active_edits(model):
        raise HookError(
            "a model without active edits", "training within steer or ablate, or with hooks",
            "leave their context first",
        )  # fmt: skip


def _listed_any(prompts: Iterable[Prompt] | Prompt) -> list[Prompt]:
    """The prompts as a list, which may be empty."""
    return listed(prompts) if prompts else []


def _warned(stopped: str) -> str:
    """Why a run ended early, which is also a warning."""
    warnings.warn(f"ivlens: training stopped at {stopped}", stacklevel=5)
    return stopped


def vector_digest(vector: InstructionVector | None) -> str:
    """Hash of a vector's values and heads, or of none."""
    return short_hash(None if vector is None else (vector.heads, vector.values.tolist()))
