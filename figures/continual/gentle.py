"""What the default learns and keeps at a gentle learning rate over more steps, beside other ways to set its pull.

    python -m figures.continual.gentle

One of the tasks to choose on is learned, beside the old ones of the trials; every finished run is kept.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ivlens import Guidance, LoRA, TrainingConfig, TrainingRun, fine_tune, load_model, load_task
from ivlens.files import short_hash
from ivlens.models import has_lora, merge_lora, only_hooked
from ivlens.records import write_text
from ivlens.training import Ability, L2ToBase
from ivlens.training.config import DEFAULT_PRESET

from ..base_weights import BaseWeights
from ..pages import read_json
from .config import StudyConfig
from .paired import mean

RECORD = Path("records") / "gentle.json"
COMMAND = "python -m figures.continual.gentle"
SHARE = 0.3  # the best pull where one is taken for all regimes
TRAINED = {  # a sixteenth of the destructive regime's rate, a tenth of the long one's
    "all weights": TrainingConfig(Guidance(), steps=160, learning_rate=1.25e-5, warmup=16, evaluate_every=160),
    "LoRA": TrainingConfig(Guidance(), steps=160, learning_rate=2e-4, warmup=16, evaluate_every=160, lora=LoRA()),
}
logger = logging.getLogger("ivlens")


class Setting(NamedTuple):
    """What is trained, and by which guidance."""

    trained: str
    guidance: str

    @property
    def name(self) -> str:
        """Its name in the record."""
        return f"{self.trained}, {self.guidance}"

    @property
    def training(self) -> TrainingConfig:
        """How it is trained."""
        training = TRAINED[self.trained]
        return replace(training, guidance=guidances(training.learning_rate)[self.guidance])


def guidances(rate: float) -> dict[str, Guidance]:
    """The default; with LoRA the weight of full training, too; and the same share of the change at any rate."""
    weight = Guidance.preset().terms[0].weights["l2"]
    return {
        "plain": Guidance(),
        DEFAULT_PRESET: Guidance.preset(),
        f"{DEFAULT_PRESET}, lora=1": Guidance((L2ToBase(weight, lora=1.0),)),
        f"a pull of {SHARE:g}": Guidance((L2ToBase(SHARE / rate, lora=1.0),)),
    }


def settings() -> Iterator[Setting]:
    """All that are measured; ``lora=1`` is the default where all weights are trained."""
    for trained, training in TRAINED.items():
        for guidance in guidances(training.learning_rate):
            if training.lora is not None or "lora" not in guidance:
                yield Setting(trained, guidance)


def measure(path: Path, wanted: Iterable[Setting], config: StudyConfig) -> None:
    """Measure the settings that the file lacks, and keep each in it when it is finished."""
    found, keys = read_json(path, COMMAND) if path.exists() else {}, keys_of(config)
    model = only_hooked(load_model(config.source), "training")
    base = BaseWeights.of(model)
    task = load_task(config.trial.orders[0][0])
    prompts = task.prompts(shots=0, split="train")
    old = [Ability.of(load_task(name)) for name in config.trial.old]
    for each in wanted:
        if found.get(each.name, {}).get("key") != keys[each]:
            logger.info(each.name)
            run = fine_tune(model, prompts, each.training, new=[Ability.of(task, shots=0)], keep=old)
            if has_lora(model):
                merge_lora(model)
            base.put_back()
            found[each.name] = {"key": keys[each], **_ends(run)}
            write_text(path, json.dumps(found, indent=1) + "\n")


def _ends(run: TrainingRun) -> dict[str, float]:
    """The supervised loss, mean over the last quarter of the steps, and accuracies before and after."""
    steps, rows = run.to_frame(), run.abilities()
    accuracies = {
        f"{role}, {when}": mean(rows[(rows["step"] == step) & (rows["role"] == role)]["accuracy"])
        for role in ("new", "keep") for when, step in (("before", 0), ("after", run.steps))
    }  # fmt: skip
    return {"loss": float(steps["supervised"].tail(len(steps) // 4).mean()), **accuracies}


def keys_of(config: StudyConfig) -> dict[Setting, str]:
    """Of each setting a hash of all that its run depends on, but the code and the machine."""
    digests = [load_task(name).digest for name in (config.trial.orders[0][0], *config.trial.old)]
    return {each: short_hash([config.source, each.training.facts, *digests]) for each in settings()}


def read_gentle(folder: Path, config: StudyConfig) -> dict[str, Any]:
    """The runs of the record within the study's folder, those of other settings left out; none without a record."""
    if not (folder / RECORD).exists():
        return {}
    found = read_json(folder / RECORD, COMMAND)
    keys = {each.name: key for each, key in keys_of(config).items()}
    return {name: run for name, run in found.items() if run.get("key") == keys.get(name, "")}


def gentle_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """One row per setting: the loss at the end, and the accuracy on the new and the old tasks."""
    rows = [
        {"trained": each.trained, "guidance": each.guidance, **record[each.name]}
        for each in settings() if each.name in record
    ]  # fmt: skip
    return pd.DataFrame(rows).drop(columns="key", errors="ignore").round(3)


def main() -> None:
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    measure(Path(__file__).parent / RECORD, settings(), StudyConfig())


if __name__ == "__main__":
    main()
