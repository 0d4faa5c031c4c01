"""Why ``l2`` keeps more: checkpoints of the study of guidance beside their base, by the toolkit's own measures."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
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

    ``again``: other pairs of an order and a seed, whose checkpoints of the same kinds are measured too, not patched.
    ``patched``: prompts of each task on which activations are exchanged, those that were forgotten among them.
    """

    study: StudyConfig = field(default_factory=StudyConfig)
    checkpoints: Mapping[str, Run] = field(default_factory=lambda: {
        "plain": Run("final", "destructive", "plain", 1.0, 0, 0),
        "plain, rate / 8": Run("final", "destructive", "plain", 8.0, 0, 0),
        "interpolate": Run("final", "destructive", "interpolate", 0.25, 0, 0),
        "l2": Run("final", "destructive", "l2", 0.6, 0, 0),
    })  # fmt: skip
    again: tuple[tuple[int, int], ...] = ((1, 1), (0, 2))
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
    def pairs(self) -> list["WhyConfig"]:
        """This configuration, and that of each other pair."""
        others = [
            {name: run._replace(order=order, seed=seed) for name, run in self.checkpoints.items()}
            for order, seed in self.again
        ]
        return [self, *(replace(self, checkpoints=each) for each in others)]

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
    """The checkpoints of each pair beside the base; its weights, and its activations, put into the destroyed one."""

    comparisons: tuple[CheckpointComparison, ...]
    reverts: tuple[WeightReverts, ...]
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
    tables = comparison_table(found.comparisons), reverts_table(found.reverts), patching_table(found.patching)
    return [write_tables(folder / "tables.md", *tables)]


def measure_why(folder: Path, work: Path, config: WhyConfig) -> Why:
    """Measure, and save in ``folder``; checkpoints and what was measured of them are kept in ``work``."""
    pairs = (measure_pair(folder, work, pair, number) for number, pair in enumerate(config.pairs))
    comparisons, reverts = zip(*pairs, strict=True)
    lost = [prompt for name in config.old for prompt in load_task(name).prompts(config.patched, shots=2, split="test")]
    patching = patch_checkpoints(
        config.study.source, _checkpoint(config.destroyed, work, config), lost,
        learned=load_task(config.learned[-1]).prompts(config.patched, shots=0, split="test"),
        only_forgotten=config.only_forgotten, out=work / "patching",
    )  # fmt: skip
    _save(patching, folder / "patching.safetensors", work, config)
    return Why(comparisons, reverts, patching)


def measure_pair(folder: Path, work: Path, pair: WhyConfig, number: int) -> tuple[CheckpointComparison, WeightReverts]:
    """Compare a pair's checkpoints with the base, and put the base's weights back into one; its files have a number."""
    tuned = {name: _checkpoint(name, work, pair) for name in pair.checkpoints}
    base, destroyed = pair.study.source, tuned[pair.destroyed]
    comparison = compare_checkpoints(base, tuned, pair.old, pair.comparison, out=work / f"compared-{number}")
    reverts = revert_weights(base, destroyed, pair.old, pair.learned, pair.reverts, out=work / f"reverts-{number}")
    _save(comparison, folder / f"comparison-{number}.safetensors", work, pair)
    _save(reverts, folder / f"reverts-{number}.safetensors", work, pair)
    return comparison, reverts


def _save(record: Any, path: Path, work: Path, config: WhyConfig) -> None:
    """Save with what it depends on, and checkpoints by the names of their folders: their place is of this machine."""
    own = json.dumps(record.provenance).replace(json.dumps(f"{work}{os.sep}")[1:-1], f"{work.name}/")
    replace(record, provenance=json.loads(own) | {"key": config.facts}).save(path, overwrite=True)


def load_why(folder: Path, config: WhyConfig) -> Why:
    """The records as they were saved, without a model.

    Raises:
        RecordError: one is missing, broken, or of another configuration.
    """
    numbers = range(len(config.pairs))
    found = Why(
        tuple(CheckpointComparison.load(folder / f"comparison-{number}.safetensors") for number in numbers),
        tuple(WeightReverts.load(folder / f"reverts-{number}.safetensors") for number in numbers),
        CheckpointPatching.load(folder / "patching.safetensors"),
    )
    records = (*found.comparisons, *found.reverts, found.patching)
    expected = (*config.pairs, *config.pairs, config)
    if any(record.provenance.get("key") != each.facts for record, each in zip(records, expected, strict=True)):
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


def comparison_table(comparisons: Sequence[CheckpointComparison]) -> pd.DataFrame:
    """One row per checkpoint: means over the pairs, and in each over the old tasks, and the matrices of all layers."""
    return _over_pairs([_means(each) for each in comparisons], "{:.2g}")


def _means(found: CheckpointComparison) -> pd.DataFrame:
    means = found.to_frame().groupby("checkpoint", sort=False)[list(MEASURES)].mean().rename(columns=MEASURES)
    changes = found.spectrum_frame().groupby("checkpoint")[["change", "rank90"]].mean()
    changes = changes.reindex(means.index, fill_value=0.0)  # of the base
    return means.assign(**{"change of weights": changes["change"], "rank of 90% of it": changes["rank90"]})


def reverts_table(reverts: Sequence[WeightReverts]) -> pd.DataFrame:
    """One row per part of the base that is put back into the destroyed checkpoint: accuracies on old and new tasks."""
    parts = ["what", "part", "layers", "fraction"]
    frames = [each.to_frame().query("what in ('straight', 'layers', 'rest')") for each in reverts]
    return _over_pairs([each.pivot_table("accuracy", parts, "role", sort=False) for each in frames], "{:.2f}")


def _over_pairs(frames: Sequence[pd.DataFrame], form: str) -> pd.DataFrame:
    """Means in words, with standard errors where several pairs differ; empty where nothing is known."""
    rows = pd.concat(frames).groupby(level=[*range(frames[0].index.nlevels)], sort=False)
    errors = rows.sem().map(" ± {:.1g}".format).replace([" ± nan", " ± 0"], "")
    means = rows.apply(lambda pairs: pairs.mean(skipna=False)).map(form.format).replace("nan", "")
    return (means + errors).reset_index()


def patching_table(found: CheckpointPatching) -> pd.DataFrame:
    """The strongest of each part: what its activation in the base restores in the destroyed checkpoint."""
    frame = found.beside_controls(1)[PATCHED].round(2)
    return frame.assign(head=["" if pd.isna(head) else head for head in frame["head"]])
