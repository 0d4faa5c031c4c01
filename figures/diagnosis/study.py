"""The diagnosis study: checkpoints of real training sequences, compared with their base.

Each guidance learns the same new tasks in turn; the model after each is exported and compared with the base on the old
tasks and the new ones.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from ivlens import (
    CheckpointComparison,
    CheckpointConfig,
    Guidance,
    RecordError,
    TrainingConfig,
    compare_checkpoints,
    export_hf,
    fine_tune,
    load_model,
    load_task,
    rehearsal_prompts,
    views,
)
from ivlens.effects import load_or_compute_vector
from ivlens.files import safe_name
from ivlens.models import HookedTransformer, cache_folder, only_hooked
from ivlens.records import findings
from ivlens.tasks import word_tasks

from ..pages import load_or_measure, write_tables

logger = logging.getLogger("ivlens")

# measures and their columns: on base and checkpoint ("a -> b"), and on the checkpoint alone
BEFORE_AND_AFTER = {
    "accuracy": "accuracy",
    "probability": "probability",
    "knowledge": "knowledge",
    "alignment": "alignment",
    "recovered": "bare + base's vector",
}
AFTER = {
    "cosine": "cosine",
    "centred_cosine": "centred cosine",
    "norm_ratio": "norm ratio",
    "recovered_random": "bare + random vector",
}


@dataclass(frozen=True)
class DiagnosisConfig:
    """What is learned in turn under each guidance, which old tasks are looked at, and how."""

    source: str = "smollm2"
    guidance: tuple[str, ...] = ("plain",)
    new: tuple[str, ...] = ("lowercase-first-letter", "word-topic", "choose-last-of-3")
    old: tuple[str, ...] = ("present-past", "singular-plural", "country-capital", "country-language", "capitalize")
    steps: int = 12
    batch_size: int = 8
    learning_rate: float = 1e-4
    warmup: int = 2
    seed: int = 0
    comparison: CheckpointConfig = field(
        default_factory=lambda: CheckpointConfig(n_clean=30, n_corrupted=10, n_test=24)
    )


def write(folder: Path, *, fresh: bool = False, config: DiagnosisConfig | None = None, kind: str = "png") -> list[Path]:
    """Draw the pictures and tables into ``folder`` from the records in its ``records``; return the files.

    Records that are missing are measured first; with ``fresh`` all are.

    Raises:
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    config = config or DiagnosisConfig()
    comparisons = load_or_measure(
        folder / "records", lambda records: load_diagnosis(records, config),
        lambda records: run_diagnosis(records, cache_folder() / "diagnosis", config), fresh,
    )  # fmt: skip
    images = [
        views.save_figure(
            views.checkpoint_summary(each, title=f"{guidance}: {len(config.new)} new tasks in turn"),
            folder / f"{guidance}.{kind}",
        )
        for guidance, each in comparisons.items()
    ]
    return [*images, write_tables(folder / "tables.md", diagnosis_table(comparisons), findings_table(comparisons))]


def run_diagnosis(folder: Path, work: Path, config: DiagnosisConfig) -> dict[str, CheckpointComparison]:
    """A comparison for each guidance, saved in ``folder``; checkpoints and measures are kept in ``work``."""
    comparisons = {}
    for guidance in config.guidance:
        comparison = compare_checkpoints(
            config.source, _sequence(guidance, work, config), (*config.old, *config.new), config.comparison,
            out=work / "compared", learned=config.new,
        )  # fmt: skip
        comparison.save(folder / f"{guidance}.safetensors", overwrite=True)
        comparisons[guidance] = comparison
    return comparisons


def load_diagnosis(folder: Path, config: DiagnosisConfig) -> dict[str, CheckpointComparison]:
    """The comparisons as they were saved, without a model.

    Raises:
        RecordError: one is missing, broken, or of other checkpoints, tasks or settings.
    """
    return {guidance: _loaded(folder, guidance, config) for guidance in config.guidance}


def diagnosis_table(comparisons: Mapping[str, CheckpointComparison]) -> pd.DataFrame:
    """One row per old task on the last checkpoint of each guidance; "a -> b": on the base, and on the checkpoint."""
    rows = []
    for comparison in comparisons.values():
        measured = {(row["checkpoint"], row["task"]): row for row in comparison.rows}
        base, last = comparison.checkpoints[0], comparison.checkpoints[-1]
        for task in [name for name in comparison.tasks if name not in comparison.learned]:
            before, now = measured[base, task], measured[last, task]
            rows.append({
                "checkpoint": last, "task": task,
                **{title: f"{before[name]:.2f} -> {now[name]:.2f}".replace("nan -> nan", "no cloze")
                   for name, title in BEFORE_AND_AFTER.items()},
                **{title: f"{now[name]:.2f}" for name, title in AFTER.items()}, "verdict": now["verdict"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def findings_table(comparisons: Mapping[str, CheckpointComparison]) -> pd.DataFrame:
    """The papers' claims on the checkpoints of all guidances, as texts; without those that nothing was measured for."""
    frame = findings(*comparisons.values()).query("pairs > 0")
    intervals = zip(frame["value"], frame["low"], frame["high"], strict=True)
    texts = [f"{value:.2f} ({low:.2f} to {high:.2f})".replace(" (nan to nan)", "") for value, low, high in intervals]
    return frame[["claim", "measure"]].assign(value=texts, pairs=frame["pairs"], finding=frame["finding"])


def _loaded(folder: Path, guidance: str, config: DiagnosisConfig) -> CheckpointComparison:
    comparison = CheckpointComparison.load(folder / f"{guidance}.safetensors")
    names = ("base", *(_name(guidance, stage) for stage in range(len(config.new))))
    expected = json.dumps([names, (*config.old, *config.new), config.comparison.settings()])
    defaults, saved = CheckpointConfig().settings(), comparison.provenance["settings"]["comparison"]
    settings = defaults | saved | {"rule": defaults["rule"] | saved["rule"]}  # fields and thresholds added since
    if json.dumps([comparison.checkpoints, comparison.tasks, settings]) != expected:
        raise RecordError(f"the diagnosis of {guidance} as it is configured", "another one", "run it again")
    return comparison


def _sequence(guidance: str, work: Path, config: DiagnosisConfig) -> dict[str, Path]:
    """The folders of one guidance's checkpoints; a stage that was exported before is not trained again."""
    settings = TrainingConfig(
        Guidance.preset(guidance), steps=config.steps, batch_size=config.batch_size,
        learning_rate=config.learning_rate, warmup=config.warmup, seed=config.seed,
    )  # fmt: skip
    tasks = (config.new, config.old, config.comparison.k, config.comparison.n_clean, config.comparison.n_corrupted)
    key = json.dumps([config.source, tasks, settings.facts, version("ivlens")])
    home = work / f"{guidance}-{sha256(key.encode()).hexdigest()[:12]}"
    folders = {_name(guidance, stage): home / f"{stage + 1}-{safe_name(name)}" for stage, name in enumerate(config.new)}
    before: Path | str = config.source
    for name, folder in zip(config.new, folders.values(), strict=True):
        if not folder.exists():
            logger.info("%s: %s", guidance, name)
            export_hf(_trained(only_hooked(load_model(before), "training"), name, settings, work, config), folder)
        before = folder
    return folders


def _trained(
    model: HookedTransformer, name: str, settings: TrainingConfig, work: Path, config: DiagnosisConfig
) -> HookedTransformer:
    """The model after the task, which it is asked without demonstrations; the vector is the base's."""
    task, comparison, guidance = load_task(name), config.comparison, settings.guidance
    vector, rehearse = None, []
    if "vector" in guidance.needs:
        path = work / "vectors" / f"{safe_name(name)}.safetensors"
        base = load_model(config.source)
        vector = load_or_compute_vector(base, path, task, comparison.k, comparison.n_clean, comparison.n_corrupted)
    if "rehearse" in guidance.needs:
        others = [load_task(each) for each in word_tasks() if each not in (*config.new, *config.old)]
        rehearse = rehearsal_prompts(task, others)
    fine_tune(model, task.prompts(shots=0, split="train"), settings, vector=vector, rehearse=rehearse)
    return model


def _name(guidance: str, stage: int) -> str:
    return f"{guidance} {stage + 1}"
