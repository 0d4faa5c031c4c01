"""When may attribution be trusted? Its agreement with the exact effects on SmolLM2, task by task."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ..activations import mean_head_activations
from ..effects import compare_methods
from ..files import safe_name
from ..models import load_model
from ..records import MethodAgreement, write_text
from ..tasks import load_task
from .figures import kept_or_measured, markdown

Cell = tuple[str, str, int]  # task, corruption, shots


@dataclass(frozen=True)
class AgreementConfig:
    """Tasks, and corruptions with their numbers of demonstrations; prompts are of the train split."""

    tasks: tuple[str, ...] = ("present-past", "country-capital", "capitalize", "antonym")
    corruptions: tuple[tuple[str, int], ...] = (("no-instruction", 2), ("shuffled-labels", 5))
    metric: str = "log-probability"
    n_clean: int = 20
    n_corrupted: int = 10


def make_agreement_table(
    folder: Path,
    *,
    fresh: bool = False,
    config: AgreementConfig | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write the table of agreement into ``folder`` from the records there; missing ones, or with ``fresh`` all, are
    measured."""
    config, records = config or AgreementConfig(), folder / "records" / "agreement"
    load, measure = partial(_loaded, records, config), partial(_measured, config)
    found = kept_or_measured(records, load, measure, fresh, say)
    rows = [_row(*cell, agreement) for cell, agreement in found.items()]
    return [write_text(folder / "agreement-tables.md", markdown(pd.DataFrame(rows)))]


def _paths(folder: Path, config: AgreementConfig) -> dict[Cell, Path]:
    cells = [(task, *corruption) for task in config.tasks for corruption in config.corruptions]
    return {cell: folder / f"{safe_name(cell[0])}.{cell[1]}.safetensors" for cell in cells}


def _loaded(folder: Path, config: AgreementConfig) -> dict[Cell, MethodAgreement]:
    return {cell: MethodAgreement.load(path) for cell, path in _paths(folder, config).items()}


def _measured(config: AgreementConfig, folder: Path) -> dict[Cell, MethodAgreement]:
    """Every cell's record; those that are there already are kept."""
    model = load_model("smollm2")
    for (name, corruption, shots), path in _paths(folder, config).items():
        if path.exists():
            continue
        task = load_task(name)
        means = mean_head_activations(model, task.prompts(config.n_clean, shots=shots, split="train"))
        prompts = task.prompts(config.n_corrupted, shots=shots, split="train", corruption=corruption)
        compare_methods(model, prompts, means, metric=config.metric).save(path)
    return _loaded(folder, config)


def _row(task: str, corruption: str, shots: int, found: MethodAgreement) -> dict[str, object]:
    (frame,) = found.to_frame().to_dict("records")
    return {
        "task": task,
        "corrupted prompts": corruption,
        "shots": shots,
        "rank correlation a prompt": f"{frame['spearman']:.2f}",
        "lowest": f"{frame['lowest_spearman']:.2f}",
        f"of the top {found.k} a prompt": f"{found.k * frame['overlap']:.1f}",
        "rank correlation of AIEs": f"{frame['aie_spearman']:.2f}",
        f"of their top {found.k}": f"{found.k * frame['aie_overlap']:.0f}",
        "n": found.n,
    }
