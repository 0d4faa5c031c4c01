"""Why ``l2`` keeps more: checkpoints of the study of guidance beside their base, by the toolkit's own measures."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ivlens import (
    CheckpointComparison,
    CheckpointConfig,
    CheckpointPatching,
    ContinualConfig,
    RecordError,
    RevertConfig,
    WeightReverts,
    compare_checkpoints,
    continual,
    export_hf,
    load_model,
    load_task,
    patch_checkpoints,
    revert_weights,
)
from ivlens.files import safe_name
from ivlens.models import cache_folder, only_hooked

from ..continual.config import Run, StudyConfig
from ..continual.runs import key_of
from ..pages import load_or_measure, write_tables

MEASURES = {
    "accuracy": "accuracy", "kl_text": "KL on a text", "cosine": "cosine of vectors", "norm_ratio": "norm ratio",
    "recovered": "bare + base's vector",
}  # fmt: skip
# a tenth is about the size of l2's change; new tasks are asked as they were trained
FROM_THE_BASE = RevertConfig((0.0, 0.1, 0.25, 0.5, 0.75, 1.0), n_bands=3, learned_shots=0)
PATCHED = [
    "part",
    "layer",
    "head",
    "restored",
    "restored_low",
    "restored_high",
    "broken",
    "other_prompt",
    "learned_nats",
]
logger = logging.getLogger("ivlens")


@dataclass(frozen=True)
class WhyConfig:
    """Runs whose models are looked at, on which old tasks; parts of the base are put into the ``destroyed`` one.

    ``patched``: prompts of each task on which activations are exchanged, those that were forgotten among them.
    """

    study: StudyConfig = field(default_factory=StudyConfig)
    checkpoints: Mapping[str, Run] = field(default_factory=lambda: {
        "plain": Run("final", "destructive", "plain", 1.0, 0, 0),
        "plain, rate / 8": Run("final", "destructive", "plain", 8.0, 0, 0),
        "interpolate": Run("final", "destructive", "interpolate", 0.25, 0, 0),
        "l2": Run("final", "destructive", "l2", 0.6, 0, 0),
    })  # fmt: skip
    destroyed: str = "plain"
    old: tuple[str, ...] = ("antonym", "verb-gerund", "country-capital")
    comparison: CheckpointConfig = field(
        default_factory=lambda: CheckpointConfig(n_clean=30, n_corrupted=10, n_test=24, general=False)
    )
    reverts: RevertConfig = field(default_factory=lambda: FROM_THE_BASE)
    patched: int = 8
    only_forgotten: bool = True

    @property
    def learned(self) -> tuple[str, ...]:
        """The new tasks of the destroyed checkpoint, in their order."""
        return self.study.final.orders[self.checkpoints[self.destroyed].order]

    @property
    def facts(self) -> dict[str, Any]:
        """What the records depend on, as JSON: not the verdict's rule, which is applied to what was measured."""
        runs = {name: key_of(run, self.study) for name, run in self.checkpoints.items()}
        measured = {name: value for name, value in self.comparison.settings().items() if name != "rule"}
        reverts = {name: str(value) for name, value in vars(self.reverts).items()}
        return {"runs": runs, "old": [*self.old], "comparison": str(measured), "reverts": reverts,
                "patched": [self.patched, self.only_forgotten]}  # fmt: skip


@dataclass(frozen=True)
class Why:
    """All checkpoints beside the base; the base's weights, and its activations, put into the destroyed one."""

    comparison: CheckpointComparison
    reverts: WeightReverts
    patching: CheckpointPatching


def write(folder: Path, *, fresh: bool = False, config: WhyConfig | None = None) -> list[Path]:
    """Write the tables into ``folder`` from the records in its ``records``; return the files.

    Records that are missing are measured first; with ``fresh`` all are.
    """
    config = config or WhyConfig()
    found = load_or_measure(
        folder / "records", lambda records: load_why(records, config),
        lambda records: measure_why(records, cache_folder() / "why_l2", config), fresh,
    )  # fmt: skip
    tables = comparison_table(found.comparison), reverts_table(found.reverts), patching_table(found.patching)
    return [write_tables(folder / "tables.md", *tables)]


def measure_why(folder: Path, work: Path, config: WhyConfig) -> Why:
    """Measure, and save in ``folder``; checkpoints and what was measured of them are kept in ``work``."""
    tuned = {name: _checkpoint(name, work, config) for name in config.checkpoints}
    base, destroyed, last = config.study.source, tuned[config.destroyed], config.learned[-1]
    lost = [prompt for name in config.old for prompt in load_task(name).prompts(config.patched, shots=2, split="test")]
    found = Why(
        compare_checkpoints(base, tuned, config.old, config.comparison, out=work / "compared"),
        revert_weights(base, destroyed, config.old, config.learned, config.reverts, out=work / "reverts"),
        patch_checkpoints(
            base, destroyed, lost, learned=load_task(last).prompts(config.patched, shots=0, split="test"),
            only_forgotten=config.only_forgotten, out=work / "patching",
        ),
    )  # fmt: skip
    for name, record in vars(found).items():
        own = record.provenance | {"key": config.facts}
        replace(record, provenance=own).save(folder / f"{name}.safetensors", overwrite=True)
    return found


def load_why(folder: Path, config: WhyConfig) -> Why:
    """The records as they were saved, without a model.

    Raises:
        RecordError: one is missing, broken, or of another configuration.
    """
    found = Why(
        CheckpointComparison.load(folder / "comparison.safetensors"),
        WeightReverts.load(folder / "reverts.safetensors"),
        CheckpointPatching.load(folder / "patching.safetensors"),
    )
    if any(each.provenance.get("key") != config.facts for each in vars(found).values()):
        raise RecordError("records as they are configured", "others", "run the study again")
    return found


def _checkpoint(name: str, work: Path, config: WhyConfig) -> Path:
    """The folder of a run's model, which is trained where it is not there yet."""
    run = config.checkpoints[name]
    folder = work / f"{safe_name(name)}-{key_of(run, config.study)}"
    if not folder.exists():
        logger.info("training %s", name)
        model = only_hooked(load_model(config.study.source), "training")
        training, (new, _) = config.study.training(run), config.study.tasks(run)
        continual(model, new, ContinualConfig(training, n_test=1, vectors=False, measure_after="last"))
        export_hf(model, folder)
    return folder


def comparison_table(found: CheckpointComparison) -> pd.DataFrame:
    """One row per checkpoint: means over the old tasks, and over the matrices of all layers."""
    means = found.to_frame().groupby("checkpoint", sort=False)[list(MEASURES)].mean().rename(columns=MEASURES)
    changes = found.spectrum_frame().groupby("checkpoint")[["change", "rank90"]].mean()
    changes = changes.reindex(means.index, fill_value=0.0)  # of the base
    means[["change of weights", "rank of 90% of it"]] = changes
    return means.map("{:.2g}".format).replace("nan", "").reset_index()


def reverts_table(found: WeightReverts) -> pd.DataFrame:
    """One row per part of the base that is put back into the destroyed checkpoint: accuracies on old and new tasks."""
    frame = found.to_frame().query("what in ('straight', 'layers', 'rest')")
    parts = ["what", "part", "layers", "fraction"]
    return frame.pivot_table("accuracy", parts, "role", sort=False).reset_index().round(2)


def patching_table(found: CheckpointPatching) -> pd.DataFrame:
    """The strongest of each part: what its activation in the base restores in the destroyed checkpoint."""
    frame = found.beside_controls(1)[PATCHED].round(2)
    return frame.assign(head=["" if pd.isna(head) else head for head in frame["head"]])
