"""The vector laboratory: what do instruction vectors do, are they specific, and what needs their heads?

For one model and several tasks: effects, sweeps over layer, scale and number of heads (validation split), then, in each
task's best cell and on its test split, the vector beside its controls and the heads' necessity; and the matrix of what
tasks share. Every finished record is kept; a second run computes only what is missing.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..activations import mean_head_activations
from ..checks import Count, Natural, Seed, checked
from ..effects import locate_heads
from ..errors import at_least
from ..files import safe_name
from ..heads import head_overlap, random_heads
from ..models import HookedTransformer, provenance
from ..records import ConditionComparison, HeadEffects, HeadMeans, SteeringSweep, TransferMatrix
from ..records.kept import R, load_or_compute
from ..scoring import evaluate
from ..steering import (
    ablate,
    compare_conditions,
    mean_difference,
    random_heads_vector,
    random_vector,
    steer,
    steering_sweep,
)
from ..steering.controls import Condition
from ..tasks import Prompt, load_task
from ..vectors import InstructionVector, instruction_vector

TASKS = ("present-past", "singular-plural", "capitalize", "country-capital", "antonym", "english-french")


@checked
@dataclass(frozen=True)
class LabConfig:
    """What the laboratory runs on a model; ``layers`` are those that vectors are tried at."""

    layers: tuple[Natural, ...]
    tasks: tuple[str, ...] = TASKS
    scales: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0, 8.0)
    ks: tuple[Count, ...] = (5, 10, 20)
    n_clean: Count = 40
    n_corrupted: Count = 20
    shots: Count = 2
    n_validation: Count = 20
    n_test: Count = 30
    seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0

    def __post_init__(self) -> None:
        at_least("the number of tasks", len(self.tasks), 2)


LABS = {
    "smollm2": LabConfig(layers=(6, 9, 12, 15, 18, 21)),
    "gemma3-270m": LabConfig(layers=(3, 5, 7, 9, 11, 13)),
}


@dataclass(frozen=True)
class Cell:
    """Where a vector is added, how strongly, and of how many heads it is the sum."""

    layer: int
    scale: float
    k: int


@dataclass(frozen=True)
class Laboratory:
    """What was found on one model, by task."""

    effects: dict[str, HeadEffects]
    sweeps: dict[str, SteeringSweep]
    comparisons: dict[str, ConditionComparison]
    necessity: dict[str, ConditionComparison]
    transfer: TransferMatrix


def run_laboratory(
    model: HookedTransformer, folder: Path, config: LabConfig, say: Callable[[str], None] = print
) -> Laboratory:
    """Measure whatever of the laboratory's records is not in ``folder`` yet, and return all of them."""
    lab = _Lab(model, folder, config, say)
    effects = {name: lab.effects(name) for name in config.tasks}
    sweeps = {name: lab.sweep(name, effects[name]) for name in config.tasks}
    cells = {name: Cell(*sweep.best()) for name, sweep in sweeps.items()}
    comparisons = {name: lab.compare(name, effects, cells[name]) for name in config.tasks}
    necessity = {name: lab.necessity(name, effects, cells) for name in config.tasks}
    return Laboratory(effects, sweeps, comparisons, necessity, lab.transfer(effects, sweeps))


def load_laboratory(folder: Path, config: LabConfig) -> Laboratory:
    """The laboratory's records as they were saved, without a model.

    Raises:
        RecordError: one of them is missing or broken.
    """

    def read(what: str, kind: type[R]) -> dict[str, R]:
        return {name: kind.load(_file(folder, name, what)) for name in config.tasks}

    return Laboratory(
        read("effects", HeadEffects),
        read("sweep", SteeringSweep),
        read("controls", ConditionComparison),
        read("necessity", ConditionComparison),
        TransferMatrix.load(folder / "transfer.safetensors"),
    )


def _file(folder: Path, name: str, what: str) -> Path:
    return folder / f"{safe_name(name)}.{what}.safetensors"


@dataclass(frozen=True)
class _Lab:
    model: HookedTransformer
    folder: Path
    config: LabConfig
    say: Callable[[str], None]
    idle_means: dict[str, HeadMeans] = field(default_factory=dict)

    def effects(self, name: str) -> HeadEffects:
        settings = {key: getattr(self.config, key) for key in ("n_clean", "n_corrupted", "shots", "seed")}
        key = self._key(task=name, **settings)
        compute = self._said(f"{name}: effects", lambda: locate_heads(self.model, load_task(name), **settings))
        return load_or_compute(_file(self.folder, name, "effects"), HeadEffects, key, compute)

    def sweep(self, name: str, effects: HeadEffects) -> SteeringSweep:
        config = self.config

        def compute() -> SteeringSweep:
            vector, prompts = (
                self._vector(effects, max(config.ks)),
                self._bare(name, config.n_validation, "validation"),
            )
            return steering_sweep(self.model, vector, prompts, config.layers, config.scales, config.ks)

        key = self._key(task=name, lab=asdict(config))
        return load_or_compute(
            _file(self.folder, name, "sweep"), SteeringSweep, key, self._said(f"{name}: sweep", compute)
        )

    def compare(self, name: str, effects: dict[str, HeadEffects], cell: Cell) -> ConditionComparison:
        """The vector beside its controls, on the task's held-out queries."""

        def compute() -> ConditionComparison:
            bare, clean = (draw(name, self.config.n_test, "test") for draw in (self._bare, self._clean))
            own = self._vector(effects[name], cell.k)
            means = self._means(effects[name])
            shown = self._clean(name, self.config.n_clean, "train")
            hidden = self._bare(name, self.config.n_clean, "train")
            difference = mean_difference(self.model, shown, hidden, cell.layer)
            added = {"bare + IV": own}
            for seed in self.config.seeds:
                added[f"random vector {seed}"] = random_vector(own, seed=seed)
            for seed in self.config.seeds:
                added[f"random heads {seed}"] = random_heads_vector(self.model, means, own, seed=seed)
            for other in self.config.tasks:
                if other != name:
                    added[f"IV of {other}"] = self._vector(effects[other], cell.k)
            conditions: dict[str, Condition] = {"bare": (bare, None), "clean": (clean, None)}
            for condition, vector in added.items():
                conditions[condition] = (bare, steer(self.model, vector, cell.layer, cell.scale))
            conditions["mean difference"] = (bare, steer(self.model, difference, cell.layer, 1.0))
            conditions["clean + IV"] = (clean, steer(self.model, own, cell.layer, cell.scale))
            return compare_conditions(self.model, conditions, task=name, cell=asdict(cell))

        key = self._key(task=name, cell=asdict(cell), lab=asdict(self.config))
        return load_or_compute(
            _file(self.folder, name, "controls"), ConditionComparison, key, self._said(f"{name}: controls", compute)
        )

    def necessity(self, name: str, effects: dict[str, HeadEffects], cells: dict[str, Cell]) -> ConditionComparison:
        """Clean prompts of the task with each task's heads silenced, or each task's vector subtracted."""

        def compute() -> ConditionComparison:
            clean = self._clean(name, self.config.n_test, "test")
            shape = (self.model.cfg.n_layers, self.model.cfg.n_heads)
            conditions: dict[str, Condition] = {"clean": (clean, None)}
            for other, cell in cells.items():
                heads = effects[other].top(cell.k)
                vector = self._vector(effects[other], cell.k)
                conditions[f"zero: heads of {other}"] = (clean, ablate(self.model, heads))
                conditions[f"mean: heads of {other}"] = (clean, ablate(self.model, heads, self._idle(other)))
                conditions[f"minus IV of {other}"] = (clean, steer(self.model, vector, cell.layer, -cell.scale))
            own = effects[name].top(cells[name].k)
            for seed in self.config.seeds:
                drawn = random_heads(shape, len(own), seed=seed, exclude=own)
                conditions[f"zero: random heads {seed}"] = (clean, ablate(self.model, drawn))
            return compare_conditions(self.model, conditions, task=name)

        key = self._key(task=name, cells={task: asdict(cell) for task, cell in cells.items()}, lab=asdict(self.config))
        return load_or_compute(
            _file(self.folder, name, "necessity"), ConditionComparison, key, self._said(f"{name}: necessity", compute)
        )

    def transfer(self, effects: dict[str, HeadEffects], sweeps: dict[str, SteeringSweep]) -> TransferMatrix:
        """All vectors on all tasks' bare prompts, in the cell that is best over all tasks on validation prompts."""
        tasks = self.config.tasks
        first = sweeps[tasks[0]]
        mean = torch.stack([sweeps[task].accuracy for task in tasks]).mean(0)
        at = torch.unravel_index(mean.argmax(), mean.shape)
        cell = Cell(first.layers[int(at[0])], first.scales[int(at[1])], first.ks[int(at[2])])

        def compute() -> TransferMatrix:
            vectors = [self._vector(effects[task], cell.k) for task in tasks]
            heads = [effects[task].top(cell.k) for task in tasks]
            correct, bare = [], []
            for task in tasks:
                prompts = self._bare(task, self.config.n_test, "test")
                bare.append(evaluate(self.model, prompts).correct)
                correct.append([self._steered(vector, cell, prompts) for vector in vectors])
            return TransferMatrix(
                torch.tensor([[head_overlap(one, two) for two in heads] for one in heads], dtype=torch.float64),
                torch.tensor([[one.cosine(two) for two in vectors] for one in vectors], dtype=torch.float64),
                torch.stack([torch.stack(of_target) for of_target in correct]).transpose(0, 1),
                torch.stack(bare), tasks, provenance=provenance(self.model, cell=asdict(cell)),
            )  # fmt: skip

        key = self._key(cell=asdict(cell), lab=asdict(self.config))
        return load_or_compute(
            self.folder / "transfer.safetensors", TransferMatrix, key, self._said("transfer matrix", compute)
        )

    def _steered(self, vector: InstructionVector, cell: Cell, prompts: list[Prompt]) -> torch.Tensor:
        with steer(self.model, vector, cell.layer, cell.scale):
            return evaluate(self.model, prompts).correct

    def _idle(self, name: str) -> HeadMeans:
        """Means over a task's bare prompts, computed once although every task's heads are silenced with them."""
        if name not in self.idle_means:
            bare = self._bare(name, self.config.n_clean, "train")
            self.idle_means[name] = mean_head_activations(self.model, bare)
        return self.idle_means[name]

    def _vector(self, effects: HeadEffects, k: int) -> InstructionVector:
        return instruction_vector(self.model, self._means(effects), effects.top(k))

    def _means(self, effects: HeadEffects) -> HeadMeans:
        assert effects.means is not None  # locate_heads keeps them
        return effects.means

    def _bare(self, name: str, n: int, split: str) -> list[Prompt]:
        return load_task(name).prompts(n, shots=0, instruction=False, split=split, seed=self.config.seed)

    def _clean(self, name: str, n: int, split: str) -> list[Prompt]:
        return load_task(name).prompts(n, shots=self.config.shots, split=split, seed=self.config.seed)

    def _key(self, **settings: Any) -> dict[str, Any]:
        return provenance(self.model, **settings)

    def _said(self, what: str, compute: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            self.say(what)
            return compute()

        return run
