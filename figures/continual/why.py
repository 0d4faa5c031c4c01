"""Why ``l2`` keeps more: checkpoints of the destructive regime beside the base, by the toolkit's own measures.

python -m figures.continual.why    # trains and measures what its records lack: half an hour on 2 cores
"""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from ivlens import (
    CheckpointComparison,
    CheckpointConfig,
    CheckpointPatching,
    ContinualConfig,
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
from ivlens.records import load_or_compute

from .config import Run, StudyConfig
from .runs import key_of

RECORDS = Path(__file__).parent / "records" / "why"
CHECKPOINTS = {
    "plain": Run("final", "destructive", "plain", 1.0, 0, 0),
    "plain, rate / 8": Run("final", "destructive", "plain", 8.0, 0, 0),
    "interpolate": Run("final", "destructive", "interpolate", 0.25, 0, 0),
    "l2": Run("final", "destructive", "l2", 0.6, 0, 0),
}
DESTROYED = "plain"  # where parts are put back
OLD = ("antonym", "verb-gerund", "country-capital")
COMPARISON = CheckpointConfig(n_clean=30, n_corrupted=10, n_test=24, general=False)
REVERTS = RevertConfig(n_bands=3, n_test=20, learned_shots=2)
PATCHED = 8  # prompts of each task whose activations are exchanged
MEASURES = {
    "accuracy": "old tasks", "kl_text": "KL on a text", "kl_new": "KL on the last new task",
    "cosine": "cosine of vectors", "norm_ratio": "their norm ratio", "recovered": "bare + base's vector",
}  # fmt: skip
logger = logging.getLogger("ivlens")


def comparison(folder: Path, work: Path, config: StudyConfig) -> CheckpointComparison:
    """All checkpoints beside the base, on old tasks."""

    def compute() -> CheckpointComparison:
        tuned = {name: _checkpoint(name, work, config) for name in CHECKPOINTS}
        return compare_checkpoints(
            config.source, tuned, OLD, COMPARISON, out=work / "compared", learned=[_learned(config)[-1]] * len(tuned)
        )

    return load_or_compute(folder / "comparison.safetensors", CheckpointComparison, _key(config), compute)


def reverts(folder: Path, work: Path, config: StudyConfig) -> WeightReverts:
    """Weights of the base put back into the destroyed checkpoint, a third of the layers at a time."""

    def compute() -> WeightReverts:
        tuned = _checkpoint(DESTROYED, work, config)
        return revert_weights(config.source, tuned, OLD, _learned(config), REVERTS, out=work / "reverts")

    return load_or_compute(folder / "reverts.safetensors", WeightReverts, _key(config), compute)


def patching(folder: Path, work: Path, config: StudyConfig) -> CheckpointPatching:
    """Activations of the base put into the destroyed checkpoint, and the other way round."""

    def compute() -> CheckpointPatching:
        lost = [prompt for name in OLD for prompt in load_task(name).prompts(PATCHED, shots=2, split="test")]
        learned = load_task(_learned(config)[-1]).prompts(PATCHED, shots=2, split="test")
        tuned = _checkpoint(DESTROYED, work, config)
        return patch_checkpoints(config.source, tuned, lost, learned=learned, out=work / "patching")

    return load_or_compute(folder / "patching.safetensors", CheckpointPatching, _key(config), compute)


def _learned(config: StudyConfig) -> tuple[str, ...]:
    return config.final.orders[CHECKPOINTS[DESTROYED].order]


def _key(config: StudyConfig) -> dict[str, Any]:
    """All that the measures depend on."""
    return {"checkpoints": {name: key_of(run, config) for name, run in CHECKPOINTS.items()}, "old": OLD,
            "comparison": COMPARISON.settings(), "reverts": vars(REVERTS), "patched": PATCHED}  # fmt: skip


def _checkpoint(name: str, work: Path, config: StudyConfig) -> Path:
    """The folder of a run's model, which is trained where it is not there yet."""
    run = CHECKPOINTS[name]
    folder = work / f"{safe_name(name)}-{key_of(run, config)}"
    if not folder.exists():
        logger.info("training %s", name)
        model = only_hooked(load_model(config.source), "training")
        new, _ = config.tasks(run)
        continual(model, new, ContinualConfig(config.training(run), n_test=1, vectors=False, measure_after="last"))
        export_hf(model, folder)
    return folder


def comparison_table(found: CheckpointComparison) -> pd.DataFrame:
    """One row per checkpoint: means over the old tasks."""
    means = found.to_frame().groupby("checkpoint", sort=False)[list(MEASURES)].mean()
    shown = means.rename(columns=MEASURES).round(2)
    changes = found.spectrum_frame().groupby("checkpoint")["change"].mean()
    return shown.assign(**{"change of the weights": changes}).round(4).rename_axis("checkpoint").reset_index()


def reverts_table(found: WeightReverts) -> pd.DataFrame:
    """One row per part that is put back into the destroyed checkpoint: accuracies on old and learned tasks."""
    frame = found.to_frame().query("what in ('straight', 'layers', 'rest')")
    index = ["what", "part", "layers", "fraction"]
    both = frame.pivot_table("accuracy", index, "role", sort=False).reset_index()
    return both


def patching_table(found: CheckpointPatching) -> pd.DataFrame:
    """The strongest of each part: what the base's activation restores in the destroyed checkpoint."""
    return found.beside_controls(1)


def main() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ivlens").setLevel(logging.INFO)
    for measure in (comparison, reverts, patching):
        measure(RECORDS, cache_folder() / "continual", StudyConfig())


if __name__ == "__main__":
    main()
