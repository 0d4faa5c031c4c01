"""The diagnosis study: checkpoints of real training sequences, compared with their base.

Each guidance learns the same new tasks in turn; the model after each is exported and compared with the base on the old
tasks and the new ones.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from ..checkpoints import CheckpointConfig, compare_checkpoints
from ..errors import RecordError
from ..files import safe_name
from ..models import HookedTransformer, export_hf, load_model
from ..records import CheckpointComparison
from ..tasks import list_tasks, load_task
from ..training import Guidance, TrainingConfig, fine_tune, rehearsal_prompts
from .kept_vectors import load_or_compute_vector

MOVED = {"accuracy": "accuracy", "probability": "probability", "knowledge": "knowledge", "alignment": "alignment",
         "recovered": "bare + base's vector"}  # fmt: skip
SAID = {"cosine": "cosine", "centred_cosine": "centred cosine", "norm_ratio": "norm ratio",
        "recovered_random": "bare + random"}  # fmt: skip


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


def run_diagnosis(
    folder: Path, work: Path, config: DiagnosisConfig, say: Callable[[str], None] = print
) -> dict[str, CheckpointComparison]:
    """A comparison for each guidance, saved in ``folder``; checkpoints and cells are kept in ``work`` for next time."""
    found = {}
    for guidance in config.guidance:
        comparison = compare_checkpoints(
            config.source, _sequence(guidance, work, config, say), (*config.old, *config.new), config.comparison,
            out=work / "compared", learned=config.new, say=say,
        )  # fmt: skip
        comparison.save(folder / f"{guidance}.safetensors", overwrite=True)
        found[guidance] = comparison
    return found


def load_diagnosis(folder: Path, config: DiagnosisConfig) -> dict[str, CheckpointComparison]:
    """The comparisons as they were saved, without a model.

    Raises:
        RecordError: one is missing, broken, or of other checkpoints, tasks or settings.
    """
    return {guidance: _loaded(folder, guidance, config) for guidance in config.guidance}


def diagnosis_table(comparisons: Mapping[str, CheckpointComparison]) -> pd.DataFrame:
    """A row for each old task on the last checkpoint of each guidance; "a -> b": on the base, and on the checkpoint."""
    rows = []
    for comparison in comparisons.values():
        known = {(row["checkpoint"], row["task"]): row for row in comparison.rows}
        base, last = comparison.checkpoints[0], comparison.checkpoints[-1]
        for task in [name for name in comparison.tasks if name not in comparison.learned]:
            before, now = known[base, task], known[last, task]
            rows.append({
                "checkpoint": last, "task": task,
                **{title: f"{before[name]:.2f} -> {now[name]:.2f}".replace("nan -> nan", "no cloze")
                   for name, title in MOVED.items()},
                **{title: f"{now[name]:.2f}" for name, title in SAID.items()}, "verdict": now["verdict"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def _loaded(folder: Path, guidance: str, config: DiagnosisConfig) -> CheckpointComparison:
    comparison = CheckpointComparison.load(folder / f"{guidance}.safetensors")
    names = ("base", *(_name(guidance, stage) for stage in range(len(config.new))))
    expected = json.dumps([names, (*config.old, *config.new), asdict(config.comparison)])
    settings = comparison.provenance["settings"]["comparison"]
    if json.dumps([comparison.checkpoints, comparison.tasks, settings]) != expected:
        raise RecordError(f"the diagnosis of {guidance} as it is configured", "another one", "run it again")
    return comparison


def _sequence(guidance: str, work: Path, config: DiagnosisConfig, say: Callable[[str], None]) -> dict[str, Path]:
    """The folders of one guidance's checkpoints; a stage that was exported before is not trained again."""
    settings = TrainingConfig(
        Guidance.preset(guidance), steps=config.steps, batch_size=config.batch_size,
        learning_rate=config.learning_rate, warmup=config.warmup, seed=config.seed,
    )  # fmt: skip
    tasks = (config.new, config.old, config.comparison.k, config.comparison.n_clean, config.comparison.n_corrupted)
    key = json.dumps([config.source, tasks, asdict(settings), version("ivlens")])
    home = work / f"{guidance}-{sha256(key.encode()).hexdigest()[:12]}"
    folders = {_name(guidance, stage): home / f"{stage + 1}-{safe_name(name)}" for stage, name in enumerate(config.new)}
    before: Path | str = config.source
    for name, folder in zip(config.new, folders.values(), strict=True):
        if not folder.exists():
            say(f"{guidance}: {name}")
            export_hf(_trained(load_model(before), name, settings, work, config), folder)
        before = folder
    return folders


def _trained(
    model: HookedTransformer, name: str, settings: TrainingConfig, work: Path, config: DiagnosisConfig
) -> HookedTransformer:
    """The model after the task, which it is asked without demonstrations; the vector is the base's."""
    task, comparison, guidance = load_task(name), config.comparison, settings.guidance
    vector, rehearse = None, []
    if guidance.uses_vector:
        path = work / "vectors" / f"{safe_name(name)}.safetensors"
        base = load_model(config.source)
        vector = load_or_compute_vector(base, path, task, comparison.k, comparison.n_clean, comparison.n_corrupted)
    if guidance.rehearsal:
        others = [load_task(each) for each in list_tasks() if each not in (*config.new, *config.old)]
        rehearse = rehearsal_prompts(task, others)
    fine_tune(model, task.prompts(shots=0, split="train"), settings, vector=vector, rehearse=rehearse)
    return model


def _name(guidance: str, stage: int) -> str:
    return f"{guidance} {stage + 1}"
