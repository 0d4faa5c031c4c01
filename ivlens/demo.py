"""The main job on any model and tasks, as a page: heads that carry instructions, their vectors, and steering."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ._laboratory import check_prompts
from .activations import attention_patterns
from .checks import Count, Natural, Seed, checked
from .effects import locate_heads
from .errors import at_least
from .files import safe_name
from .heads import universal_effects
from .models import Model, key_of
from .records import (
    ConditionComparison,
    HeadEffects,
    HeadMap,
    SteeringSweep,
    UniversalEffects,
    load_or_compute,
    standard_error,
    write_text,
)
from .stats import mean_over_tasks
from .steering import TriedOnLayers, compare_conditions, controlled, steering_sweep
from .tasks import Task, tasks_by_name
from .text import plus_minus
from .vectors import InstructionVector, instruction_vector
from .vocabulary import Condition, check_count

log = logging.getLogger("ivlens")

TASKS = ("present-past", "singular-plural", "capitalize", "country-capital")
CONDITIONS = (
    Condition.BARE, Condition.VECTOR, Condition.CLEAN, Condition.RANDOM_VECTOR, Condition.OTHER_VECTOR
)  # fmt: skip
HEADS_TEXT = (
    "Each square of a map is an attention head. Its indirect effect is how much the log-probability of the right "
    "answer rises on a bare prompt (no instruction, no demonstration) when the head's output at the last token is "
    "replaced by its mean over clean prompts. Heads with a high average indirect effect carry the instruction."
)
STEERING_TEXT = (
    "The instruction vector is the sum of the chosen heads' mean outputs. It is added to the residual stream "
    "at the last token of bare prompts; layer and scale were chosen on validation prompts, accuracies, with 95% "
    "intervals, are of held-out test prompts. A vector that carries the instruction must beat a random one of the "
    "same norm and another task's, at the same layer and scale."
)


@checked
@dataclass(frozen=True)
class DemoConfig(TriedOnLayers):
    """How the demo measures.

    Args:
        n_clean: clean train prompts for the heads' mean outputs.
        n_corrupted: train prompts without instruction for the heads' effects.
        shots: demonstrations in a clean prompt.
        k: how many of the strongest heads to sum into a vector.
        layers: layers at which vectors are tried (None: every tenth of the depth, from three to six tenths of it).
        scales: factors on the vector that are tried.
        n_validation: bare prompts on which layer and scale are chosen.
        n_test: test prompts of every condition.
        random_seeds: seeds of the random vectors.
        seed: seed of the prompts.

    Raises:
        ArgumentError: naming the field that is outside its values.

    Example:
        >>> iv.DemoConfig(k=10).tried_layers(30)
        (9, 12, 15, 18)
    """

    grid = (30, 60)

    n_clean: Count = 40
    n_corrupted: Count = 20
    shots: Count = 2
    k: Count = 20
    layers: tuple[Natural, ...] | None = None
    scales: tuple[float, ...] = (2.0, 4.0, 6.0)
    n_validation: Count = 12
    n_test: Count = 30
    random_seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0

    def __post_init__(self) -> None:
        for name in ("scales", "random_seeds"):
            at_least(f"the number of {name}", len(getattr(self, name)), 1)

    def _check_heads(self, count: int) -> None:
        check_count(self.k, count)


@dataclass(frozen=True, repr=False)
class Demo:
    """The demo's results by task: effects (and their mean over tasks), vectors, sweeps, and steered accuracies.

    Args:
        tasks: the tasks, by name.
        effects: indirect effects of all heads.
        universal: their mean over tasks.
        vectors: the instruction vectors.
        sweeps: accuracy on validation prompts by layer and scale.
        steering: one row per task and condition: layer, scale, accuracy with its 95% interval (low, high),
            probability with its standard error, n.
    """

    tasks: dict[str, Task]
    effects: dict[str, HeadEffects]
    universal: UniversalEffects
    vectors: dict[str, InstructionVector]
    sweeps: dict[str, SteeringSweep]
    steering: pd.DataFrame

    def heads_table(self, k: Count = 10) -> pd.DataFrame:
        """The ``k`` heads of highest effect over all tasks: mean and standard error, then each task's effect."""
        rows = []
        for rank, (layer, head) in enumerate(self.universal.top(min(k, self.universal.aie.numel())), 1):
            row = {"rank": rank, "head": f"{layer}.{head}", "all tasks": _plus_minus(self.universal, layer, head)}
            rows.append(row | {name: _plus_minus(effects, layer, head) for name, effects in self.effects.items()})
        return pd.DataFrame(rows)

    def steering_table(self) -> pd.DataFrame:
        """``steering_table`` of these results."""
        return steering_table(self.steering)

    def __repr__(self) -> str:
        return f"Demo({len(self.tasks)} tasks: {', '.join(self.tasks)})"


def steering_table(steering: pd.DataFrame) -> pd.DataFrame:
    """One row per task: layer and scale, then the accuracy of each condition with its 95% interval, and n."""
    rows = []
    for task, group in steering.groupby("task", sort=False):
        first = group.iloc[0]
        accuracies = {
            each.condition: f"{each.accuracy:.2f} ({each.low:.2f} to {each.high:.2f})".replace(" (nan to nan)", "")
            for each in group.itertuples()
        }
        rows.append({"task": task, "layer": first.layer, "scale": first.scale} | accuracies | {"n": first.n})
    return pd.DataFrame(rows)


@checked
def run_demo(
    model: Model,
    tasks: Sequence[Task | str] = TASKS,
    config: DemoConfig | None = None,
    *,
    out: str | Path,
) -> Demo:
    """Locate heads, build vectors and steer with them, for each task; write a page, tables and records.

    Heads come from the train split; each task's steering layer and scale are chosen on the validation split and
    reported on the test split. The controls use the same layer and scale.

    Args:
        model: any model of ``load_model``.
        tasks: two or more tasks, or names of built-in ones or files; each is the control of the one before it.
        config: how it is measured.
        out: folder for ``index.html``, ``heads.csv``, ``steering.json`` and ``records/``; effects there are reused.

    Raises:
        ArgumentError: fewer than two tasks, two of one name, or more prompts or heads than there are.
    """
    config, out = config or DemoConfig(), Path(out)
    named = tasks_by_name(tasks)
    config.check_model(model.cfg.n_layers, model.cfg.n_heads)
    for task in named.values():
        check_prompts(task, config.n_clean, config.n_corrupted, config.n_validation, config.n_test)
    effects = {name: _effects(model, task, out, config) for name, task in named.items()}
    vectors = {name: instruction_vector(model, each, k=config.k) for name, each in effects.items()}
    sweeps, rows = {}, []
    for name, other in zip(named, [*named][1:] + [*named][:1], strict=True):
        log.info("%s: steering", name)
        sweeps[name], measured = _steering(model, named[name], vectors[name], vectors[other], config)
        rows += measured
    demo = Demo(named, effects, universal_effects([*effects.values()]), vectors, sweeps, pd.DataFrame(rows))
    _save(demo, out)
    _write_page(model, demo, config, out)
    return demo


def _effects(model: Model, task: Task, folder: Path, config: DemoConfig) -> HeadEffects:
    settings = {name: getattr(config, name) for name in ("n_clean", "n_corrupted", "shots", "seed")}
    key = key_of(model, task=task.name, digest=task.digest, **settings)
    path = folder / "records" / f"{safe_name(task.name)}.effects.safetensors"
    log.info("%s: indirect effects of %d heads", task.name, model.cfg.n_layers * model.cfg.n_heads)
    return load_or_compute(path, HeadEffects, key, lambda: locate_heads(model, task, **settings))


def _steering(
    model: Model, task: Task, own: InstructionVector, other: InstructionVector, config: DemoConfig
) -> tuple[SteeringSweep, list[dict[str, Any]]]:
    """The sweep on validation prompts, and a row per condition on test prompts at its best layer and scale."""
    tuning = task.prompts(config.n_validation, shots=0, instruction=False, split="validation", seed=config.seed)
    held_out = task.prompts(config.n_test, shots=0, instruction=False, split="test", seed=config.seed)
    sweep = steering_sweep(model, own, tuning, config.tried_layers(model.cfg.n_layers), config.scales)
    layer, scale, _ = sweep.best()
    clean = task.prompts(config.n_test, shots=config.shots, split="test", seed=config.seed)
    vectors: dict[str, InstructionVector] = {Condition.VECTOR: own, Condition.OTHER_VECTOR: other}
    comparison = compare_conditions(
        model, controlled(model, held_out, clean, vectors, layer, scale, config.random_seeds), task=task.name,
        layer=layer, scale=scale,
    )  # fmt: skip
    steering = {"task": task.name, "layer": layer, "scale": scale}
    return sweep, [steering | _row(condition, comparison) for condition in CONDITIONS]


def _row(condition: Condition, comparison: ConditionComparison) -> dict[str, Any]:
    """One row of the steering table; repeats (seeds) are averaged per prompt, since prompts are the unit."""
    repeats = [comparison.conditions.index(name) for name in condition.among(comparison.conditions)]
    correct, probabilities = comparison.correct[repeats].double().mean(0), comparison.probabilities[repeats].mean(0)
    accuracy = mean_over_tasks([correct])
    return {
        "condition": str(condition),
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "probability": float(probabilities.mean()),
        "probability_stderr": standard_error(probabilities),
        "n": comparison.n,
        "repeats": len(repeats),
    }


def _plus_minus(effects: HeadMap, layer: int, head: int) -> str:
    return f"{effects.aie[layer, head]:.2f}{plus_minus(effects.stderr[layer, head].item(), ' (n = 1)')}"


def _save(demo: Demo, folder: Path) -> None:
    """Write the records, every head's effects as CSV, and the steering table as JSON."""
    for name, vector in demo.vectors.items():
        vector.save(folder / "records" / f"{safe_name(name)}.vector.safetensors", overwrite=True)
        demo.sweeps[name].save(folder / "records" / f"{safe_name(name)}.sweep.safetensors", overwrite=True)
    demo.universal.save(folder / "records" / "universal.effects.safetensors", overwrite=True)
    frames = [effects.to_frame().assign(task=name) for name, effects in demo.effects.items()]
    frames.append(demo.universal.to_frame().assign(task="all"))
    write_text(folder / "heads.csv", pd.concat(frames).to_csv(index=False))
    steering = {"rows": demo.steering.to_dict("records"), "provenance": demo.universal.provenance}
    write_text(folder / "steering.json", json.dumps(steering, indent=2) + "\n")


def _write_page(model: Model, demo: Demo, config: DemoConfig, folder: Path) -> None:
    """Write ``index.html``, one self-contained page."""
    from . import views

    task = next(iter(demo.tasks.values()))
    [prompt] = task.prompts(1, shots=config.shots, split="test", seed=config.seed)
    heads = demo.effects[task.name].top(3)
    tokens, patterns = attention_patterns(model, prompt, heads)
    names = [f"{layer}.{head}" for layer, head in heads]
    attention = f"Attention of heads {', '.join(names)} on a clean {task.name} prompt; hover over a token."
    source = demo.universal.provenance
    sections = [
        ("Heads that carry the instructions", [
            views.prose(HEADS_TEXT), views.head_heatmap(demo.universal), views.frame_table(demo.heads_table()),
        ]),
        ("Task by task", views.head_heatmaps([*demo.effects.values()])),
        ("The instruction vector at work", [
            views.prose(STEERING_TEXT), views.frame_table(demo.steering_table()),
        ]),
        ("Where the strongest heads look", [views.prose(attention), views.attention_view(tokens, patterns, names)]),
        ("Where these numbers come from", views.prose(json.dumps(source, indent=1))),
    ]  # fmt: skip
    views.write_page(
        folder / "index.html", f"ivlens demo: instruction vectors of {source['model']['source']}", sections
    )
