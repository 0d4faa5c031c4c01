"""The forgetting study as tables: what each method learned and kept, and what went with keeping."""

import pandas as pd

from ...records import standard_error
from .config import StudyConfig
from .study import Study

WITH = ("knowledge", "recovered", "cosine", "norm_ratio", "alignment", "distance")


def rows_of(study: Study, config: StudyConfig | None = None) -> pd.DataFrame:
    """A row for each method, seed and stage: learned (the newest task), kept (mean of the old), what went with it."""
    config = config or StudyConfig()
    before = _old(study.base.abilities(), config)
    rows = []
    for (method, seed, stage), run in study.runs.items():
        frame = run.abilities().set_index("ability")
        old = _old(run.abilities(), config)
        rows.append({
            "method": method, "strength": study.chosen[method], "seed": seed, "stage": stage,
            "learned": frame.loc[config.new[stage], "accuracy"],
            "all new": frame.loc[list(config.new[: stage + 1]), "accuracy"].mean(),
            "kept": old["accuracy"].mean(), "retained": old["accuracy"].mean() / before["accuracy"].mean(),
            **{name: old[name].mean() if name in old else float("nan") for name in WITH},
        })  # fmt: skip
    return pd.DataFrame(rows)


def methods_table(study: Study, config: StudyConfig | None = None, stage: int | None = None) -> pd.DataFrame:
    """A row a method after a stage (the last one): means over seeds, those learned and kept with standard errors.

    "learned" is the mean accuracy on each new task right after it was learned.
    """
    config = config or StudyConfig()
    rows = rows_of(study, config)
    stage = len(config.new) - 1 if stage is None else stage
    last = rows[rows["stage"] == stage]
    learned = rows[rows["stage"] <= stage].groupby(["method", "seed"], sort=False)["learned"].mean().reset_index()
    plain = learned[learned["method"] == "plain"]["learned"].mean()
    found = []
    for method, runs in last.groupby("method", sort=False):
        new = learned[learned["method"] == method]["learned"]
        found.append({
            "method": method, "strength": runs["strength"].iloc[0],
            "learned": new.mean(), "learned_error": standard_error(new.to_list()), "of plain": new.mean() / plain,
            "kept": runs["kept"].mean(), "kept_error": standard_error(runs["kept"].to_list()),
            "retained": runs["retained"].mean(), **{name: runs[name].mean() for name in ("all new", *WITH)},
            "seeds": len(runs),
        })  # fmt: skip
    return pd.DataFrame(found)


def trials_table(study: Study, config: StudyConfig | None = None) -> pd.DataFrame:
    """A row for each method and strength that was tried, on the tasks that strengths are chosen on."""
    config = config or StudyConfig()
    rows = []
    for (method, strength), run in study.trials.items():
        frame = run.abilities().set_index("ability")
        rows.append({
            "method": method, "strength": strength, "learned": frame.loc[config.trial_new, "accuracy"],
            "kept": frame.loc[list(config.trial_old), "accuracy"].mean(), "chosen": study.chosen[method] == strength,
        })  # fmt: skip
    return pd.DataFrame(rows)


def correlations(study: Study, config: StudyConfig | None = None) -> pd.DataFrame:
    """Spearman's rank correlation, over all runs of all methods, of what is kept with what might explain it."""
    rows = rows_of(study, config)
    return pd.DataFrame({
        "measure": WITH,
        "with kept": [rows["kept"].rank().corr(rows[name].rank()) for name in WITH],
        "runs": len(rows),
    })  # fmt: skip


def trade_off(study: Study, config: StudyConfig | None = None) -> pd.DataFrame:
    """Points of retention against plasticity: strengths tried, then the report after the first and the last task."""
    config = config or StudyConfig()
    base = study.base.abilities().set_index("ability")["accuracy"]
    panels = [
        trials_table(study, config).assign(panel="strengths tried", base_kept=base[list(config.trial_old)].mean())
    ]
    for stage, name in ((0, "after one new task"), (len(config.new) - 1, f"after {len(config.new)} new tasks")):
        panels.append(
            methods_table(study, config, stage).assign(panel=name, chosen=True, base_kept=base[list(config.old)].mean())
        )
    return pd.concat(panels, ignore_index=True)


def shown(study: Study, config: StudyConfig | None = None, stage: int | None = None) -> pd.DataFrame:
    """``methods_table`` as texts, as the README shows it."""
    table = methods_table(study, config, stage)
    texts = {"method": table["method"], "strength": table["strength"].map("{:g}".format)}
    for name in ("learned", "kept"):
        pairs = zip(table[name], table[f"{name}_error"], strict=True)
        texts[name] = pd.Series([f"{value:.2f} ± {error:.2f}" for value, error in pairs])
    for name in ("of plain", "retained"):
        texts[name] = table[name].map("{:.0%}".format)
    for name in ("all new", *WITH):
        texts[name.replace("_", " ")] = table[name].map("{:.2f}".format if name != "distance" else "{:.4f}".format)
    columns = [
        "method",
        "strength",
        "learned",
        "of plain",
        "kept",
        "retained",
        "all new",
        *(each.replace("_", " ") for each in WITH),
    ]
    return pd.DataFrame(texts)[columns]


def _old(frame: pd.DataFrame, config: StudyConfig) -> pd.DataFrame:
    return frame[frame["ability"].isin(config.old)]
