"""The repair study's picture and tables: checkpoints before and after, on tasks that nothing was chosen on."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from ivlens import Repair, views
from ivlens.models import cache_folder

from ..pages import load_or_measure, with_error, write_tables
from .measure import Checkpoint, RepairStudyConfig, load_repairs, measured

LOST = 0.5  # of the old abilities, from which a checkpoint counts as destroyed
KEPT, LEARNED = 0.95, 0.98  # the goal: of the base's accuracy on old tasks, of the checkpoint's own on new ones
CONTROLS = ("random bands", "random change")
FIRST = ("smollm2", "plain")  # model and method of the first picture, which the front page shows
SETTLED_ON = ("smollm2", 2e-4, 0)  # model, rate and seed of the checkpoints that were looked at while the rule was made


def write(
    folder: Path, *, fresh: bool = False, config: RepairStudyConfig | None = None, kind: str = "png"
) -> list[Path]:
    """Draw the picture and tables into ``folder`` from the records in its ``records``; return the files.

    Records that are missing are measured first; with ``fresh`` all are.

    Raises:
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    config = config or RepairStudyConfig()
    repairs = load_or_measure(
        folder / "records", lambda records: load_repairs(records, config),
        lambda records: measured(records, cache_folder() / "repair", config), fresh,
    )  # fmt: skip
    rows = rows_of(repairs)
    shown = (rows[["source", "method"]] == FIRST).all(axis=1)
    images = [
        views.save_figure(_picture(group), folder / f"{name}.{kind}")
        for name, group in (("repair", rows[shown]), ("repair-others", rows[~shown])) if len(group)
    ]  # fmt: skip
    tables = methods_table(rows), goal_table(rows), controls_table(repairs), checkpoints_table(rows)
    return [*images, write_tables(folder / "tables.md", *tables)]


def _picture(rows: pd.DataFrame) -> go.Figure:
    facts = "a line from each checkpoint to its repaired one; old tasks that nothing was chosen on"
    return views.tradeoff_scatter(points_of(rows), title="Checkpoints before and after repair", facts=facts)


def rows_of(repairs: Mapping[Checkpoint, Repair]) -> pd.DataFrame:
    """One row per checkpoint: accuracies of base, tuned and repaired model, and what was chosen."""
    rows = []
    for checkpoint, repair in repairs.items():
        accuracy = repair.gains().set_index(["role", "model"])["accuracy"]
        base, before, after = (accuracy["other", model] for model in ("base", "tuned", "repaired"))
        learned, still = accuracy["learned", "tuned"], accuracy["learned", "repaired"]
        rows.append({
            **checkpoint._asdict(), "base": base, "kept before": before, "kept after": after,
            "learned before": learned, "learned after": still, "of base before": before / base,
            "of base after": after / base, "of learned": still / learned, "chosen": repair.step or "nothing",
            "undone": repair.undone,
        })  # fmt: skip
    return pd.DataFrame(rows)


def points_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Two points per checkpoint, before and after, for the picture."""
    parts, run = [], rows["sequence"] + ", seed " + rows["seed"].astype(str)
    for name, when in (("", "before"), (", repaired", "after")):
        parts.append(pd.DataFrame({
            "method": rows["method"] + name, "setting": run, "joined": run,
            "learned": rows[f"learned {when}"], "kept": rows[f"kept {when}"], "base_kept": rows["base"],
            "panel": rows["source"] + ", " + rows["method"] + ", rate " + rows["rate"].map("{:g}".format),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def methods_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model, method and rate: means over sequences and seeds, with standard errors over checkpoints."""
    table = []
    for (source, method, rate), group in rows.groupby(["source", "method", "rate"], sort=False):
        columns = ("kept before", "kept after", "of base before", "of base after", "learned before", "learned after",
                   "of learned")  # fmt: skip
        table.append({
            "model": source, "method": method, "rate": f"{rate:g}", "base": round(group["base"].mean(), 2),
            **{name: with_error(group[name].to_list()) for name in columns},
            "undone": f"{group['undone'].mean():.0%}", "checkpoints": len(group),
        })  # fmt: skip
    return pd.DataFrame(table)


def goal_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The plain checkpoints that lost half of the old abilities or more: do they get back to the goal?"""
    lost = rows[(rows["method"] == "plain") & (rows["of base before"] <= LOST)]
    source, rate, seed = SETTLED_ON
    own = lost[lost["source"] == source]
    groups = {str(name): group for name, group in lost.groupby("source", sort=False)}
    groups[f"{source}, without those that the rule was made on"] = own[(own["rate"] != rate) | (own["seed"] != seed)]
    table = []
    for name, group in groups.items():
        reached = (group["of base after"] >= KEPT) & (group["of learned"] >= LEARNED)
        columns = ("of base before", "of base after", "of learned")
        table.append({
            "lost half or more": name, "checkpoints": len(group),
            **{each: with_error(group[each].to_list()) for each in columns},
            "each reached 95% at 98%": int(reached.sum()),
        })  # fmt: skip
    return pd.DataFrame(table)


def controls_table(repairs: Mapping[Checkpoint, Repair]) -> pd.DataFrame:
    """Old and new tasks, relative to the base and to the tuned model: repaired, and as far from tuned at random."""
    frames = [
        repair.gains().assign(source=each.source, method=each.method, rate=each.rate, checkpoint=each.name)
        for each, repair in repairs.items() if repair.found
    ]  # fmt: skip
    gains = pd.concat(frames, ignore_index=True)
    gains["model"] = gains["model"].str.replace(r" \d+$", "", regex=True)
    rows = []
    for (source, method, rate), group in gains.groupby(["source", "method", "rate"], sort=False):
        for model in ("tuned", "repaired", *CONTROLS):
            own = group[group["model"] == model]
            old, new = (own[own["role"] == role] for role in ("other", "learned"))
            rows.append({
                "model": source, "method": method, "rate": f"{rate:g}", "weights": model,
                "old tasks, of base": f"{old['of_base'].mean():.2f}",
                "new tasks, of tuned": f"{new['of_tuned'].mean():.2f}", "checkpoints": own["checkpoint"].nunique(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def checkpoints_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per checkpoint."""
    table = rows.drop(columns=["of base before"]).round({name: 2 for name in rows.columns if name != "rate"})
    return table.assign(rate=rows["rate"].map("{:g}".format))
