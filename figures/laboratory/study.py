"""The vector laboratory on both packaged models: tables and pictures from saved records."""

from functools import partial
from pathlib import Path

import pandas as pd

from ivlens import LabConfig, Laboratory, laboratory, load_model, prompts_needed, views
from ivlens.records.laboratory import REMOVED

from ..pages import load_or_measure, write_tables

MODELS = ("smollm2", "gemma3-270m")
TASKS = ("present-past", "singular-plural", "capitalize", "country-capital", "antonym", "english-french")


def write(
    folder: Path,
    *,
    fresh: bool = False,
    models: tuple[str, ...] = MODELS,
    tasks: tuple[str, ...] = TASKS,
    config: LabConfig | None = None,
    kind: str = "png",
) -> list[Path]:
    """Draw the pictures and tables into ``folder`` from the records in its ``records``; return the files.

    Records that are missing are measured first; with ``fresh`` all are.

    Raises:
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    written = []
    for name in models:
        load, measure = partial(Laboratory.load, tasks=tasks), partial(_measured, name, tasks, config)
        lab = load_or_measure(folder / "records" / name, load, measure, fresh)
        figures = {
            "sweep": views.sweep_heatmap(lab.sweeps[tasks[0]], title=f"{name}: where the vector works"),
            "controls": views.comparison_bars([*lab.controls.values()], title=f"{name}: the vector and its controls"),
            "transfer": views.transfer_heatmaps(lab.transfer, title=f"{name}: what tasks share"),
            "stability": views.stability_curve(
                prompts_needed(lab.effects[tasks[0]], 10), title=f"{name}: prompts needed for the top 10"
            ),
        }
        written += [views.save_figure(each, folder / f"{name}-{what}.{kind}") for what, each in figures.items()]
        written.append(write_tables(folder / f"{name}-tables.md", controls_table(lab), necessity_table(lab)))
    return written


def controls_table(lab: Laboratory) -> pd.DataFrame:
    """The vector beside its controls, accuracies as texts."""
    return _two_decimals(lab.controls_frame(), ["task", "layer", "scale", "k", "n"])


def necessity_table(lab: Laboratory) -> pd.DataFrame:
    """Clean prompts without heads or vector, accuracies as texts: "own / mean over the other tasks'"."""
    frame = _two_decimals(lab.necessity_frame(), ["task", "n"])
    for name in REMOVED:
        frame[name] = frame[f"{name}, own"] + " / " + frame[f"{name}, others"]
    return frame[["task", "clean", *REMOVED, "random heads zeroed", "n"]]


def _two_decimals(frame: pd.DataFrame, but: list[str]) -> pd.DataFrame:
    return frame.assign(**{name: frame[name].map("{:.2f}".format) for name in frame if name not in but})


def _measured(name: str, tasks: tuple[str, ...], config: LabConfig | None, folder: Path) -> Laboratory:
    return laboratory(load_model(name), tasks, config, out=folder)
