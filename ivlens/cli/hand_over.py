"""What ``ivlens train``, ``compare`` and ``repair`` say at their end: what changed, and the command to run next."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..records import CheckpointComparison, TrainingRun
from .asked_alike import CHAT, LOADING, changed, of_cloze, of_files, of_instruction, of_template
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
    return shlex.join([*words, *_alike(options, "compare", *LOADING, *CHAT, "k")])


def after_comparison(comparison: CheckpointComparison) -> list[str]:
    """The answer's next steps as on the page, a line each: the command, or else the advice."""
    from ..views.checkpoints.answer import next_steps

    steps = next_steps(comparison)
    lines = [
        f"  {step.verdict}: {step.tasks}.{step.prompts if step.command else ''} {step.command or step.advice}"
        for step in steps
    ]
    return ["What to do next:", *lines] if lines else []


def after_repair(options: argparse.Namespace, exported: Path | None, learned: Sequence[str]) -> list[str]:
    """How the repaired model is loaded and compared, or where none was found, how to train again.

    Args:
        options: of ``ivlens repair``.
        exported: the folder of the repaired model or adapter, None where none was written.
        learned: names of the learned tasks.
    """
    asked = (*LOADING, *CHAT, "shots")
    if exported is None:
        words = ["ivlens", "train", options.base, "--task", options.learned[-1], "--keep", *options.keep]
        again = shlex.join([*words, "--out", f"{options.out}-trained", *_alike(options, "train", *asked)])
        return [f"Or train again from the base, with guidance that keeps the old tasks: {again}"]
    adapter = f"{options.base!r}, adapter=" if exported.name == "adapter" else ""
    words = ["ivlens", "compare", options.base, str(exported), "--tasks", *options.keep, *options.learned]
    words += ["--learned", learned[-1], "--out", f"{options.out}-compared"]
    compare = shlex.join([*words, *_alike(options, "compare", *asked), *of_cloze(options)])
    return [f"Load it: ivlens.load_model({adapter}{str(exported)!r})", f"Compare it with the base: {compare}"]


def _alike(options: argparse.Namespace, verb: str, *names: str) -> list[str]:
    """The options of these names, and how prompts and files are read, as words for another verb."""
    return [
        *changed(options, names, VERBS[verb].by_name()),
        *of_files(options),
        *of_instruction(options),
        *of_template(options),
    ]
