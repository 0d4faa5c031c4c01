"""The main job on a real model: heads that carry an instruction, their vector, and what adding it does."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..checks import Count, Natural, Seed, checked
from ..effects import locate_heads
from ..errors import at_least
from ..files import safe_name
from ..heads import universal_effects
from ..models import HookedTransformer, key_of
from ..records import Evaluation, HeadEffects, SteeringSweep, UniversalEffects, load_or_compute, standard_error
from ..scoring import evaluate
from ..steering import random_vector, steer, steering_sweep
from ..tasks import Task, load_task
from ..vectors import InstructionVector, instruction_vector

log = logging.getLogger("ivlens")
CONDITIONS = ("bare", "bare + IV", "clean", "bare + random vector", "bare + another task's IV")


@checked
@dataclass(frozen=True)
class DemoConfig:
    """What the demo runs: tasks, numbers of prompts, number of heads, and the steering cells tried."""

    tasks: tuple[str, ...] = ("present-past", "singular-plural", "capitalize", "country-capital")
    n_clean: Count = 40
    n_corrupted: Count = 20
    shots: Count = 2
    k: Count = 20
    layers: tuple[Natural, ...] = (9, 12, 15, 18)
    scales: tuple[float, ...] = (2.0, 4.0, 6.0)
    n_validation: Count = 12
    n_test: Count = 30
    random_seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0

    def __post_init__(self) -> None:
        at_least("the number of tasks", len(self.tasks), 2)


@dataclass(frozen=True)
class Demo:
    """What the demo found: effects of each task and of all, vectors, the sweeps that chose a cell, and steering."""

    effects: dict[str, HeadEffects]
    universal: UniversalEffects
    vectors: dict[str, InstructionVector]
    sweeps: dict[str, SteeringSweep]
    steering: pd.DataFrame


def run_demo(model: HookedTransformer, folder: Path, config: DemoConfig | None = None) -> Demo:
    """Locate heads, build vectors and steer with them, for each task; effects already in ``folder`` are reused.

    Heads come from the train split; each task's steering layer and scale are chosen on the validation split and
    reported on the test split. The controls use the same layer and scale.
    """
    config = config or DemoConfig()
    tasks = {name: load_task(name) for name in config.tasks}
    effects = {}
    for i, (name, task) in enumerate(tasks.items(), 1):
        log.info(f"[{i}/{len(tasks)}] {name}: indirect effects of {model.cfg.n_layers * model.cfg.n_heads} heads")
        effects[name] = _effects(model, task, folder, config)
    universal = universal_effects(list(effects.values()))
    vectors = {name: instruction_vector(model, each, k=config.k) for name, each in effects.items()}
    sweeps, rows = {}, []
    for i, (name, task) in enumerate(tasks.items(), 1):
        other = config.tasks[i % len(tasks)]
        log.info(f"[{i}/{len(tasks)}] {name}: steering")
        sweeps[name], found = _steering(model, task, vectors[name], vectors[other], config)
        rows += found
    demo = Demo(effects, universal, vectors, sweeps, pd.DataFrame(rows))
    _save(demo, folder)
    return demo


def _effects(model: HookedTransformer, task: Task, folder: Path, config: DemoConfig) -> HeadEffects:
    settings = {name: getattr(config, name) for name in ("n_clean", "n_corrupted", "shots", "seed")}
    key = key_of(model, task=task.name, digest=task.digest, **settings)
    path = folder / "records" / f"{safe_name(task.name)}.effects.safetensors"
    return load_or_compute(path, HeadEffects, key, lambda: locate_heads(model, task, **settings))


def _steering(
    model: HookedTransformer, task: Task, own: InstructionVector, other: InstructionVector, config: DemoConfig
) -> tuple[SteeringSweep, list[dict[str, Any]]]:
    tuning = task.prompts(config.n_validation, shots=0, instruction=False, split="validation", seed=config.seed)
    held_out = task.prompts(config.n_test, shots=0, instruction=False, split="test", seed=config.seed)
    sweep = steering_sweep(model, own, tuning, config.layers, config.scales)
    layer, scale, _ = sweep.best()

    def steered(vector: InstructionVector) -> Evaluation:
        with steer(model, vector, layer, scale):
            return evaluate(model, held_out)

    clean = task.prompts(config.n_test, shots=config.shots, split="test", seed=config.seed)
    results = {
        "bare": [evaluate(model, held_out)],
        "bare + IV": [steered(own)],
        "clean": [evaluate(model, clean)],
        "bare + random vector": [steered(random_vector(own, seed=seed)) for seed in config.random_seeds],
        "bare + another task's IV": [steered(other)],
    }
    place = {"task": task.name, "layer": layer, "scale": scale}
    return sweep, [place | _row(condition, results[condition]) for condition in CONDITIONS]


def _row(condition: str, results: list[Evaluation]) -> dict[str, Any]:
    """One row of the steering table; repeats (seeds) are averaged per prompt, since prompts are the unit."""
    correct = torch.stack([result.correct.double() for result in results]).mean(0)
    probabilities = torch.stack([result.probabilities for result in results]).mean(0)
    return {
        "condition": condition,
        "accuracy": float(correct.mean()),
        "accuracy_stderr": standard_error(correct),
        "probability": float(probabilities.mean()),
        "probability_stderr": standard_error(probabilities),
        "n": results[0].n,
        "repeats": len(results),
    }


def _save(demo: Demo, folder: Path) -> None:
    for name, vector in demo.vectors.items():
        vector.save(folder / "records" / f"{safe_name(name)}.vector.safetensors", overwrite=True)
        demo.sweeps[name].save(folder / "records" / f"{safe_name(name)}.sweep.safetensors", overwrite=True)
    demo.universal.save(folder / "records" / "universal.effects.safetensors", overwrite=True)
