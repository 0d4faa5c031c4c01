"""What ``ivlens train`` says after a run: what changed, and the comparison that fits it."""

import argparse
import shlex

import pandas as pd

from ..records import TrainingRun
from .asked_alike import CHAT, LOADING, changed, of_files, of_instruction, of_template
from .verbs import VERBS

NOT_SHOWN = ["step", "correct", "probability_stderr", "token_probability"]


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
    return shlex.join([*words, *of_files(options), *of_instruction(options), *of_template(options)])
