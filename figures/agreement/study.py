"""When may attribution be trusted? Its agreement with the exact effects on SmolLM2, task by task."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ivlens import compare_methods, load_model, load_task, mean_head_activations, mean_position_activations
from ivlens.files import safe_name
from ivlens.models import Model
from ivlens.records import MethodAgreement
from ivlens.vocabulary import Corruption, EffectPart, Metric

from ..pages import load_or_measure, write_tables


@dataclass(frozen=True)
class AgreementConfig:
    """Tasks, and corruptions with their numbers of demonstrations; prompts are of the train split.

    ``parts`` are compared at all positions of ``n_bare`` bare prompts of ``position_tasks``, by role: the exact effects
    of heads take a minute or more there.
    """

    tasks: tuple[str, ...] = ("present-past", "country-capital", "capitalize", "antonym")
    corruptions: tuple[tuple[Corruption, int], ...] = (("no-instruction", 2), ("shuffled-labels", 5))
    metric: Metric = "log-probability"
    n_clean: int = 20
    n_corrupted: int = 10
    position_tasks: tuple[str, ...] = ("present-past", "country-capital")
    parts: tuple[EffectPart, ...] = ("head", "attention", "mlp")
    n_bare: int = 10


class Condition(NamedTuple):
    """What is compared on one task: heads at the last token of corrupted prompts."""

    task: str
    corruption: Corruption
    shots: int

    @property
    def name(self) -> str:
        return f"{safe_name(self.task)}.{self.corruption}"

    def measured(self, model: Model, config: AgreementConfig) -> MethodAgreement:
        task = load_task(self.task)
        means = mean_head_activations(model, task.prompts(config.n_clean, shots=self.shots, split="train"))
        prompts = task.prompts(config.n_corrupted, shots=self.shots, split="train", corruption=self.corruption)
        return compare_methods(model, prompts, means, metric=config.metric)


class AtPositions(NamedTuple):
    """What is compared on one task: one kind of part at all positions of bare prompts."""

    task: str
    part: EffectPart

    @property
    def name(self) -> str:
        return f"{safe_name(self.task)}.positions.{self.part}"

    def measured(self, model: Model, config: AgreementConfig) -> MethodAgreement:
        task = load_task(self.task)
        clean = task.prompts(config.n_clean, shots=2, split="train")
        means = mean_position_activations(model, clean, parts=(self.part,))
        prompts = task.prompts(config.n_bare, shots=0, instruction=False, split="train")
        return compare_methods(model, prompts, means, metric=config.metric)


Measured = dict[Condition | AtPositions, MethodAgreement]


def write(folder: Path, *, fresh: bool = False, config: AgreementConfig | None = None) -> list[Path]:
    """Write the tables into ``folder`` from the records there; missing ones, or with ``fresh`` all, are measured."""
    config = config or AgreementConfig()
    measured = load_or_measure(folder / "records", partial(_loaded, config), partial(_measured, config), fresh)
    heads, positions = (
        pd.DataFrame([_about(what) | _row(each) for what, each in measured.items() if isinstance(what, kind)])
        for kind in (Condition, AtPositions)
    )
    return [write_tables(folder / "tables.md", heads, positions)]


def _compared(config: AgreementConfig) -> list[Condition | AtPositions]:
    conditions = [Condition(task, *corruption) for task in config.tasks for corruption in config.corruptions]
    return [*conditions, *(AtPositions(task, part) for task in config.position_tasks for part in config.parts)]


def _path(folder: Path, what: Condition | AtPositions) -> Path:
    return folder / f"{what.name}.safetensors"


def _loaded(config: AgreementConfig, folder: Path) -> Measured:
    return {what: MethodAgreement.load(_path(folder, what)) for what in _compared(config)}


def _measured(config: AgreementConfig, folder: Path) -> Measured:
    """Every comparison's record; those that are there already are kept."""
    model = load_model("smollm2")
    for what in _compared(config):
        path = _path(folder, what)
        if not path.exists():
            what.measured(model, config).save(path)
    return _loaded(config, folder)


def _about(what: Condition | AtPositions) -> dict[str, object]:
    if isinstance(what, AtPositions):
        return {"task": what.task, "part, at all positions": what.part}
    return {"task": what.task, "corrupted prompts": what.corruption, "shots": what.shots}


def _row(agreement: MethodAgreement) -> dict[str, object]:
    (frame,) = agreement.to_frame().to_dict("records")
    return {
        "rank correlation per prompt": f"{frame['spearman']:.2f}",
        "lowest": f"{frame['lowest_spearman']:.2f}",
        f"of the top {agreement.k} per prompt": f"{agreement.k * frame['overlap']:.1f}",
        "rank correlation of AIEs": f"{frame['aie_spearman']:.2f}",
        f"of their top {agreement.k}": f"{agreement.k * frame['aie_overlap']:.0f}",
        "n": agreement.n,
    }
