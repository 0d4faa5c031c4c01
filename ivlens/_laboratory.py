"""The vector laboratory: the controls that a reviewer asks of instruction vectors, on any model and tasks.

For each task: the heads' effects, and a sweep of the vector over layer, scale and number of heads on the validation
split. Then, at the task's best steering and on its test split: the vector beside its controls (is it specific?), and
clean prompts without the heads or minus the vector (is it necessary?). Last, what tasks share: heads, directions, and
one task's vector on another's prompts. Finished records are kept, so a second run measures only what is missing.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from .activations import mean_head_activations
from .checks import Count, Natural, Seed, checked
from .effects import locate_heads
from .errors import ArgumentError, at_least
from .heads import head_overlap, random_heads
from .models import Model, key_of, provenance
from .records import (
    ConditionComparison,
    HeadEffects,
    HeadMeans,
    Laboratory,
    Record,
    SteeringSweep,
    TransferMatrix,
    load_or_compute,
)
from .records.laboratory import record_path
from .steering import (
    Setting,
    TriedOnLayers,
    ablate,
    compare_conditions,
    controlled,
    mean_difference,
    random_heads_vector,
    steer,
    steered,
    steering_sweep,
)
from .tasks import Prompt, Task, check_available, tasks_by_name
from .vectors import InstructionVector, instruction_vector
from .vocabulary import Condition, Split

R = TypeVar("R", bound=Record)

log = logging.getLogger("ivlens")


@checked
@dataclass(frozen=True)
class LabConfig(TriedOnLayers):
    """What the laboratory tries, and on how many prompts.

    Args:
        layers: layers at which vectors are tried (None: every tenth of the depth, from a fifth to three quarters).
        scales: factors on the vector.
        ks: how many of the strongest heads to sum into the vector.
        n_clean: clean train prompts for the heads' mean outputs.
        n_corrupted: train prompts without instruction for the heads' effects.
        shots: demonstrations in a clean prompt.
        n_validation: bare prompts on which layer, scale and k are chosen.
        n_test: test prompts of every condition.
        random_seeds: seeds of the random vectors and random heads, one control each.
        seed: seed of the prompts.

    Raises:
        ArgumentError: naming the field that is outside its values.

    Example:
        >>> iv.LabConfig(n_test=10).tried_layers(30)
        (6, 9, 12, 15, 18, 21)
    """

    grid = (20, 75)

    layers: tuple[Natural, ...] | None = None
    scales: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0, 8.0)
    ks: tuple[Count, ...] = (5, 10, 20)
    n_clean: Count = 40
    n_corrupted: Count = 20
    shots: Count = 2
    n_validation: Count = 20
    n_test: Count = 30
    random_seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0

    def __post_init__(self) -> None:
        for name in ("scales", "ks", "random_seeds"):
            at_least(f"the number of {name}", len(getattr(self, name)), 1)

    def _check_heads(self, count: int) -> None:
        if max(self.ks) > count // 2:
            controls = "half of the model's heads, since the controls draw as many others"
            raise ArgumentError(f"ks to be at most {count // 2}, {controls}", repr(max(self.ks)))


def check_prompts(task: Task, n_clean: int, n_corrupted: int, n_validation: int, n_test: int) -> None:
    """Raise ArgumentError for more prompts than the splits of a task have."""
    check_available(task, "train", {"n_clean": n_clean, "n_corrupted": n_corrupted})
    check_available(task, "validation", {"n_validation": n_validation})
    check_available(task, "test", {"n_test": n_test})


class SteeringChoice(NamedTuple):
    """The layer and scale at which a vector is added, and the number of heads that it sums."""

    layer: int
    scale: float
    k: int


@checked
def laboratory(
    model: Model,
    tasks: Sequence[Task | str],
    config: LabConfig | None = None,
    *,
    out: str | Path | None = None,
) -> Laboratory:
    """Measure what the tasks' instruction vectors do, whether they are specific, and whether their heads are needed.

    Heads and means come from train prompts, the steering from validation prompts, all accuracies reported in
    ``controls``, ``necessity`` and ``transfer`` from test prompts.

    Args:
        model: any model of ``load_model``.
        tasks: two or more tasks, or names of built-in ones or files; their vectors are each other's controls.
        config: what is tried, and on how many prompts.
        out: folder for finished records, which a later run reuses; None keeps nothing.

    Returns:
        The records, by task.

    Raises:
        ArgumentError: fewer than two tasks, two of one name, or more prompts, heads or layers than there are.

    Example:
        >>> from dataclasses import replace
        >>> few = {"n_clean": 2, "n_corrupted": 2, "n_validation": 2, "n_test": 2, "random_seeds": (0,)}
        >>> few = iv.LabConfig(layers=(0,), scales=(1.0,), ks=(2,), **few)
        >>> lab = iv.laboratory(model, [task, replace(task, name="its twin")], few)
        >>> lab.controls_frame().columns[:4].tolist()
        ['task', 'layer', 'scale', 'k']
    """
    config, named = config or LabConfig(), tasks_by_name(tasks)
    config.check_model(model.cfg.n_layers, model.cfg.n_heads)
    for task in named.values():
        check_prompts(task, config.n_clean, config.n_corrupted, config.n_validation, config.n_test)
    measure = _Measurements(model, named, config, out)
    effects = {name: measure.effects(name) for name in named}
    sweeps = {name: measure.sweep(name, effects[name]) for name in named}
    chosen = {name: SteeringChoice(*sweep.best()) for name, sweep in sweeps.items()}
    controls = {name: measure.controls(name, effects, chosen[name]) for name in named}
    necessity = {name: measure.necessity(name, effects, chosen) for name in named}
    return Laboratory(effects, sweeps, controls, necessity, measure.transfer(effects, best_for_all(sweeps)))


def best_for_all(sweeps: dict[str, SteeringSweep]) -> SteeringChoice:
    """The layer, scale and number of heads of the highest accuracy over all tasks."""
    first = next(iter(sweeps.values()))
    accuracy = torch.stack([sweep.accuracy for sweep in sweeps.values()]).mean(0)
    layer, scale, k = (int(index) for index in torch.unravel_index(accuracy.argmax(), accuracy.shape))
    return SteeringChoice(first.layers[layer], first.scales[scale], first.ks[k])


@dataclass(frozen=True)
class _Measurements:
    """The laboratory's records, each measured unless ``out`` has it."""

    model: Model
    tasks: dict[str, Task]
    config: LabConfig
    out: str | Path | None
    bare_means: dict[str, HeadMeans] = field(default_factory=dict)

    def effects(self, name: str) -> HeadEffects:
        settings = {each: getattr(self.config, each) for each in ("n_clean", "n_corrupted", "shots", "seed")}

        def measure() -> HeadEffects:
            return locate_heads(self.model, self.tasks[name], **settings)

        return self._kept("effects", name, HeadEffects, measure, settings, digest=self.tasks[name].digest)

    def sweep(self, name: str, effects: HeadEffects) -> SteeringSweep:
        config = self.config

        def measure() -> SteeringSweep:
            vector, prompts = self._vector(effects, max(config.ks)), self._bare(name, config.n_validation, "validation")
            layers = config.tried_layers(self.model.cfg.n_layers)
            return steering_sweep(self.model, vector, prompts, layers, config.scales, config.ks)

        return self._kept("sweep", name, SteeringSweep, measure, asdict(config), digest=self.tasks[name].digest)

    def controls(self, name: str, effects: dict[str, HeadEffects], chosen: SteeringChoice) -> ConditionComparison:
        """The vector beside its controls, on the task's test prompts."""

        def measure() -> ConditionComparison:
            model, (layer, scale, k) = self.model, chosen
            bare, clean = (draw(name, self.config.n_test, "test") for draw in (self._bare, self._clean))
            own = self._vector(effects[name], k)
            others, difference = self._other_vectors(name, effects, own), self._mean_difference(name, layer)
            conditions = {
                **controlled(model, bare, clean, {Condition.VECTOR: own}, layer, scale, self.config.random_seeds),
                **steered(model, bare, others, layer, scale),
                **steered(model, bare, {Condition.MEAN_DIFFERENCE: difference}, layer, 1.0),
                **steered(model, clean, {Condition.CLEAN_VECTOR: own}, layer, scale),
            }
            return compare_conditions(model, conditions, task=name, steering=chosen._asdict())

        settings = asdict(self.config) | {"steering": chosen._asdict()}
        return self._kept("controls", name, ConditionComparison, measure, settings)

    def _other_vectors(
        self, name: str, effects: dict[str, HeadEffects], own: InstructionVector
    ) -> dict[str, InstructionVector]:
        """What is added in place of the task's own vector: random heads' vectors, and other tasks'."""
        means, k = _means(effects[name]), len(own.heads)
        of_heads = {
            Condition.RANDOM_HEADS.of(seed): random_heads_vector(self.model, means, own, seed=seed)
            for seed in self.config.random_seeds
        }
        others = [other for other in self.tasks if other != name]
        return of_heads | {Condition.TASK_VECTOR.of(other): self._vector(effects[other], k) for other in others}

    def _mean_difference(self, name: str, layer: int) -> InstructionVector:
        """The classical steering vector: the mean residual stream of clean prompts minus that of bare ones."""
        clean, bare = (draw(name, self.config.n_clean, "train") for draw in (self._clean, self._bare))
        return mean_difference(self.model, clean, bare, layer)

    def necessity(
        self, name: str, effects: dict[str, HeadEffects], chosen: dict[str, SteeringChoice]
    ) -> ConditionComparison:
        """Clean prompts of the task with each task's heads ablated, or each task's vector subtracted."""

        def measure() -> ConditionComparison:
            model, clean = self.model, self._clean(name, self.config.n_test, "test")
            conditions: dict[str, Setting] = {Condition.CLEAN: (clean, None)}
            for other, (layer, scale, k) in chosen.items():
                heads, vector = effects[other].top(k), self._vector(effects[other], k)
                conditions[Condition.ZERO_HEADS.of(other)] = (clean, ablate(model, heads))
                conditions[Condition.MEAN_HEADS.of(other)] = (clean, ablate(model, heads, self._means_on_bare(other)))
                conditions[Condition.MINUS_VECTOR.of(other)] = (clean, steer(model, vector, layer, -scale))
            own = effects[name].top(chosen[name].k)
            for seed in self.config.random_seeds:
                drawn = random_heads((model.cfg.n_layers, model.cfg.n_heads), len(own), seed=seed, exclude=own)
                conditions[Condition.ZERO_RANDOM_HEADS.of(seed)] = (clean, ablate(model, drawn))
            return compare_conditions(model, conditions, task=name)

        settings = asdict(self.config) | {"steering": {task: each._asdict() for task, each in chosen.items()}}
        return self._kept("necessity", name, ConditionComparison, measure, settings)

    def transfer(self, effects: dict[str, HeadEffects], chosen: SteeringChoice) -> TransferMatrix:
        """All vectors on all tasks' bare test prompts, added in the same way."""
        steering = chosen._asdict()

        def measure() -> TransferMatrix:
            vectors = [self._vector(effects[task], chosen.k) for task in self.tasks]
            heads = [effects[task].top(chosen.k) for task in self.tasks]
            prompts = [self._bare(task, self.config.n_test, "test") for task in self.tasks]
            named = {Condition.TASK_VECTOR.of(task): each for task, each in zip(self.tasks, vectors, strict=True)}
            answers = torch.stack([self._with_each(named, chosen, each) for each in prompts], 1)
            return TransferMatrix(
                torch.tensor([[head_overlap(one, two) for two in heads] for one in heads], dtype=torch.float64),
                torch.tensor([[one.cosine(two) for two in vectors] for one in vectors], dtype=torch.float64),
                answers[1:],
                answers[0],
                tuple(self.tasks),
                provenance=provenance(self.model, steering=steering),
            )

        return self._kept("transfer", "", TransferMatrix, measure, asdict(self.config) | {"steering": steering})

    def _with_each(
        self, vectors: dict[str, InstructionVector], chosen: SteeringChoice, prompts: list[Prompt]
    ) -> Bool[Tensor, "condition prompt"]:
        """Which prompts are answered rightly as they are, and with each of the vectors added."""
        conditions: dict[str, Setting] = {Condition.BARE: (prompts, None)}
        conditions |= steered(self.model, prompts, vectors, chosen.layer, chosen.scale)
        return compare_conditions(self.model, conditions).correct

    def _kept(
        self, what: str, task: str, kind: type[R], measure: Callable[[], R], settings: dict[str, Any], **about: Any
    ) -> R:
        """The record in ``out`` for this model, these tasks and settings; measured if there is none."""

        def compute() -> Any:
            log.info("%s: %s", task or "all tasks", what)
            return measure()

        if self.out is None:
            return compute()
        digests = {name: each.digest for name, each in self.tasks.items()}
        key = key_of(self.model, task=task, **(about or {"tasks": digests}), **settings)
        return load_or_compute(record_path(self.out, what, task), kind, key, compute)

    def _means_on_bare(self, name: str) -> HeadMeans:
        """Means over a task's bare prompts, computed once for all tasks."""
        if name not in self.bare_means:
            bare = self._bare(name, self.config.n_clean, "train")
            self.bare_means[name] = mean_head_activations(self.model, bare)
        return self.bare_means[name]

    def _vector(self, effects: HeadEffects, k: int) -> InstructionVector:
        return instruction_vector(self.model, effects, k=k)

    def _bare(self, name: str, n: int, split: Split) -> list[Prompt]:
        return self.tasks[name].prompts(n, shots=0, instruction=False, split=split, seed=self.config.seed)

    def _clean(self, name: str, n: int, split: Split) -> list[Prompt]:
        return self.tasks[name].prompts(n, shots=self.config.shots, split=split, seed=self.config.seed)


def _means(effects: HeadEffects) -> HeadMeans:
    assert effects.means is not None  # locate_heads keeps them
    return effects.means
