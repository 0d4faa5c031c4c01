"""The repair study's measurements: checkpoints of training sequences, each repaired; every finished one is kept."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ivlens import (
    ArgumentError,
    Guidance,
    RecordError,
    Repair,
    RepairConfig,
    TrainingConfig,
    fine_tune,
    load_model,
    load_task,
    repair,
)
from ivlens.files import safe_name
from ivlens.models import HookedTransformer, only_hooked
from ivlens.records import load_or_compute

logger = logging.getLogger("ivlens")


class Checkpoint(NamedTuple):
    """What a checkpoint was trained from and how: the model, the sequence of tasks, the preset, the rate, the seed."""

    source: str
    sequence: str
    method: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """The file name of its record."""
        return safe_name("-".join(f"{each:g}" if isinstance(each, float) else str(each) for each in self))


class Setting(NamedTuple):
    """How checkpoints are trained: the model, the preset, the learning rate; with which seeds (None: the study's)."""

    source: str
    method: str
    rate: float
    seeds: tuple[int, ...] | None = None


class TaskSequence(NamedTuple):
    """Tasks that are learned one after the other, and how many demonstrations their prompts have."""

    tasks: tuple[str, ...]
    shots: int = 2


@dataclass(frozen=True)
class RepairStudyConfig:
    """What is trained and repaired: ``keep`` are the old tasks to choose on, ``others`` those that are reported.

    Every setting is trained on every sequence with every seed of its own, or else of ``seeds``.
    """

    settings: tuple[Setting, ...] = (
        Setting("smollm2", "plain", 2e-4), Setting("smollm2", "plain", 5e-5),
        Setting("gemma3-270m", "plain", 2e-4), Setting("smollm2", "l2", 2e-4),
        Setting("smollm2", "l2", 5e-5), Setting("gemma3-270m", "plain", 5e-5, seeds=(0,)),
        Setting("gemma3-270m", "plain", 1e-5),
    )  # fmt: skip
    seeds: tuple[int, ...] = (0, 1, 2)
    sequences: dict[str, TaskSequence] = field(default_factory=lambda: {
        "topics": TaskSequence(("word-topic", "choose-last-of-3", "adjective-comparative")),
        "letters": TaskSequence(("lowercase-first-letter", "sentiment", "hypernym")),
    })  # fmt: skip
    keep: tuple[str, ...] = ("present-past", "singular-plural", "capitalize", "country-capital")
    others: tuple[str, ...] = ("antonym", "verb-gerund", "country-language", "choose-animal")
    steps: int = 20
    batch_size: int = 8
    warmup: int = 2
    repair: RepairConfig = field(default_factory=lambda: RepairConfig(n_greedy=4, random_seeds=(0,)))

    def __post_init__(self) -> None:
        for name, new in self.sequences.items():
            named = (*new.tasks, *self.keep, *self.others)
            if len(set(named)) < len(named):
                raise ArgumentError(f"different tasks to learn, to keep and to report in {name}", ", ".join(named))

    def checkpoints(self) -> Iterator[Checkpoint]:
        """All that are repaired."""
        for source, method, rate, seeds in self.settings:
            for seed in self.seeds if seeds is None else seeds:
                for sequence in self.sequences:
                    yield Checkpoint(source, sequence, method, rate, seed)


def measured(folder: Path, work: Path, config: RepairStudyConfig) -> dict[Checkpoint, Repair]:
    """The repair of every checkpoint; those that ``folder`` lacks are trained and repaired, with files in ``work``."""
    return {each: _repaired(each, folder, work, config) for each in config.checkpoints()}


def load_repairs(folder: Path, config: RepairStudyConfig) -> dict[Checkpoint, Repair]:
    """The repairs as they were saved, without a model.

    Raises:
        RecordError: one of them is missing, broken, or of another configuration.
    """
    repairs = {each: Repair.load(folder / f"{each.name}.safetensors") for each in config.checkpoints()}
    for each, found in repairs.items():
        if found.provenance.get("key") != json.loads(json.dumps(_key(each, config))):
            raise RecordError(f"the repair of {each.name} as it is configured", "another one", "run the study again")
    return repairs


def _key(checkpoint: Checkpoint, config: RepairStudyConfig) -> dict[str, Any]:
    """All that a checkpoint's repair depends on."""
    each = asdict(replace(config, settings=(), seeds=()))
    return each | {"checkpoint": list(checkpoint)}


def _repaired(checkpoint: Checkpoint, folder: Path, work: Path, config: RepairStudyConfig) -> Repair:
    def compute() -> Repair:
        logger.info("repair study: %s", checkpoint.name)
        tuned, new = _trained(checkpoint, config), config.sequences[checkpoint.sequence]
        return repair(
            checkpoint.source, tuned, keep=config.keep, learned=new.tasks, others=config.others,
            config=replace(config.repair, learned_shots=new.shots), out=work,
        )  # fmt: skip

    return load_or_compute(folder / f"{checkpoint.name}.safetensors", Repair, _key(checkpoint, config), compute)


def _trained(checkpoint: Checkpoint, config: RepairStudyConfig) -> HookedTransformer:
    """The model after all tasks of the sequence in turn."""
    model = only_hooked(load_model(checkpoint.source), "training")
    settings = TrainingConfig(
        Guidance.preset(checkpoint.method), steps=config.steps, batch_size=config.batch_size,
        learning_rate=checkpoint.rate, warmup=config.warmup, seed=checkpoint.seed,
    )  # fmt: skip
    new = config.sequences[checkpoint.sequence]
    for name in new.tasks:
        fine_tune(model, load_task(name).prompts(shots=new.shots, split="train"), settings)
    return model
