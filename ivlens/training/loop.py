"""``fine_tune``: the loop, top to bottom."""

import signal
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import ArgumentError, RecordError
from ..models import HookedTransformer, add_lora, has_lora, only_trainable, provenance, trainable_names
from ..records import TrainingRun
from ..scoring import listed
from ..tasks import Prompt, Task
from ..vectors import InstructionVector
from .config import TrainingConfig
from .course import Course
from .interrupts import interrupts
from .log import Log
from .monitor import Ability, measure_all
from .objective import pull_back
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
    that is not finite stops the run before it touches the weights. SIGINT and SIGTERM end it after the step, saved.

    Raises:
        ArgumentError: something that a term needs is missing.
        PromptError: a prompt that cannot be tokenised or is longer than the model's context.
        MismatchError: the vector does not fit the model, or ``out`` holds a run of other settings.
        RecordError: ``out`` cannot be written.
    """
    config = config or TrainingConfig()
    prompts = (
        data.prompts(split="train", instruction=bool(data.instructions)) if isinstance(data, Task) else listed(data)
    )
    new = list(new) or ([Ability.of(data)] if isinstance(data, Task) else [])
    kept = [Ability.of(each) for each in keep]
    shown = {"prompts": prompts, "rehearse": list(rehearse), "replay": list(replay)}
    origin = provenance(model, training=_plain(config), **{name: _digest(each) for name, each in shown.items()},
                        vector=None if vector is None else _tensor_digest(vector.values))  # fmt: skip
    folder = None if out is None else Path(out)
    store, log = Store(folder, origin | {"versions": None}), Log(folder)
    names = _names(model, config)
    with only_trainable(model, names) as parameters:
        anchors = _anchors(config, parameters)
        course = Course.of(model, config, prompts, vector, shown["rehearse"], shown["replay"], anchors)
        course.prepare()
        optimizer = torch.optim.AdamW(
            [parameter for _, parameter in parameters], lr=config.learning_rate, betas=config.betas,
            weight_decay=config.weight_decay, fused=True,
        )  # fmt: skip
        start = store.load(parameters, optimizer)
        log.resume(start)
        stopped = _run(course, parameters, anchors, optimizer, store, log, start, new, kept)
    return log.run(stopped, origin)


def _run(
    course: Course,
    parameters: list[tuple[str, Tensor]],
    anchors: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    store: Store,
    log: Log,
    start: int,
    new: list[Ability],
    kept: list[Ability],
) -> str:
    """The steps from ``start`` on; why they ended early, if they did."""
    model, config = course.model, course.config
    named = dict(parameters)
    weights = list(named.values())
    pulled = [name for name, _ in parameters if config.guidance.l2 and name in anchors]
    stopped = ""

    def watch(step: int) -> None:
        if not any(row["step"] == step for row in log.measured):
            for row in measure_all(model, new, kept):
                log.ability({"step": step} | row)

    with (
        interrupts() as asked,
        tqdm(total=config.steps, initial=start, desc="training", unit="step", disable=None) as bar,
    ):
        if config.evaluate_every and start == 0:
            watch(0)
        for step in range(start, config.steps):
            began = time.perf_counter()
            rate = optimizer.param_groups[0]["lr"] = config.rate(step)
            optimizer.zero_grad(set_to_none=True)
            terms = course.learn(step)
            norm = torch.nn.utils.clip_grad_norm_(weights, config.clip or float("inf"), foreach=True).item()
            if not torch.tensor([terms["loss"], norm]).isfinite().all():
                stopped = f"step {step}: loss {terms['loss']}, gradient norm {norm}; the weights are those before it"
                warnings.warn(f"ivlens: training stopped at {stopped}", stacklevel=3)
                break
            optimizer.step()
            if pulled:
                pull_back(
                    [named[name] for name in pulled], [anchors[name] for name in pulled], rate * config.guidance.l2
                )
            torch.autograd.graph.increment_version(weights)  # fused AdamW does not: provenance looks there
            log.step({"step": step} | terms | {"learning_rate": rate, "gradient_norm": norm,
                                               "seconds": time.perf_counter() - began})  # fmt: skip
            bar.update()
            bar.set_postfix(loss=f"{terms['loss']:.3f}", refresh=False)
            done = step + 1
            if (config.evaluate_every and done % config.evaluate_every == 0) or done == config.steps:
                watch(done)
            if asked() or done % config.save_every == 0 or done == config.steps:
                _save(store, done, parameters, optimizer)
            if asked():
                raise KeyboardInterrupt if asked() == signal.SIGINT else SystemExit(128 + asked())
    return stopped


def _save(store: Store, step: int, parameters: list[tuple[str, Tensor]], optimizer: torch.optim.Optimizer) -> None:
    try:
        store.save(step, parameters, optimizer)
    except RecordError as error:
        warnings.warn(f"ivlens: {error}; training goes on", stacklevel=4)


def _names(model: HookedTransformer, config: TrainingConfig) -> set[str]:
    """Names of the parameters that learn; with LoRA, its factors, which are added here."""
    blocks = range(model.cfg.n_layers)
    layers = blocks if config.layers is None else config.layers
    if not layers or not set(layers) <= set(blocks):
        raise ArgumentError(f"layers from 0 to {model.cfg.n_layers - 1}, one or more", repr(config.layers))
    if has_lora(model):
        raise ArgumentError("a model without LoRA", "one with it", "merge_lora(model) folds the updates in")
    if config.lora is not None:
        lora = config.lora
        add_lora(model, lora.rank, lora.alpha, lora.targets, config.layers, config.seed)
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    embeddings = ("embed.", "pos_embed.", "unembed.")
    chosen = tuple(f"blocks.{layer}." for layer in layers)
    chosen += ("ln_final.",) if config.layers is None else ()
    chosen += embeddings if config.embeddings else ()
    return {name for name in trainable_names(model) if name.startswith(chosen)}


def _anchors(config: TrainingConfig, parameters: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of the initial weights, of those alone that are asked for again.

    For LoRA these are the zeros of B, to which L2 pulls: the update is proportional to it.
    """
    guidance = config.guidance
    if config.lora is not None:
        return {name: torch.zeros_like(each) for name, each in parameters if guidance.l2 and name.endswith(".B")}
    live = config.teacher == "live" and (
        guidance.teaches or guidance.kl_base or guidance.consistency or guidance.rehearsal
    )
    whole = bool(live or guidance.l2)
    return {
        name: each.detach().clone() for name, each in parameters if whole or name.startswith(("ln_final.", "unembed."))
    }


def _plain(config: TrainingConfig) -> dict[str, Any]:
    """The settings that the weights depend on."""
    return {name: value for name, value in asdict(config).items() if name not in ("save_every", "evaluate_every")}


def _digest(prompts: Sequence[Prompt]) -> str:
    return sha256(repr([(prompt.text, prompt.answers) for prompt in prompts]).encode()).hexdigest()[:16]


def _tensor_digest(values: Tensor) -> str:
    return sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
