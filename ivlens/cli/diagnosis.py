"""What ``ivlens repair`` says beside the repair: where the loss is carried and was made, and is it still there."""

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from ..checkpoints import (
    CheckpointConfig,
    RepairConfig,
    RevertConfig,
    compare_checkpoints,
    patch_checkpoints,
    revert_weights,
)
from ..errors import ArgumentError, PromptError, SourceError, UnsupportedError
from ..models import open_tokenizer
from ..models.shapes import model_shape
from ..records import CheckpointComparison, CheckpointPatching, Record, Repair, WeightReverts
from ..tasks import Prompt, Task
from .loading import given

MEASURES = "measures"  # the folder of finished ones
DIAGNOSES = ("patching", "reverts", "comparison")  # records
FORGOTTEN, CARRIED, MADE, STILL, REMEDY, COST = (
    "What was forgotten?", "Where? What carries it", "Where? What returns it when put back", "Is it still there?",
    "What to do now?", "What does that cost?",
)  # fmt: skip
MOST = 5  # rows of weights put back
PATCHED = ["part", "layer", "head", "restored", "restored_nats", "broken", "learned_nats"]
log = logging.getLogger("ivlens")


def diagnose(
    options: argparse.Namespace, config: RepairConfig, keep: Sequence[Task], learned: Sequence[Task]
) -> list[Record]:
    """Activations exchanged, weights put back, and the checkpoint compared on the tasks to keep; each record is saved.

    Of several learned tasks the comparison takes the last one's vector, which is freshest. What cannot be measured is
    named and left out.
    """
    loading = given(options, "load_model")
    base, tuned, more = options.base, options.tuned, {"out": options.out / MEASURES, **loading}
    tokenizer = open_tokenizer(loading["tokenizer"] or base)
    old, new = (_prompts(config, tasks, tokenizer, tasks is learned) for tasks in (keep, learned))
    drawn: dict[str, Any] = {
        "n_test": config.n_test,
        "shots": config.shots,
        "seed": config.seed,
        "format": config.format,
    }
    reverting = RevertConfig(batch_size=config.batch_size, learned_shots=config.learned_shots, **drawn)
    shape = model_shape(base)
    k = CheckpointConfig.k if shape is None else min(CheckpointConfig.k, shape[0] * shape[1])
    comparing = CheckpointConfig(k=k, n_validation=config.n_validation, general=False, **drawn)
    measures: list[Callable[[], Record]] = [
        lambda: patch_checkpoints(base, tuned, old, learned=new, **more),
        lambda: revert_weights(base, tuned, keep, learned, reverting, **more),
        lambda: compare_checkpoints(
            base, {"tuned": tuned}, [*keep, learned[-1]], comparing, learned=[learned[-1].name], **more
        ),
    ]
    found = []
    for name, question, measure in zip(DIAGNOSES, (CARRIED, MADE, STILL), measures, strict=True):
        log.info(question)
        try:
            record = measure()
        except (ArgumentError, PromptError, SourceError, UnsupportedError) as error:
            log.warning(f"{name} is left out: {error}")
        else:
            record.save(options.out / f"{name}.safetensors", overwrite=True)
            found.append(record)
    return found


def _prompts(config: RepairConfig, tasks: Sequence[Task], tokenizer: object, learned: bool) -> list[Prompt]:
    return [prompt for task in tasks for prompt in config.prompts(task, "test", tokenizer, learned=learned)]


def answers(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """What is printed, under the questions of the report and in their order."""
    found: dict[str, pd.DataFrame] = {}
    for record in records:
        found |= _answers_of(record)
    return {name: found[name] for name in (FORGOTTEN, CARRIED, MADE, STILL, REMEDY, COST) if name in found}


def _answers_of(record: Record) -> dict[str, pd.DataFrame]:
    from ..views.checkpoints.repair import cost_frame, forgotten_frame

    match record:
        case Repair():
            chosen = record.trials_frame().query("chosen").drop(columns=["allowed", "chosen"])
            chosen.insert(0, "split", "validation")  # beside test prompts in the other tables
            return {FORGOTTEN: forgotten_frame(record), REMEDY: chosen, COST: cost_frame(record)}
        case CheckpointPatching():
            table = record.beside_controls(1)[PATCHED]
            return {CARRIED: table.assign(head=table["head"].map(str, na_action="ignore").astype(object).fillna(""))}
        case WeightReverts():
            return {MADE: _made(record)}
        case CheckpointComparison():
            frame = record.to_frame()
            old = (frame["checkpoint"] != record.checkpoints[0]) & ~frame["task"].isin(record.learned)
            return {STILL: frame.loc[old, ["task", "recovered", "subtracted", "spillover", "verdict"]]}
    return {}


def _made(reverts: WeightReverts) -> pd.DataFrame:
    """The layers whose weights return most of the old tasks, beside what that costs on learned ones."""
    frame = reverts.to_frame()
    of_layers = frame[frame["what"].isin(["layers", "rest"])]
    old, new = (of_layers[of_layers["role"] == role].reset_index(drop=True) for role in ("old", "learned"))
    table = old[["part", "layers", "nats", "accuracy"]]
    table = table.assign(learned_nats=new["nats"], learned_accuracy=new["accuracy"])
    return table.nlargest(MOST, "nats")
