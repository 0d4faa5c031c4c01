"""``ivlens train``: fine-tune a model on a task and preserve its abilities."""

import argparse
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ..effects import load_or_compute_vector
from ..errors import ArgumentError, DivergedError, brief, few
from ..files import held, safe_name
from ..models import HookedTransformer, check_training, export_adapter, export_hf, merge_lora, only_hooked
from ..models.shapes import model_shape
from ..records import TrainingRun
from ..records.folders import check_folder
from ..tasks import AnyFormat, Prompt, Task, is_instructed, load_task, word_tasks
from ..training import Ability, Guidance, LoRA, TrainingConfig, fine_tune, rehearsal_prompts
from ..training.processes import joined_processes
from ..training.state import drop_spare
from ..vectors import InstructionVector, load_vector
from ..vocabulary import check_count, check_layers
from .hand_over import before_and_after, compare_command
from .loading import given, read_model
from .sizes import say_training
from .tables import show
from .targets import check_targets
from .task_reading import check_one, read_tasks

WRITTEN = ("run.safetensors", "state.safetensors", "log.jsonl", "training.html")
OLD_EXAMPLES = 8  # examples of each kept task, for guidance by replay or their Fisher information
VECTOR_PROMPTS, VECTOR_CORRUPTED = 40, 12  # clean and corrupted prompts for a vector, at most
log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Train in the folder --out, locked for this process; measure before and after, and write what was trained."""
    if options.engine == "bridge":
        expected = "--engine auto or hooked, since training is not yet done on a Bridge"
        raise ArgumentError(expected, "bridge", "leave the option out")
    check_training()
    check_one(options.task)
    task, *kept = read_tasks([options.task, *options.keep], options)
    config = training_config(options)
    _check_tasks(task, kept, config.guidance, options.vector)
    check_vector_file(config.guidance, options.vector)
    if "adapters" in config.guidance.needs and config.lora is None:
        raise ArgumentError("--lora with guidance by earlier adapters, whose factors are compared", "none")
    if options.adapters and "adapters" not in config.guidance.needs:
        raise ArgumentError("--adapters with --guidance o-lora", "another guidance")
    asked = given(options, "Ability.of")
    k = options.k if kept or "vector" in config.guidance.needs else None
    if shape := model_shape(options.model, options.revision):
        check_for_model(config, k, *shape)
    paths = {each.name: options.out / "vectors" / f"{safe_name(each.name)}.safetensors" for each in (task, *kept)}
    if is_first := joined_processes().is_first:
        check_targets(*(options.out / name for name in WRITTEN), *paths.values())
        check_folder(options.out, "train")
    with held(options.out) if is_first else nullcontext():
        _train(options, task, kept, config, asked, k, paths)


def _train(
    options: argparse.Namespace,
    task: Task,
    kept: Sequence[Task],
    config: TrainingConfig,
    asked: dict[str, Any],
    k: int | None,
    paths: dict[str, Path],
) -> None:
    model = only_hooked(read_model(options, engine="hooked"), "training")
    check_for_model(config, k, model.cfg.n_layers, model.cfg.n_heads)
    say_training(model, config, options.out)
    written = {"format": asked["format"], "tokenizer": model.tokenizer}
    vector = partial(_vector, model, paths, options, asked["format"])
    guiding = vector if options.vector is None else lambda task: load_vector(options.vector, model)
    others = [load_task(name) for name in word_tasks() if name not in paths]
    run = fine_tune(
        model,
        task.prompts(shots=asked["shots"], split="train", **written),
        config,
        vector=guiding(task) if "vector" in config.guidance.needs else None,
        new=[Ability.of(task, shots=asked["shots"], **written)],
        keep=[Ability.of(each, vector=vector(each), **written) for each in kept],
        rehearse=rehearsal_prompts(task, others, **written) if "rehearse" in config.guidance.needs else (),
        replay=_replay(kept, seed=options.seed, **written) if "replay" in config.guidance.needs else [],
        adapters=options.adapters,
        out=options.out,
    )
    if not joined_processes().is_first:
        return
    run.save(options.out / "run.safetensors", overwrite=True)
    if run.stopped:
        raise DivergedError("a run whose loss stays finite", run.stopped, "lower --learning-rate; choose another --out")
    _write(model, run, config, options.out)
    drop_spare(options.out)
    log.info(f"wrote {options.out}")
    guidance = f"{options.guidance}, " if options.guidance else ""
    show(options, {f"{task.name}, {guidance}after {run.steps} steps": before_and_after(run)})
    if not options.json and (command := compare_command(options, task.name)):
        print(f"\nWhat was forgotten, and is it still in there?\n  {command}")


def training_config(options: argparse.Namespace) -> TrainingConfig:
    """The settings: TrainingConfig's defaults, the given preset and options."""
    settings = given(options, "TrainingConfig")
    if options.lora is not None:
        settings["lora"] = LoRA(options.lora, 2.0 * options.lora, **given(options, "LoRA"))
    elif options.lora_dropout:
        raise ArgumentError("--lora-dropout with --lora", "none")
    name = {} if options.guidance is None else {"name": options.guidance}
    guidance = Guidance.preset(**name, **given(options, "Guidance.preset"))
    return TrainingConfig(guidance.scaled(**given(options, "Guidance.scaled")), **settings)


def check_for_model(config: TrainingConfig, k: int | None, n_layers: int, n_heads: int) -> None:
    """Raise ArgumentError for layers, or a number of heads, that the model has not."""
    for term in config.terms:
        term.check(n_layers, config.learning_rate)
    if config.layers is not None:
        check_layers(n_layers, config.layers)
    if k is not None:
        check_count(k, n_layers * n_heads, name="--k")


def check_vector_file(guidance: Guidance, path: Path | None) -> None:
    """Raise ArgumentError for the file of a vector that the guidance does not add."""
    if path is not None and "vector" not in guidance.needs:
        raise ArgumentError("--vector with guidance that adds one", "guidance without", "choose another --guidance")


def _check_tasks(task: Task, kept: Sequence[Task], guidance: Guidance, vector: Path | None) -> None:
    """Raise ArgumentError for a task given twice, or without the instruction that its vector needs."""
    names = [task.name, *(each.name for each in kept)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ArgumentError("--task and --keep to be different tasks", f"{brief(twice)} twice")
    if "vector" in guidance.needs and vector is None and not is_instructed(task):
        raise _without_instruction([task.name])
    if "replay" in guidance.needs and not kept:
        raise ArgumentError("--keep tasks for guidance by old examples, which are theirs", "none")
    if bare := [each.name for each in kept if not is_instructed(each)]:
        raise _without_instruction(bare)


def _without_instruction(names: Sequence[str]) -> ArgumentError:
    expected = "tasks with instructions, from which vectors are made"
    do = "write 'instructions' into the files, or pass --instruction"
    return ArgumentError(expected, f"none in {few(map(brief, names))}", do)


def _replay(kept: Sequence[Task], **asked: Any) -> list[Prompt]:
    counts = [min(OLD_EXAMPLES, len(task.split("train"))) for task in kept]
    drawn = (task.prompts(n, split="train", **asked) for task, n in zip(kept, counts, strict=True))
    return [prompt for prompts in drawn for prompt in prompts]


def _vector(
    model: HookedTransformer, paths: dict[str, Path], options: argparse.Namespace, format: AnyFormat, task: Task
) -> InstructionVector:
    """The base's instruction vector of a task, computed once."""
    log.info(f"{task.name}: the base's instruction vector")
    available = len(task.split("train"))
    n_clean, n_corrupted = min(VECTOR_PROMPTS, available), min(VECTOR_CORRUPTED, available)
    return load_or_compute_vector(model, paths[task.name], task, options.k, n_clean, n_corrupted, options.seed, format)


def _write(model: HookedTransformer, run: TrainingRun, config: TrainingConfig, folder: Path) -> None:
    """The adapter of a LoRA run, the model as a Hugging Face folder, and the curves as a page."""
    from .. import views

    if config.lora is not None:
        export_adapter(model, folder / "adapter")
        merge_lora(model)
    export_hf(model, folder / "model")
    views.write_report(folder / "training.html", {folder.name: run}, title=f"Training: {folder.name}")
