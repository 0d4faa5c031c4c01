"""What ``ivlens train`` says around a run: its size before, what changed, and the comparison that fits it."""

import argparse
import logging
import shlex
import shutil
from pathlib import Path

import pandas as pd

from ..models import HookedTransformer
from ..records import TrainingRun
from ..training import TrainingConfig
from .asked_alike import CHAT, LOADING, changed, of_files, of_template
from .verbs import VERBS

LARGE = 1e9  # bytes, from which a size is said
NOT_SHOWN = ["step", "correct", "probability_stderr", "token_probability"]
log = logging.getLogger("ivlens")


def say_size(model: HookedTransformer, config: TrainingConfig, folder: Path) -> None:
    """Say what a run takes of memory and disk where that is large, and warn where the disk has less."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if config.lora is not None or weights * 4 < LARGE:
        return
    states = 2 * 3 * weights  # weights and both moments of the optimiser; the state before is kept while training
    memory, disk = 4 * weights, states + weights
    log.info(
        f"training all weights takes up to {_gigabytes(memory)} of memory for weights, gradients and optimiser, and up "
        f"to {_gigabytes(disk)} in {folder}, {_gigabytes(disk - states / 2)} of it when the run is done"
    )
    free = shutil.disk_usage(folder).free
    if free < disk:
        log.warning(f"{folder} has {_gigabytes(free)} free; --lora or --layers write less")


def before_and_after(run: TrainingRun) -> pd.DataFrame:
    """One row per ability as last measured, its accuracy before the first step beside that after the last."""
    after, measured = run.final(), run.abilities()
    shown = after.drop(columns=NOT_SHOWN, errors="ignore")
    if "accuracy" in shown and (measured["step"] == 0).any() and run.steps:
        before = measured[measured["step"] == 0].set_index("ability")["accuracy"]
        shown.insert([*shown].index("accuracy"), "accuracy_before", shown["ability"].map(before))
    return shown


def compare_command(options: argparse.Namespace, learned: str) -> str:
    """The ``ivlens compare`` that measures a run of ``ivlens train`` on the tasks that it names, asked alike.

    Empty for a base of a revision or an adapter, which ``ivlens compare`` takes no name for.
    """
    if options.revision or options.adapter:
        return ""
    words = ["ivlens", "compare", options.model, str(options.out), "--tasks", options.task, *options.keep]
    words += ["--learned", learned, "--out", f"{options.out}-compared"]
    generated = {name: each for group in VERBS["compare"].generated().values() for name, each in group.items()}
    words += changed(options, (*LOADING, *CHAT, "k"), generated)
    return shlex.join([*words, *of_files(options), *of_template(options)])


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
