"""``fine_tune``: the loop, top to bottom."""

import math
import signal
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import RecordError
from ..models import HookedTransformer, provenance
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


@torch.inference_mode(False)
def fine_tune(
    model: HookedTransformer,
    data: Task | Iterable[Prompt],
    config: TrainingConfig | None = None,
    *,
    vector: InstructionVector | None = None,
    new: Sequence[Ability] = (),
    keep: Sequence[Ability | Task] = (),
    rehearse: Iterable[Prompt] = (),
    replay: Iterable[Prompt] = (),
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
        MismatchError: the vector does not fit the model, or ``out`` holds a run of other settings.
        RecordError: ``out`` cannot be written.
    """
    config = config or TrainingConfig()
    if isinstance(data, Task):
        new = new or [Ability.of(data)]
        data = data.prompts(split="train", instruction=bool(data.instructions))
    watched = _Watched(tuple(new), tuple(Ability.of(each) for each in keep))
    shown = {"prompts": listed(data), "rehearse": list(rehearse), "replay": list(replay)}
    check_learnable(model, config)
    anchors: dict[str, Tensor] = {}
    course = Course.of(model, config, shown["prompts"], vector, shown["rehearse"], shown["replay"], anchors)
    settings = {name: value for name, value in asdict(config).items() if name not in ("save_every", "evaluate_every")}
    digests = {name: _digest(repr([(each.text, each.answers) for each in prompts])) for name, prompts in shown.items()}
    digests["vector"] = _digest("" if vector is None else repr(vector.values.tolist()))
    origin = provenance(model, training=settings, **digests)
    folder = None if out is None else Path(out)
    store, log = Store(folder, origin["model"] | origin["settings"]), Log(folder)
    with learner(model, config, anchors) as learning:
        course.prepare()
        start = store.load(learning)
        log.resume(start)
        stopped = _run(course, learning, store, log, start, watched)
    return log.run(stopped, origin)


@dataclass(frozen=True)
class _Watched:
    new: tuple[Ability, ...]
    keep: tuple[Ability, ...]

    def measure(self, model: HookedTransformer, log: Log, step: int) -> None:
        """Log every ability, as it is after so many steps."""
        for role, abilities in (("new", self.new), ("keep", self.keep)):
            for ability in abilities:
                log.ability({"step": step, "role": role} | measure(model, ability))


def _run(course: Course, learning: Learner, store: Store, log: Log, start: int, watched: _Watched) -> str:
    """The steps from ``start`` on; why they ended early, if they did."""
    model, config = course.model, course.config
    bar = tqdm(total=config.steps, initial=start, desc="training", unit="step", disable=None)
    with interrupts() as asked, bar:
        if config.evaluate_every and start == 0:
            watched.measure(model, log, 0)
        for step in range(start, config.steps):
            began, rate = time.perf_counter(), config.rate(step)
            terms = course.learn(step)
            norm = learning.clipped_norm()
            if not (math.isfinite(terms["loss"]) and math.isfinite(norm)):
                if step:
                    _save(store, step, learning)
                stopped = f"step {step}: loss {terms['loss']}, gradient norm {norm}; the weights are those before it"
                warnings.warn(f"ivlens: training stopped at {stopped}", stacklevel=3)
                return stopped
            learning.step(rate, config.guidance.l2)
            seconds = time.perf_counter() - began
            log.step({"step": step} | terms | {"learning_rate": rate, "gradient_norm": norm, "seconds": seconds})
            bar.set_postfix(loss=f"{terms['loss']:.3f}", refresh=False)
            bar.update()
            done, last = step + 1, step + 1 == config.steps
            if last or (config.evaluate_every and done % config.evaluate_every == 0):
                watched.measure(model, log, done)
            if last or asked() or done % config.save_every == 0:
                _save(store, done, learning)
            if asked():
                raise KeyboardInterrupt if asked() == signal.SIGINT else SystemExit(128 + asked())
    return ""


def _save(store: Store, step: int, learning: Learner) -> None:
    try:
        store.save(step, learning)
    except RecordError as error:
        warnings.warn(f"ivlens: {error}; training goes on", stacklevel=4)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
