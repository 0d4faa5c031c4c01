"""``ForgettingCallback``: what a model forgets while transformers' Trainer, or what builds on it, trains it."""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from ..checkpoints.gating import Limit
from ..checks import Count, Natural, checked
from ..effects import locate_heads
from ..errors import ArgumentError, HookError, IvlensError, RecordError, few
from ..models import Model, provenance
from ..records.abilities import ABILITY
from ..tasks import AnyFormat, Task, load_task
from ..training import Ability, measure, with_vector
from ..training.monitor import Abilities, accuracies
from .watched_model import check_watchable, randomness_kept, tokenizer_of, watched
from .watched_run import MEASURES, WatchedRun, check_limits, measured

FOLDER = "ivlens"  # in the Trainer's output_dir
N_CLEAN, N_CORRUPTED = 50, 25  # prompts that heads are located with, at most
progress = logging.getLogger("ivlens")


class ForgettingCallback(TrainerCallback):
    """Watch what a model forgets in training: a callback of transformers' Trainer and what builds on it, as TRL's.

    Before the first step, every ``every`` steps and after the last one it measures how the model in training answers
    prompts of old tasks, and how their instruction vectors changed (arXiv 2406.12227). The measures are on the model's
    own weights, adapters included, in the weights' dtype; between them nothing is on the model, and what is trained is
    the same, bit for bit, as without the callback. They are logged wherever the Trainer logs, as
    ``abilities/TASK/MEASURE``, and saved as a ``TrainingRun`` in ``ivlens/run.safetensors`` of its ``output_dir``; a
    run that is resumed from a checkpoint goes on with it. Several processes of data parallelism wait for the first,
    which measures.

    Args:
        tasks: tasks to keep, names of built-in ones, or ``Ability``s with prompts and vectors of your own.
        every: steps from one measure to the next.
        n: prompts per task, at most, of its test split.
        k: heads of each task's vector, the strongest of its train split, located before the first step (0: no vectors).
        shots: demonstrations in a prompt.
        format: how prompts are written: "labelled", "plain", "qa" or "chat", the model's chat template. A ``Chat``
            has its settings; a callable writes prompts in a way of your own (``Task.prompts``).
        limits: what is too much, such as ``"forgetting>0.2"`` or ``"cosine<0.8"``: one of the logged measures, > or <,
            and a number. It is exceeded where the whole 95% interval lies beyond the number, as for
            ``checkpoints.gate``; cosine, norm_ratio and alignment, of tasks with a vector alone, have no interval.
            Limits are also looked at whenever a checkpoint is saved, and the last checkpoint at which all of them could
            be judged and none was exceeded is ``last_good_checkpoint``. No look is corrected for the others: a true
            drop exactly at the limit is exceeded by chance in some runs.
        stop: end the training when a limit is exceeded, rather than going on.
        tokenizer: the tokenizer (None: the Trainer's ``processing_class``).
        batch_size: prompts in one forward pass.

    Raises:
        ArgumentError: at once, no tasks, a limit that cannot be read, or one on the vector of a task that has none;
            before the first step, no tokenizer, two tasks of one name, or two of these callbacks.
        UnsupportedError: before the first step: weights that are split between processes, or no causal language model
            of transformers.
        RecordError, MismatchError: a resumed run's first measures are not in ``output_dir``, or of other prompts.

    Warns:
        UserWarning: the model cannot do a task whose forgetting has a limit, a limit is exceeded, abilities could not
            be measured, or the record could not be written; training goes on.

    Example:
        >>> callback = iv.ForgettingCallback([task], every=50, limits="forgetting>0.2")
        >>> callback.last_good_checkpoint is None  # Trainer(..., callbacks=[callback]).train()
        True
    """

    @checked
    def __init__(
        self,
        tasks: Sequence[Task | Ability | str] | Task | Ability | str,
        *,
        every: Count = 100,
        n: Count = 30,
        k: Natural = 10,
        shots: Natural = 2,
        format: AnyFormat = "labelled",
        limits: Sequence[str] | str = (),
        stop: bool = True,
        tokenizer: Any = None,
        batch_size: Count = 32,
    ) -> None:
        given = [tasks] if isinstance(tasks, (Task, Ability, str)) else tasks
        self.tasks = [load_task(each) if isinstance(each, str) else each for each in given]
        if not self.tasks:
            raise ArgumentError("tasks to watch, one or more", "none", "list_tasks() names those that are built in")
        limits = [limits] if isinstance(limits, str) else limits
        self.limits = [Limit.read(each, MEASURES) for each in limits]
        without = [each.name for each in self.tasks if (each.vector is None if isinstance(each, Ability) else not k)]
        check_limits(self.limits, without)
        self.every, self.n, self.k, self.shots, self.format = every, n, k, shots, format
        self.stop, self.tokenizer, self.batch_size = stop, tokenizer, batch_size
        self.run: WatchedRun | None = None
        self._output_dir, self._looked_at = Path(), -1

    @property
    def last_good_checkpoint(self) -> Path | None:
        """The last saved checkpoint that was within all limits, None before one was saved, or without limits."""
        good = None if self.run is None else self.run.last_good
        return None if good is None else self._output_dir / good

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Measure the model before its first step, or read what was measured of a run that is resumed.

        Args:
            args: the Trainer's arguments.
            state: its state.
            control: what it does next.
            parts: its model, tokenizer and other parts.
        """
        trainer, model = _trainer(), parts["model"]
        check_watchable(trainer, model)
        _check_alone(trainer)
        self.run, self._output_dir, self._looked_at = None, Path(args.output_dir), state.global_step
        if not state.is_world_process_zero:
            return
        with randomness_kept(model):
            self.run = self._begun(model, tokenizer_of(self.tokenizer, parts["processing_class"]), state.global_step)
            if not state.global_step:
                self._measure(self.run, trainer, model, state, control)
                self.run.save(state.log_history)
                self._warn_of_no_abilities(self.run)

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Measure where it is due.

        Args:
            args: the Trainer's arguments.
            state: its state.
            control: what it does next.
            parts: its model, tokenizer and other parts.
        """
        if state.global_step % self.every == 0 or control.should_training_stop:
            self._look(args, state, control, parts["model"])

    def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Measure what was saved, if there are limits, and mark it if all could be judged and it is within them.

        Args:
            args: the Trainer's arguments.
            state: its state.
            control: what it does next.
            parts: its model, tokenizer and other parts.
        """
        if not self.limits:
            return
        if self._looked_at != state.global_step:
            self._look(args, state, control, parts["model"])
        run = self.run
        if run is not None and run.last_step == state.global_step and run.within(self.limits):
            run.last_good = f"checkpoint-{state.global_step}"
            _save(run, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Save the record with the losses that were logged since.

        Args:
            args: the Trainer's arguments.
            state: its state.
            control: what it does next.
            parts: its model, tokenizer and other parts.
        """
        if self.run is not None:
            _save(self.run, state)

    def _begun(self, model: Any, tokenizer: Any, step: int) -> WatchedRun:
        """A run that has not measured yet, or one that goes on after ``step`` steps."""
        folder = self._output_dir / FOLDER
        with watched(model, tokenizer, step) as bridge:
            abilities = [self._ability(task, bridge.tokenizer) for task in self.tasks]
            Abilities((), tuple(abilities)).check(bridge)
            self._tokenizer = bridge.tokenizer
            if step:
                return WatchedRun.resumed(folder, abilities, self.k, step)
            abilities = [self._with_vector(bridge, *each) for each in zip(self.tasks, abilities, strict=True)]
            origin = provenance(bridge, measured=measured(abilities, self.k), every=self.every)
        return WatchedRun.begun(folder, abilities, origin)

    def _look(self, args: Any, state: Any, control: Any, model: Any) -> None:
        """Measure on the first process; have all of them stop where a limit is exceeded."""
        self._looked_at, exceeded = state.global_step, ""
        if self.run is not None:
            with randomness_kept(model):
                exceeded = self._guarded(self.run, model, state, control)
        if self.limits and self.stop and _first_process_has(args, bool(exceeded)):
            control.should_training_stop = True

    def _guarded(self, run: WatchedRun, model: Any, state: Any, control: Any) -> str:
        """The limits that are exceeded; a measure that fails does not end a training."""
        try:
            self._measure(run, _trainer(), model, state, control)
        except (IvlensError, torch.OutOfMemoryError) as error:
            text = f"abilities at step {state.global_step} were not measured: {error}"
            warnings.warn(f"ivlens: {text}; training goes on", stacklevel=7)
            return ""
        if exceeded := run.exceeded(self.limits):
            ending = "training ends" if self.stop else "training goes on"
            good = f"the last good checkpoint is {run.last_good}" if run.last_good else "no good checkpoint was saved"
            warnings.warn(f"ivlens: step {state.global_step}: {exceeded}; {ending}; {good}", stacklevel=7)
            run.stopped = f"step {state.global_step}: {exceeded}" if self.stop else ""
        _save(run, state)
        return exceeded

    def _warn_of_no_abilities(self, run: WatchedRun) -> None:
        """Warn of limits that say nothing, since there is nothing to forget."""
        weak = [each.name for each in run.abilities if each.name not in run.able]
        if weak and any(limit.measure == "forgetting" for limit in self.limits):
            few_right = f"before training the model answers less than {ABILITY:.0%} of {few(weak)}, or as guesses would"
            warnings.warn(f"ivlens: {few_right}: a limit on forgetting says nothing there", stacklevel=7)

    def _measure(self, run: WatchedRun, trainer: Any, model: Any, state: Any, control: Any) -> Sequence[dict[str, Any]]:
        """Measure all abilities of the model as it is now, and log them; return their rows."""
        step = state.global_step
        with watched(model, self._tokenizer, step, run.provenance["model"]) as bridge:
            found = [measure(bridge, each, batch_size=self.batch_size, since=True) for each in run.abilities]
        rows = run.add(step, found)
        progress.info("step %d of %d: accuracy %s", step, state.max_steps, accuracies(rows))
        _log(trainer, control, {f"abilities/{row['ability']}/{name}": row[name] for row in rows for name in MEASURES
                                if name in row})  # fmt: skip
        return rows

    def _ability(self, task: Task | Ability, tokenizer: Any) -> Ability:
        return Ability.of(task, self.n, shots=self.shots, format=self.format, tokenizer=tokenizer)

    def _with_vector(self, bridge: Model, task: Task | Ability, ability: Ability) -> Ability:
        """The ability with the vector of the task's strongest heads; one that was given has its own, or none."""
        if isinstance(task, Ability) or not self.k:
            return ability
        most = len(task.split("train"))
        effects = locate_heads(
            bridge, task, n_clean=min(N_CLEAN, most), n_corrupted=min(N_CORRUPTED, most), shots=self.shots,
            format=self.format,
        )  # fmt: skip
        return with_vector(bridge, ability, effects.top(self.k), batch_size=self.batch_size)


def _trainer() -> Any:
    """The Trainer that calls the callback, since it does not say who it is: of the calls that led here, the nearest.

    Raises:
        HookError: another program calls it.
    """
    from transformers import Trainer  # which needs accelerate

    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if isinstance(caller := frame.f_locals.get("self"), Trainer):
            return caller
        frame = frame.f_back
    raise HookError("a Trainer of transformers that calls the callback", "another caller", "Trainer(callbacks=[...])")


def _check_alone(trainer: Any) -> None:
    """Raise ArgumentError for two of these callbacks, which would write the same record."""
    found = [each for each in trainer.callback_handler.callbacks if isinstance(each, ForgettingCallback)]
    if len(found) > 1:
        do = "give one callback all tasks, Abilities with prompts of their own among them"
        raise ArgumentError("one ForgettingCallback, which has the record in output_dir", f"{len(found)}", do)


def _save(run: WatchedRun, state: Any) -> None:
    """Save the record; a training does not end for want of it."""
    try:
        run.save(state.log_history)
    except RecordError as error:
        warnings.warn(f"ivlens: step {state.global_step}: {error}; training goes on", stacklevel=7)


def _log(trainer: Any, control: Any, values: dict[str, float]) -> None:
    """Log values as the Trainer does, whose own log of this step stays due.

    A subclass' ``log``, such as TRL's, would end the window of its own averages.
    """
    from transformers import Trainer

    due = control.should_log
    Trainer.log(trainer, values)
    control.should_log = due


def _first_process_has(args: Any, found: bool) -> bool:
    """What the first process found, in all of them."""
    if args.world_size == 1:
        return found
    flag = torch.tensor([int(found)], device=args.device)
    torch.distributed.broadcast(flag, 0)
    return bool(flag.item())
