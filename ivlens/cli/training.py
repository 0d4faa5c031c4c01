"""The verb of training: train."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, RecordError, brief, few
from ..files import held, safe_name
from ..models import HookedTransformer, export_adapter, export_hf, merge_lora
from ..records import TrainingRun
from ..tasks import Prompt, Task, list_tasks, load_task
from ..training import DEFAULT_PRESET, PRESETS, Ability, Guidance, LoRA, TrainingConfig, fine_tune, rehearsal_prompts
from ..vectors import InstructionVector, load_or_compute_vector
from .common import a_path, add_model, add_verb, progress, read_model, read_task, show
from .targets import check_targets

WRITTEN = ("run.safetensors", "state.safetensors", "log.jsonl", "training.html")
OLD_EXAMPLES = 8  # of each kept task, for guidance by replay


def add_train(verbs: Any) -> None:
    """``ivlens train MODEL --task NEW --keep OLD... --out DIR``."""
    parser = add_verb(
        verbs, "train", _train, "fine-tune a model on a task and keep what it could do",
        "Fine-tune on a task's train split, guided by the chosen preset; measure the task and the abilities to keep on "
        "test splits; write the log, the record and the model as a Hugging Face folder. The same command resumes.",
        keeps=True,
    )  # fmt: skip
    add = parser.add_argument
    add_model(add)
    add(
        "--task", required=True, metavar="NEW", help="the task to learn: a built-in one ('ivlens tasks') or a task file"
    )
    add("--keep", nargs="*", default=[], metavar="OLD", help="tasks to keep: measured, not trained on")
    add("--guidance", choices=tuple(PRESETS), default=DEFAULT_PRESET, metavar="PRESET",
        help=f"{', '.join(PRESETS)} (default: {DEFAULT_PRESET})")  # fmt: skip
    add("--out", type=a_path, required=True, metavar="DIR", help="folder for state, log, record and model")
    add("--instruction", help="the instruction, for task files that hold none")
    add("--shots", type=int, default=2, help="demonstrations in a training prompt (default: 2)")
    add("--k", type=int, default=20, help="heads of the vectors (default: 20)")
    defaults = TrainingConfig()
    for name, what in (
        ("steps", "optimiser steps"), ("batch-size", "prompts per step"), ("accumulate", "parts of a batch"),
        ("warmup", "steps of rising learning rate"), ("evaluate-every", "steps between measures"),
        ("save-every", "steps between saved states"), ("seed", "seed"), ("learning-rate", "highest learning rate"),
    ):  # fmt: skip
        default = getattr(defaults, name.replace("-", "_"))
        add(f"--{name}", type=type(default), default=default, help=f"{what} (default: {default:g})")
    add("--lora", type=int, metavar="RANK", help="train updates of this rank only, alpha twice the rank")
    add("--layer", type=int, help="layer of the vector (default: the preset's)")
    add("--scale", type=float, help="scale of the vector (default: the preset's)")


def _train(options: argparse.Namespace) -> None:
    with held(options.out):
        _train_alone(options)


def _train_alone(options: argparse.Namespace) -> None:
    say = progress(options)
    task, kept = read_task(options.task, options.instruction), [load_task(name) for name in options.keep]
    if task.name in {each.name for each in kept}:
        raise ArgumentError("--keep tasks other than --task", task.name)
    guidance = Guidance.preset(options.guidance, layer=options.layer, scale=options.scale)
    with_vectors = [*kept, task] if "vector" in guidance.needs else kept
    if bare := [each.name for each in with_vectors if not each.instructions]:
        raise ArgumentError(
            "tasks with instructions, from which vectors are made", f"none in {few(map(brief, bare))}",
            "write 'instructions' into their files, or pass --instruction for --task",
        )  # fmt: skip
    config = TrainingConfig(
        guidance, steps=options.steps, batch_size=options.batch_size, accumulate=options.accumulate,
        learning_rate=options.learning_rate, warmup=options.warmup, save_every=options.save_every,
        evaluate_every=options.evaluate_every, seed=options.seed,
        lora=None if options.lora is None else LoRA(options.lora, 2.0 * options.lora),
    )  # fmt: skip
    replay = _replay(kept, options.seed) if "replay" in guidance.needs else []
    vectors = {each.name: options.out / "vectors" / f"{safe_name(each.name)}.safetensors" for each in (task, *kept)}
    check_targets(*(options.out / name for name in WRITTEN), *vectors.values())
    model = read_model(options)

    def vector(of: Task) -> InstructionVector:
        say(f"{of.name}: the base's instruction vector")
        there = len(of.split("train"))
        return load_or_compute_vector(
            model, vectors[of.name], of, options.k, min(40, there), min(12, there), options.seed
        )

    others = [load_task(name) for name in list_tasks() if name not in {task.name, *(each.name for each in kept)}]
    instructed = bool(task.instructions)
    run = fine_tune(
        model, task.prompts(shots=options.shots, split="train", instruction=instructed), config,
        vector=vector(task) if "vector" in guidance.needs else None,
        new=[Ability.of(task, shots=options.shots)],
        keep=[Ability.of(each, vector=vector(each)) for each in kept],
        rehearse=rehearsal_prompts(task, others) if "rehearse" in guidance.needs else (), replay=replay,
        out=options.out,
    )  # fmt: skip
    run.save(options.out / "run.safetensors", overwrite=True)
    if run.stopped:
        raise RecordError("a run whose loss stays finite", run.stopped, "lower --learning-rate; choose another --out")
    _write(model, run, config, options.out)
    say(f"wrote {options.out}")
    shown = run.final().drop(columns=["step", "correct", "probability_stderr", "token_probability"], errors="ignore")
    show(options, {f"{task.name}, {options.guidance}, after {run.steps} steps": shown})


def _replay(kept: list[Task], seed: int) -> list[Prompt]:
    if not kept:
        raise ArgumentError("--keep tasks for guidance by replay, whose examples are replayed", "none")
    return [
        prompt for task in kept
        for prompt in task.prompts(min(OLD_EXAMPLES, len(task.split("train"))), split="train", seed=seed)
    ]  # fmt: skip


def _write(model: HookedTransformer, run: TrainingRun, config: TrainingConfig, folder: Path) -> None:
    """The adapter of a LoRA run, the model as a Hugging Face folder, and the curves as a page."""
    from .. import views

    if config.lora is not None:
        export_adapter(model, folder / "adapter")
        merge_lora(model)
    export_hf(model, folder / "model")
    views.write_report(folder / "training.html", {folder.name: run}, title=f"Training: {folder.name}")
