"""The forgetting study's measurements: one model, trained and put back, every finished run kept."""

import logging
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ivlens import (
    Ability,
    InstructionVector,
    Prompt,
    Task,
    TrainingConfig,
    TrainingRun,
    evaluate,
    fine_tune,
    load_task,
    rehearsal_prompts,
    steer,
)
from ivlens.effects import load_or_compute_vector
from ivlens.files import safe_name
from ivlens.models import HookedTransformer, provenance
from ivlens.records import load_or_compute
from ivlens.tasks import word_tasks
from ivlens.training import measure
from ivlens.vocabulary import Split

from ..base_weights import BaseWeights
from .config import Setting, StudyConfig, run_name, trial_name

logger = logging.getLogger("ivlens")


@dataclass
class Trainer:
    """A model that is trained and put back, with the base's vectors; every record is kept in ``folder``."""

    model: HookedTransformer
    folder: Path
    config: StudyConfig
    base_weights: BaseWeights = field(init=False)

    def __post_init__(self) -> None:
        self.key = provenance(self.model, study=asdict(replace(self.config, settings={})))
        wanted = (*self.config.new, *self.config.old, self.config.trial_new)
        self.vectors = {name: self._vector(name) for name in wanted}
        self.base_weights = BaseWeights.of(self.model)

    def _vector(self, name: str) -> InstructionVector:
        config, path = self.config, self.folder / f"vector-{safe_name(name)}.safetensors"
        logger.info("%s: the base's vector", name)
        return load_or_compute_vector(self.model, path, load_task(name), config.k, config.n_clean, config.n_corrupted)

    def base(self) -> TrainingRun:
        """The base on all tasks."""
        config = self.config

        def compute() -> TrainingRun:
            logger.info("the base on all tasks")
            tasks = (*config.new, config.trial_new, *config.old, *config.trial_old)
            return TrainingRun(torch.zeros(0, 0), (), tuple(self._measured(tasks)), provenance=provenance(self.model))

        return load_or_compute(self.folder / "base.safetensors", TrainingRun, self.key, compute)

    def trial(self, method: str, setting: Setting) -> TrainingRun:
        """One method at one setting on the task that settings are chosen on."""
        config = self.config

        def compute() -> TrainingRun:
            logger.info("trial: %s, learning rate %g, factor %g", method, setting.rate, setting.factor)
            self.restore()
            run = self._learn(method, setting, config.trial_new, config.trial_old, seed=0)
            measured = self._measured((config.trial_new, *config.trial_old))
            self.restore()
            return replace(run, measured=tuple(measured))

        path = self.folder / f"{trial_name(method, setting)}.safetensors"
        return load_or_compute(path, TrainingRun, self._key(method, setting), compute)

    def sequence(self, method: str, setting: Setting, seed: int) -> list[TrainingRun]:
        """One method learning all new tasks in turn; a stage's base (KL, L2, rehearsal) is the stage before it."""
        config, learned = self.config, 0

        def compute(stage: int) -> TrainingRun:
            nonlocal learned
            if learned == 0:
                self.restore()
            for earlier in range(learned, stage + 1):
                logger.info("%s, seed %d: %s", method, seed, config.new[earlier])
                run = self._learn(method, setting, config.new[earlier], config.old, seed)
            learned = stage + 1
            last = learned == len(config.new)
            new = config.new if last else config.new[stage : stage + 1]
            old = config.old if last or stage == 0 else ()
            return replace(run, measured=tuple(self._measured((*new, *old), thoroughly=last)))

        runs = []
        for stage in range(len(config.new)):
            path = self.folder / f"{run_name(method, seed, stage)}.safetensors"
            key = self._key(method, setting, seed, stage)
            runs.append(load_or_compute(path, TrainingRun, key, partial(compute, stage)))
        if learned:
            self.restore()
        return runs

    def _key(self, method: str, setting: Setting, *seed_and_stage: int) -> dict[str, Any]:
        return self.key | {"run": [method, *setting, *seed_and_stage], "guidance": setting.guidance(method).facts}

    def _learn(self, method: str, setting: Setting, new: str, old: tuple[str, ...], seed: int) -> TrainingRun:
        config, task, guidance = self.config, load_task(new), setting.guidance(method)
        training = TrainingConfig(
            guidance, steps=config.steps, batch_size=config.batch_size, learning_rate=setting.rate,
            warmup=config.warmup, seed=seed,
        )  # fmt: skip
        others = [load_task(name) for name in _others(config)]
        replay = [prompt for name in old for prompt in load_task(name).prompts(8, split="train", seed=seed)]
        return fine_tune(
            self.model, _instructed(task, "train", None), training,
            vector=self.vectors[new] if "vector" in guidance.needs else None,
            rehearse=rehearsal_prompts(task, others) if "rehearse" in guidance.needs else (),
            replay=replay if "replay" in guidance.needs else (),
        )  # fmt: skip

    def _measured(self, tasks: tuple[str, ...], thoroughly: bool = True) -> list[dict[str, Any]]:
        """One row per ability: new tasks as learned, old ones as instructed, thoroughly with their vectors."""
        config, rows = self.config, []
        common = {"step": config.steps, "distance": self._distance()}
        for name in tasks:
            task = load_task(name)
            if name in (*config.new, config.trial_new):
                learned = Ability(name, tuple(_instructed(task, "test", config.n_test_new)))
                rows.append({"role": "new"} | common | measure(self.model, learned))
            else:
                vector = self.vectors.get(name) if thoroughly else None
                rows.append({"role": "keep"} | common | self._old_ability(task, vector))
        return rows

    def _old_ability(self, task: Task, vector: InstructionVector | None) -> dict[str, Any]:
        """An old ability; with a vector: its measures, knowledge without instruction, recovery by the vector."""
        config = self.config
        prompts = tuple(task.prompts(config.n_test, split="test"))
        row = measure(self.model, Ability(task.name, prompts, vector, config.layer, config.watched))
        if vector is None:
            return row
        bare = task.prompts(config.n_test, shots=0, instruction=False, split="test")
        if task.cloze is not None:
            row["knowledge"] = evaluate(self.model, task.cloze_prompts(config.n_test, split="test")).probability
        with steer(self.model, vector, config.layer, config.scale):
            row["recovered"] = evaluate(self.model, bare).accuracy
        return row

    def restore(self) -> None:
        """Make the model the base again."""
        self.base_weights.put_back()

    @torch.no_grad()
    def _distance(self) -> float:
        """How far the weights are from the base's, relative to the base's norm."""
        pairs = list(self.base_weights.now())
        change = torch.stack([(each - before).norm() for each, before in pairs]).norm()
        return (change / torch.stack([before.norm() for _, before in pairs]).norm()).item()


def _instructed(task: Task, split: Split, n: int | None) -> list[Prompt]:
    """Prompts of a new task as it is learned: instruction and labels, no demonstrations."""
    return task.prompts(None if n is None else min(n, len(task.split(split))), shots=0, split=split)


def _others(config: StudyConfig) -> list[str]:
    """Tasks whose instructions are rehearsed: none that is learned, kept or chosen on."""
    named = (*config.new, *config.old, config.trial_new, *config.trial_old)
    return [name for name in word_tasks() if name not in named]
