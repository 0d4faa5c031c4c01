"""``fine_tune``: the loop, top to bottom."""

import math
import signal
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import checked
from ..errors import ArgumentError, HookError, RecordError
from ..files import held
from ..models import HookedTransformer, active_edits, identity, provenance
from ..records import TrainingRun
from ..scoring import listed
from ..tasks import Prompt, Task
from ..vectors import InstructionVector
from .config import TrainingConfig
from .course import Course
from .interrupts import interrupts
from .learner import Learner, check_learnable, learner
from .log import Log
from .monitor import Ability, measure
from .state import Store


@checked
@torch.inference_mode(False)
def fine_tune(
    model: HookedTransformer,
    data: Task | Iterable[Prompt] | Prompt,
    config: TrainingConfig | None = None,
    *,
    vector: InstructionVector | None = None,
    new: Sequence[Ability] = (),
    keep: Sequence[Ability | Task] = (),
    rehearse: Iterable[Prompt] | Prompt = (),
    replay: Iterable[Prompt] | Prompt = (),
    out: str | Path | None = None,
) -> TrainingRun:
    """Train the model in place on new prompts while ``config.guidance`` keeps what it could do; return the run's log.

    ``data``: prompts, or a task, whose train split is learned and whose test split is measured. ``vector``: the
    instruction vector of the guidance, from the model as it is now. ``new`` and ``keep``: abilities to measure; nothing
    is trained on them. ``rehearse``: see ``rehearsal_prompts``; ``replay``: old examples. ``out``: a folder for the
    state and the log; the same call on the same base model resumes there, to the same weights.

    With ``config.lora`` the updates stay beside the weights: ``merge_lora(model)`` folds them in. A loss or gradient
    that is not finite stops the run before it touches the weights. SIGINT and SIGTERM end it after the step, saved;
    to resume, load the base model anew.

    Raises:
        ArgumentError: something that a term needs is missing, or the model has LoRA already.
        PromptError: a prompt that cannot be tokenised or is longer than the model's context.
        HookError: within ``steer`` or ``ablate``, or with hooks on the model.
        MismatchError: the vector does not fit the model, or ``out`` holds a run of other settings or abilities.
        RecordError: ``out`` cannot be written, or another process is at work in it.
    """
    if active_edits(model):
        raise HookError(
            "a model without active edits",
            "training within steer or ablate, or with hooks",
            "leave their context first",
        )
    config = config or TrainingConfig()
    if isinstance(data, Task):
        new = new or [Ability.of(data)]
        data = data.prompts(split="train", instruction=bool(data.instructions))
    watched = _Watched(tuple(new), tuple(Ability.of(each) for each in keep))
    watched.check(model)
    check_learnable(model, config)
    anchors: dict[str, Tensor] = {}
    course = Course.of(model, config, listed(data), vector, _given(rehearse), _given(replay), anchors)
    settings = {name: value for name, value in asdict(config).items() if name not in ("save_every", "evaluate_every")}
    values = None if vector is None else vector.values.tolist()
    shown = {name: sha256(repr(each).encode()).hexdigest()[:16] for name, each in course.shown.items()}
    shown["vector"] = sha256(repr(values).encode()).hexdigest()[:16]
    origin = provenance(model, training=settings, **shown)
    folder = None if out is None else Path(out)
    key = origin["settings"] | {name: fact for name, fact in identity(origin["model"]).items() if name != "versions"}
    with nullcontext() if folder is None else held(folder):
        store, log = Store(folder, key, watched.asked, config.steps), Log(folder, key)
        with learner(model, config, anchors) as learning:
            course.prepare()
            start = store.load(learning, log)
            stopped = _run(course, learning, store, log, start, watched)
    earlier = {"earlier_versions": store.versions[:-1]} if len(store.versions) > 1 else {}
    return log.run(watched.names, stopped, origin | earlier)


def _given(prompts: Iterable[Prompt] | Prompt) -> list[Prompt]:
    """Prompts, where there are any."""
    return listed(prompts) if prompts else []


@dataclass(frozen=True)
class _Watched:
    new: tuple[Ability, ...]
    keep: tuple[Ability, ...]

    @property
    def names(self) -> set[str]:
        return {each.name for each in (*self.new, *self.keep)}

    @property
    def asked(self) -> dict[str, str]:
        """By the abilities' names, a hash of what is asked."""
        return {each.name: each.digest for each in (*self.new, *self.keep)}

    def check(self, model: HookedTransformer) -> None:
        """Raise before the first step what would be raised when the abilities are measured."""
        if len(self.names) < len(self.new) + len(self.keep):
            raise ArgumentError("abilities of different names", ", ".join(sorted(self.names)))
        for ability in (*self.new, *self.keep):
            ability.check(model)

    def measure(self, model: HookedTransformer, log: Log, step: int) -> None:
        """Log every ability, as it is after so many steps, that the log does not have."""
        for role, abilities in (("new", self.new), ("keep", self.keep)):
            for ability in abilities:
                if not log.has(step, ability.name):
                    log.ability({"step": step, "role": role} | measure(model, ability))


def _run(course: Course, learning: Learner, store: Store, log: Log, start: int, watched: _Watched) -> str:
    """The steps from ``start`` on: why they ended early, if they did."""
    model, config = course.model, course.config

    def due(every: int, done: int) -> bool:
        return done == config.steps or (every > 0 and done % every == 0)

    bar = tqdm(total=config.steps, initial=start, desc="training", unit="step", disable=None)
    with interrupts() as asked, bar:
        if due(config.evaluate_every, start):
            watched.measure(model, log, start)
        for step in range(start, config.steps):
            began, rate = time.perf_counter(), config.rate(step)
            terms = course.learn(step)
            norm = learning.clipped_norm()
            if not (math.isfinite(terms["loss"]) and math.isfinite(norm)):
                if step:
                    _save(store, learning, log)
                stopped = f"step {step}: loss {terms['loss']}, gradient norm {norm}; the weights are those before it"
                warnings.warn(f"ivlens: training stopped at {stopped}", stacklevel=3)
                return stopped
            learning.step(rate, config.guidance.l2)
            seconds = time.perf_counter() - began
            log.step({"step": step} | terms | {"learning_rate": rate, "gradient_norm": norm, "seconds": seconds})
            bar.set_postfix(loss=f"{terms['loss']:.3f}", refresh=False)
            bar.update()
            done = step + 1
            if asked() or due(config.save_every, done):
                _save(store, learning, log)
            if asked():
                raise KeyboardInterrupt if asked() == signal.SIGINT else SystemExit(128 + asked())
            if due(config.evaluate_every, done):
                watched.measure(model, log, done)
    return ""


def _save(store: Store, learning: Learner, log: Log) -> None:
    try:
        store.save(learning, log)
    except RecordError as error:
        warnings.warn(f"ivlens: {error}; training goes on", stacklevel=4)
