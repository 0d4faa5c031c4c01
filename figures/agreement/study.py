"""When may attribution be trusted? Its agreement with the exact effects on SmolLM2, task by task."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ivlens import compare_methods, load_model, load_task, mean_head_activations
from ivlens.files import safe_name
from ivlens.records import MethodAgreement

from ..pages import load_or_measure, write_tables

Condition = tuple[str, str, int]  # task, corruption, shots


@dataclass(frozen=True)
class AgreementConfig:
    """Tasks, and corruptions with their numbers of demonstrations; prompts are of the train split."""

    tasks: tuple[str, ...] = ("present-past", "country-capital", "capitalize", "antonym")
    corruptions: tuple[tuple[str, int], ...] = (("no-instruction", 2), ("shuffled-labels", 5))
    metric: str = "log-probability"
    n_clean: int = 20
    n_corrupted: int = 10


def write(folder: Path, *, fresh: bool = False, config: AgreementConfig | None = None) -> list[Path]:
    """Write the table into ``folder`` from the records there; missing ones, or with ``fresh`` all, are measured."""
    config = config or AgreementConfig()
    agreements = load_or_measure(folder / "records", partial(_loaded, config), partial(_measured, config), fresh)
    rows = [_row(*condition, agreement) for condition, agreement in agreements.items()]
    return [write_tables(folder / "tables.md", pd.DataFrame(rows))]


def _paths(config: AgreementConfig, folder: Path) -> dict[Condition, Path]:
    conditions = [(task, *corruption) for task in config.tasks for corruption in config.corruptions]
    return {
        (task, corruption, shots): folder / f"{safe_name(task)}.{corruption}.safetensors"
        for task, corruption, shots in conditions
    }


def _loaded(config: AgreementConfig, folder: Path) -> dict[Condition, MethodAgreement]:
    return {condition: MethodAgreement.load(path) for condition, path in _paths(config, folder).items()}


def _measured(config: AgreementConfig, folder: Path) -> dict[Condition, MethodAgreement]:
    """Every condition's record; those that are there already are kept."""
    model = load_model("smollm2")
    for (name, corruption, shots), path in _paths(config, folder).items():
        if path.exists():
            continue
        task = load_task(name)
        means = mean_head_activations(model, task.prompts(config.n_clean, shots=shots, split="train"))
        prompts = task.prompts(config.n_corrupted, shots=shots, split="train", corruption=corruption)
        compare_methods(model, prompts, means, metric=config.metric).save(path)
    return _loaded(config, folder)


def _row(task: str, corruption: str, shots: int, agreement: MethodAgreement) -> dict[str, object]:
    (frame,) = agreement.to_frame().to_dict("records")
    return {
        "task": task,
        "corrupted prompts": corruption,
        "shots": shots,
        "rank correlation per prompt": f"{frame['spearman']:.2f}",
        "lowest": f"{frame['lowest_spearman']:.2f}",
        f"of the top {agreement.k} per prompt": f"{agreement.k * frame['overlap']:.1f}",
        "rank correlation of AIEs": f"{frame['aie_spearman']:.2f}",
        f"of their top {agreement.k}": f"{agreement.k * frame['aie_overlap']:.0f}",
        "n": agreement.n,
    }
