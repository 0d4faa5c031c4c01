"""The forgetting study: does guided training learn new tasks and keep old abilities, and why?

Every method learns the same sequence of new tasks with the same steps and the same prompts. Its strength is chosen
before, on another new task and other old ones; what is reported is measured on tasks that nothing was chosen on.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import ArgumentError
from ..models import HookedTransformer, provenance, trainable_names
from ..records import TrainingRun
from ..scoring import evaluate
from ..steering import steer
from ..tasks import Task, list_tasks, load_task
from ..training import Ability, Guidance, TrainingConfig, fine_tune, measure, rehearsal_prompts
from ..vectors import InstructionVector
from .recall import recall, recall_vector

STRENGTHS: dict[str, tuple[float, ...]] = {
    "plain": (0.125, 0.25, 0.5, 1.0),
    "iv": (0.25, 0.5, 1.0),
    "fv": (0.3, 1.0, 3.0),
    "kl": (1.0, 3.0, 10.0),
    "l2": (0.5, 1.0, 2.0),
    "rehearsal": (1.0, 2.0, 4.0),
    "replay": (1.0, 2.0, 4.0),
    "guided": (0.5, 1.0, 2.0),
}


@dataclass(frozen=True)
class StudyConfig:
    """What the study trains and measures.

    ``new`` are learned one after the other, ``old`` are to be kept; ``trial_new`` and ``trial_old`` serve to choose
    each method's strength: a factor on its weights, for "plain" on the learning rate, for "iv" on the vector's scale.
    """

    new: tuple[str, ...] = ("word-topic", "choose-last-of-3", "adjective-comparative")
    old: tuple[str, ...] = ("antonym", "verb-gerund", "country-language", "choose-animal")
    trial_new: str = "lowercase-first-letter"
    trial_old: tuple[str, ...] = ("present-past", "singular-plural", "capitalize", "country-capital")
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: dict(STRENGTHS))
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 12
    batch_size: int = 8
    learning_rate: float = 2e-4
    warmup: int = 2
    test: int = 20
    test_new: int = 30
    watched: int = 8
    clean: int = 30
    corrupted: int = 12
    heads: int = 20
    layer: int = 12
    scale: float = 4.0
    kept: float = 0.98

    def __post_init__(self) -> None:
        named = (*self.new, *self.old, self.trial_new, *self.trial_old)
        if len(set(named)) < len(named):
            raise ArgumentError("different tasks to learn, to keep and to choose on", ", ".join(named))


@dataclass(frozen=True)
class Study:
    """What was measured: the base, trials by (method, strength), runs by (method, seed, stage), strengths chosen."""

    base: TrainingRun
    trials: dict[tuple[str, float], TrainingRun]
    runs: dict[tuple[str, int, int], TrainingRun]
    chosen: dict[str, float]


def run_study(model: HookedTransformer, folder: Path, config: StudyConfig, say: Callable[[str], None] = print) -> Study:
    """Measure whatever of the study is not in ``folder`` yet, and return all of it; the model ends as the base."""
    bench = _Bench(model, folder, config, say)
    base = bench.base()
    trials = {
        (method, strength): bench.trial(method, strength)
        for method, strengths in config.strengths.items() for strength in strengths
    }  # fmt: skip
    chosen = choose(trials, config)
    runs = {
        (method, seed, stage): run
        for seed in config.seeds for method in config.strengths
        for stage, run in enumerate(bench.sequence(method, chosen[method], seed))
    }  # fmt: skip
    return Study(base, trials, runs, chosen)


def load_study(folder: Path, config: StudyConfig) -> Study:
    """The study's records as they were saved, without a model.

    Raises:
        RecordError: one of them is missing or broken.
    """

    def read(name: str) -> TrainingRun:
        return TrainingRun.load(folder / f"{name}.safetensors")

    trials = {
        (method, strength): read(_trial_name(method, strength))
        for method, strengths in config.strengths.items() for strength in strengths
    }  # fmt: skip
    runs = {
        (method, seed, stage): read(_run_name(method, seed, stage))
        for seed in config.seeds for method in config.strengths for stage in range(len(config.new))
    }  # fmt: skip
    return Study(read("base"), trials, runs, choose(trials, config))


def choose(trials: Mapping[tuple[str, float], TrainingRun], config: StudyConfig) -> dict[str, float]:
    """Each method's strength: what keeps most, of those that learn ``kept`` of what plain training at strength 1 does.

    Where none learns that much, the one that learns most.
    """
    enough = config.kept * accuracy(trials["plain", 1.0], [config.trial_new])

    def worth(method: str, strength: float) -> tuple[bool, float, float]:
        learned = accuracy(trials[method, strength], [config.trial_new])
        kept = accuracy(trials[method, strength], config.trial_old)
        return (True, kept, learned) if learned >= enough else (False, learned, kept)

    return {
        method: max(strengths, key=lambda strength: worth(method, strength))
        for method, strengths in config.strengths.items()
    }


def strengthened(method: str, strength: float) -> Guidance:
    """A preset with its weights times the strength; for "iv" it scales the vector, and with it the KL's target."""
    preset = Guidance.preset(method)
    return replace(preset, scale=strength * preset.scale) if method == "iv" else preset.scaled(strength)


def accuracy(run: TrainingRun, tasks: Any, kind: str = "accuracy") -> float:
    """Mean over tasks of a measure in a run."""
    rows = {row["ability"]: row for row in run.measured}
    return sum(rows[task][kind] for task in tasks) / len(tasks)


@dataclass
class _Bench:
    model: HookedTransformer
    folder: Path
    config: StudyConfig
    say: Callable[[str], None]
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = provenance(self.model, study=asdict(replace(self.config, strengths={})))
        wanted = (*self.config.new, *self.config.old, self.config.trial_new)
        self.vectors = {name: self._vector(name) for name in wanted}
        names = set(trainable_names(self.model))
        self.weights = {name: each.detach().clone() for name, each in self.model.named_parameters() if name in names}

    def _vector(self, name: str) -> InstructionVector:
        config, path = self.config, self.folder / f"vector-{name}.safetensors"
        self.say(f"{name}: the base's vector")
        return recall_vector(self.model, path, load_task(name), config.heads, config.clean, config.corrupted)

    def base(self) -> TrainingRun:
        """The base on all tasks."""
        config = self.config

        def compute() -> TrainingRun:
            self.say("the base on all tasks")
            tasks = (*config.new, config.trial_new, *config.old, *config.trial_old)
            return TrainingRun(torch.zeros(0, 0), (), tuple(self._measured(tasks)), provenance=provenance(self.model))

        return recall(self.folder / "base.safetensors", TrainingRun, self.key, compute)

    def trial(self, method: str, strength: float) -> TrainingRun:
        """One method at one strength on the task that strengths are chosen on."""
        config = self.config

        def compute() -> TrainingRun:
            self.say(f"trial: {method}, strength {strength:g}")
            self._restore()
            run = self._learn(method, strength, config.trial_new, config.trial_old, seed=0)
            measured = self._measured((config.trial_new, *config.trial_old))
            self._restore()
            return replace(run, measured=tuple(measured))

        path = self.folder / f"{_trial_name(method, strength)}.safetensors"
        return recall(path, TrainingRun, self._cell(method, strength), compute)

    def sequence(self, method: str, strength: float, seed: int) -> list[TrainingRun]:
        """One method learning all new tasks in turn; the weights of the last stage are the first of the next."""
        config, learned = self.config, 0

        def compute(stage: int) -> TrainingRun:
            nonlocal learned
            if learned == 0:
                self._restore()
            for earlier in range(learned, stage + 1):
                self.say(f"{method}, seed {seed}: {config.new[earlier]}")
                run = self._learn(method, strength, config.new[earlier], config.old, seed)
            learned = stage + 1
            return replace(run, measured=tuple(self._measured((*config.new[: stage + 1], *config.old))))

        runs = []
        for stage in range(len(config.new)):
            path = self.folder / f"{_run_name(method, seed, stage)}.safetensors"
            key = self._cell(method, strength, seed, stage)
            runs.append(recall(path, TrainingRun, key, partial(compute, stage)))
        if learned:
            self._restore()
        return runs

    def _cell(self, method: str, strength: float, *where: int) -> dict[str, Any]:
        return self.key | {"cell": [method, strength, *where], "guidance": asdict(strengthened(method, strength))}

    def _learn(self, method: str, strength: float, new: str, old: tuple[str, ...], seed: int) -> TrainingRun:
        config, task, guidance = self.config, load_task(new), strengthened(method, strength)
        rate = config.learning_rate * (strength if method == "plain" else 1.0)
        training = TrainingConfig(
            guidance, steps=config.steps, batch_size=config.batch_size, learning_rate=rate,
            warmup=config.warmup, seed=seed,
        )  # fmt: skip
        others = [load_task(name) for name in _others(config)]
        replay = [prompt for name in old for prompt in load_task(name).prompts(8, split="train", seed=seed)]
        return fine_tune(
            self.model, _asked(task, "train", None), training,
            vector=self.vectors[new] if guidance.uses_vector else None,
            rehearse=rehearsal_prompts(task, others) if guidance.rehearsal else (),
            replay=replay if guidance.replay else (),
        )  # fmt: skip

    def _measured(self, tasks: tuple[str, ...]) -> list[dict[str, Any]]:
        """Rows of abilities: new tasks as they are learned, old ones as they are asked."""
        config, rows = self.config, []
        common = {"step": config.steps, "distance": self._distance()}
        for name in tasks:
            task = load_task(name)
            if name in (*config.new, config.trial_new):
                learned = Ability(name, tuple(_asked(task, "test", config.test_new)))
                rows.append({"role": "new"} | common | measure(self.model, learned))
            else:
                rows.append({"role": "keep"} | common | self._kept(task))
        return rows

    def _kept(self, task: Task) -> dict[str, Any]:
        """An old ability; with a vector: its measures, knowledge without instruction, recovery by the vector."""
        config, vector = self.config, self.vectors.get(task.name)
        asked = tuple(task.prompts(config.test, split="test"))
        row = measure(self.model, Ability(task.name, asked, vector, config.layer, config.watched))
        if vector is None:
            return row
        bare = task.prompts(config.test, shots=0, instruction=False, split="test")
        if task.cloze is not None:
            row["knowledge"] = evaluate(self.model, task.cloze_prompts(config.test, split="test")).probability
        row["bare"] = evaluate(self.model, bare).accuracy
        with steer(self.model, vector, config.layer, config.scale):
            row["recovered"] = evaluate(self.model, bare).accuracy
        return row

    def _learning(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, each) for name, each in self.model.named_parameters() if name in self.weights]

    def _restore(self) -> None:
        self._put(self.weights)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self._learning():
            parameter.copy_(weights[name])

    @torch.no_grad()
    def _distance(self) -> float:
        """How far the weights are from the base's, relative to the base's norm."""
        moved = torch.stack([(each - self.weights[name]).norm() for name, each in self._learning()]).norm()
        return (moved / torch.stack([each.norm() for each in self.weights.values()]).norm()).item()


def _trial_name(method: str, strength: float) -> str:
    return f"trial-{method}-{strength:g}"


def _run_name(method: str, seed: int, stage: int) -> str:
    return f"{method}-{seed}-{stage}"


def _asked(task: Task, split: str, n: int | None) -> list[Any]:
    """Prompts of a new task as it is learned: instruction and labels, no demonstrations."""
    return task.prompts(None if n is None else min(n, len(task.split(split))), shots=0, split=split)


def _others(config: StudyConfig) -> list[str]:
    """Tasks whose instructions are rehearsed: none that is learned, kept or chosen on."""
    named = (*config.new, *config.old, config.trial_new, *config.trial_old)
    return [name for name in list_tasks() if name not in named]
