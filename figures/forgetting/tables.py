"""The forgetting study as tables: what each method learned and kept, and what went with keeping."""

import pandas as pd

from ivlens.records import standard_error

from .config import StudyConfig
from .runs import Study

WITH = ("knowledge", "recovered", "cosine", "norm_ratio", "alignment", "distance")


def rows_of(study: Study, config: StudyConfig | None = None) -> pd.DataFrame:
    """One row per method, seed and stage: learned (the newest task), kept (mean of the old), what went with it."""
    config = config or StudyConfig()
    before = _old(study.base.abilities(), config)
    rows = []
    for (method, seed, stage), run in study.runs.items():
        frame = run.abilities().set_index("ability")
        old = _old(run.abilities(), config)
        rows.append({
            "method": method, "rate": study.chosen[method].rate, "factor": study.chosen[method].factor,
            "seed": seed, "stage": stage, "stopped": bool(run.stopped),
            "learned": frame.loc[config.new[stage], "accuracy"],
            "all new": frame.loc[frame["role"] == "new", "accuracy"].mean(),
            "kept": old["accuracy"].mean(), "retained": old["accuracy"].mean() / before["accuracy"].mean(),
            **{name: old[name].mean() if name in old else float("nan") for name in WITH},
        })  # fmt: skip
    return pd.DataFrame(rows)


def methods_table(study: Study, config: StudyConfig | None = None, stage: int | None = None) -> pd.DataFrame:
    """One row per method after a stage (the last one): means over seeds, those learned and kept with standard errors.

    "learned" is the mean accuracy on each new task right after it was learned.
    """
    config = config or StudyConfig()
    rows = rows_of(study, config)
    stage = len(config.new) - 1 if stage is None else stage
    last = rows[rows["stage"] == stage]
    learned = rows[rows["stage"] <= stage].groupby(["method", "seed"], sort=False)["learned"].mean().reset_index()
    plain = learned[learned["method"] == "plain"]["learned"].mean()
    rows_by_method = []
    for method, runs in last.groupby("method", sort=False):
        new = learned[learned["method"] == method]["learned"]
        rows_by_method.append({
            "method": method, "rate": runs["rate"].iloc[0], "factor": runs["factor"].iloc[0],
            "learned": new.mean(), "learned_error": standard_error(new.to_list()), "of plain": new.mean() / plain,
            "kept": runs["kept"].mean(), "kept_error": standard_error(runs["kept"].to_list()),
            "retained": runs["retained"].mean(), **{name: runs[name].mean() for name in ("all new", *WITH)},
            "seeds": len(runs), "stopped": int(runs["stopped"].sum()),
        })  # fmt: skip
    return pd.DataFrame(rows_by_method)


def trials_table(study: Study, config: StudyConfig | None = None) -> pd.DataFrame:
    """One row per method and setting that was tried, on the tasks that settings are chosen on."""
    config = config or StudyConfig()
    rows = []
    for (method, setting), run in study.trials.items():
        frame = run.abilities().set_index("ability")
        rows.append({
            "method": method, "rate": setting.rate, "factor": setting.factor,
            "learned": frame.loc[config.trial_new, "accuracy"],
            "kept": frame.loc[list(config.trial_old), "accuracy"].mean(), "chosen": study.chosen[method] == setting,
            "stopped": bool(run.stopped),
        })  # fmt: skip
    return pd.DataFrame(rows)


def correlations(study: Study, config: StudyConfig | None = None) -> pd.DataFrame:
    """Spearman's rank correlation, over the runs' last stages, of what is kept with what might explain it.

    Once more without "replay", which trains on examples of the old tasks themselves.
    """
    config = config or StudyConfig()
    rows = rows_of(study, config)
    last = rows[rows["stage"] == len(config.new) - 1]
    table = pd.DataFrame({"measure": WITH})
    for title, runs in (("with kept", last), ("without replay", last[last["method"] != "replay"])):
        pairs = [runs[["kept", name]].dropna().rank() for name in WITH]
        table[title] = [round(each["kept"].corr(each[name]), 2) + 0.0 for name, each in zip(WITH, pairs, strict=True)]
    return table.assign(runs=len(last))


def trade_off(study: Study, config: StudyConfig | None = None) -> pd.DataFrame:
    """Points of retention against plasticity: settings tried, then the report after the first and the last task."""
    config = config or StudyConfig()
    base = study.base.abilities().set_index("ability")["accuracy"]
    panels = [trials_table(study, config).assign(panel="settings tried", base_kept=base[list(config.trial_old)].mean())]
    for stage, name in ((0, "after one new task"), (len(config.new) - 1, f"after {len(config.new)} new tasks")):
        panels.append(
            methods_table(study, config, stage).assign(panel=name, chosen=True, base_kept=base[list(config.old)].mean())
        )
    points = pd.concat(panels, ignore_index=True)
    return points.assign(setting=[f"learning rate {rate:g}, factor {factor:g}" for rate, factor in
                                  points[["rate", "factor"]].to_numpy(float)])  # fmt: skip


def methods_text(study: Study, config: StudyConfig | None = None, stage: int | None = None) -> pd.DataFrame:
    """``methods_table`` as texts, as the page shows it."""
    table = methods_table(study, config, stage)
    texts = {"method": table["method"]} | {name: table[name].map("{:g}".format) for name in ("rate", "factor")}
    for name, relative in (("learned", "of plain"), ("kept", "retained")):
        pairs = zip(table[name], table[f"{name}_error"], strict=True)
        texts[name] = pd.Series([f"{value:.2f} ± {error:.2f}" for value, error in pairs])
        texts[relative] = table[relative].map("{:.0%}".format)
    for name in ("all new", *WITH):
        if table[name].notna().any():
            form = "{:.4f}" if name == "distance" else "{:.2f}"
            texts[name.replace("_", " ")] = table[name].map(form.format)
    stopped = table["method"].where(table["stopped"] == 0, table["method"] + " (stopped early)")
    return pd.DataFrame(texts | {"method": stopped})


def _old(frame: pd.DataFrame, config: StudyConfig) -> pd.DataFrame:
    return frame[frame["ability"].isin(config.old)]
