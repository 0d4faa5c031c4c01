"""The study of guidance: what each method keeps against what it learns, in four regimes; tables and the picture."""

from collections.abc import Iterator, Mapping
from itertools import product
from math import isnan
from pathlib import Path
from typing import get_args

import pandas as pd
import torch

from ivlens import RecordError, views
from ivlens.stats import NOTHING, Interval, standard_error, t_interval

from ..pages import with_error, write_tables
from .choice import Kept, Point, areas, chosen_strength, finalists, point, ranked
from .config import ALWAYS, GEMMA, METHODS, PULLS, RATES, REGIMES, WITH_OLD_EXAMPLES, Run, StudyConfig
from .gentle import gentle_table, read_gentle
from .one_strength import best_strengths, one_strength_table, one_strength_trials_table
from .paired import FEWEST, difference, in_words, mean
from .runs import Line, read, records_file

BASELINES = ("l2", "interpolate")
SHOWN = {"after": "right after", "learned": "learned", "kept": "kept", "still_right": "still right"}  # of a point
MEASURES = ("learned", "kept", "still_right")  # whose differences from l2 are given
COMMAND = "python -m figures.continual"


def write(folder: Path, config: StudyConfig | None = None, kind: str = "png") -> list[Path]:
    """Draw the picture and the tables into ``folder`` from the runs in its ``records``; return the files.

    Raises:
        RecordError: no run of the final part is there.
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    config = config or StudyConfig()
    path = records_file(folder, config)
    lines = read(path, config)
    if not any(run.part == "final" for run in lines):
        raise RecordError(f"runs of the final part in {path}", f"{len(lines)} runs", COMMAND)
    finals = points_table(lines)
    gemma = read(records_file(folder, GEMMA), GEMMA) if config != GEMMA else {}
    best = best_strengths(lines, config)
    tables = (
        chosen_table(lines), areas_table(lines), trials_table(lines, config), _shown(finals), chosen_table(gemma),
        trials_table(gemma, GEMMA), old_tasks_table(lines), old_tasks_table(gemma), same_pull_table(lines),
        cost_table(lines), rates_table(lines), again_table(lines, read(path.with_stem(f"{path.stem}-again"), config)),
        areas_table(gemma), same_pull_table(gemma), _shown(points_table(gemma)),
        one_strength_trials_table(best), one_strength_table(lines, config, best),
        gentle_table(read_gentle(folder, config)),
    )  # fmt: skip
    filled = (table for table in tables if len(table))
    return [*_pictures(lines, finals, folder, kind), write_tables(folder / "tables.md", *filled)]


def _pictures(lines: Mapping[Run, Line], finals: pd.DataFrame, folder: Path, kind: str) -> list[Path]:
    """The means of several runs, and what methods differ in from l2 in the same orders and with the same seeds."""
    means = finals[finals["runs"] - finals["stopped"] > 1]
    if means.empty:
        return []
    scatter = views.tradeoff_scatter(
        means.assign(panel=means["regime"], setting=means["strength"].map("strength {:g}".format)),
        title="What is kept against what is learned",
        facts="five new tasks in turn, eight old ones that nothing here was chosen on; means over orders and seeds",
    )
    paths = [views.save_figure(scatter, folder / f"continual.{kind}")]
    if differences := differences_from_l2(lines):
        figure = views.difference_intervals(
            pd.DataFrame(differences), title="At the end of the sequence, minus what l2 has",
            facts="at the strengths that the trials chose; right of 0: more than l2; 95% intervals",
        )  # fmt: skip
        paths.append(views.save_figure(figure, folder / f"differences.{kind}"))
    return paths


def points_table(lines: Mapping[Run, Line]) -> pd.DataFrame:
    """One row per regime, method and strength of the final part: means over orders and seeds, standard errors."""
    groups: dict[tuple[str, str, float], list[Point | None]] = {}
    for run, each in _final_points(lines).items():
        groups.setdefault((run.regime, run.method, run.strength), []).append(each)
    rows, order = [], _in_final(lines)
    for (regime, method, strength), points in sorted(
        groups.items(), key=lambda one: (order.index(one[0][:2]), one[0][2])
    ):
        found = [each for each in points if each is not None]
        learned, kept = [each.learned for each in found], [each.kept for each in found]
        rows.append({
            "regime": regime, "method": method, "strength": strength, "learned": mean(learned),
            "learned_error": standard_error(learned), "kept": mean(kept), "kept_error": standard_error(kept),
            "base_kept": mean([each.base_kept for each in found]), "retained": mean([e.retained for e in found]),
            "still_right": mean([each.still_right for each in found]),
            "chosen": strength == chosen_strength(lines, regime, method), "runs": len(points),
            "stopped": len(points) - len(found),
        })  # fmt: skip
    return pd.DataFrame(rows)


def chosen_table(lines: Mapping[Run, Line]) -> pd.DataFrame:
    """One row per regime and method, at the strength that the trials chose, and its paired differences from l2's."""
    rows = []
    for regime, method, own, l2 in _beside_l2(lines):
        row: dict[str, object] = {
            "regime": regime, "method": method, "strength": chosen_strength(lines, regime, method),
            **{title: with_error([getattr(each, name) for each in own.values()]) for name, title in SHOWN.items()},
            "retained": f"{mean([each.retained for each in own.values()]):.2f}", "runs": len(own),
        }  # fmt: skip
        row["pairs"] = len(own.keys() & l2.keys())  # of order and seed, with l2's
        rows.append(row | _differences({} if method == "l2" else own, l2))
    return pd.DataFrame(rows)


def old_tasks_table(lines: Mapping[Run, Line]) -> pd.DataFrame:
    """One row per regime and method at the strength that its trials chose: the change of accuracy on each old task."""
    rows = []
    for regime, method, own, _ in _beside_l2(lines):
        changes = pd.DataFrame([each.changes for each in own.values()]).mean()
        rows.append({"regime": regime, "method": method, **changes.map("{:+.2f}".format)})
    return pd.DataFrame(rows)


def same_pull_table(lines: Mapping[Run, Line]) -> pd.DataFrame:
    """One row per regime, method that adds to l2, and pull at which both ran: the paired differences from l2."""
    points, rows = _final_points(lines), []
    adding = [each for each in _in_final(lines) if each[1] != "l2" and METHODS[each[1]].strengths == PULLS]
    for (regime, method), pull in product(adding, PULLS):
        own, l2 = (_at(points, regime, each, pull) for each in (method, "l2"))
        if (pairs := len(own.keys() & l2.keys())) >= FEWEST:
            rows.append({"regime": regime, "method": method, "pull": pull, "pairs": pairs, **_differences(own, l2)})
    return pd.DataFrame(rows)


def rates_table(lines: Mapping[Run, Line]) -> pd.DataFrame:
    """One row per regime and learning rate of plain training: the paired differences from l2 at its chosen strength."""
    points, rows = _final_points(lines), []
    for regime, rate in product(REGIMES, RATES):
        own = _at(points, regime, "plain", rate)
        l2 = _at(points, regime, "l2", chosen_strength(lines, regime, "l2"))
        if (pairs := len(own.keys() & l2.keys())) >= FEWEST:
            rows.append({"regime": regime, "rate": f"1/{rate:g}", "pairs": pairs, **_differences(own, l2)})
    return pd.DataFrame(rows)


def again_table(lines: Mapping[Run, Line], again: Mapping[Run, Line]) -> pd.DataFrame:
    """One row per regime, method and strength that was measured again: the later runs minus the first ones."""
    first, later, rows = _final_points(lines), _final_points(again), []
    for regime, method, strength in dict.fromkeys((run.regime, run.method, run.strength) for run in later):
        new, old = (_at(points, regime, method, strength) for points in (later, first))
        pairs = new.keys() & old.keys()
        row = {"regime": regime, "method": method, "strength": strength, "pairs": len(pairs)}
        rows.append(row | {f"{SHOWN[name]}, again minus first": in_words(_minus(name, new, old)) for name in MEASURES})
    return pd.DataFrame(rows)


def _differences(own: Mapping[tuple[int, int], Point], l2: Mapping[tuple[int, int], Point]) -> dict[str, str]:
    """The columns of differences from l2 in words; empty without points of a method's own."""
    columns = {f"{SHOWN[name]}, minus l2": in_words(_minus(name, own, l2)) for name in MEASURES}
    low, high = _over_prompts(own, l2)
    return columns | {"over prompts": "" if isnan(low) else f"[{low:+.3f}, {high:+.3f}]"}


def _over_prompts(own: Mapping[tuple[int, int], Point], l2: Mapping[tuple[int, int], Point]) -> tuple[float, float]:
    """The interval over prompts of the difference of what is still right; each prompt has its mean over the pairs."""
    changes: dict[tuple[str, int], list[float]] = {}
    for pair in own.keys() & l2.keys():
        for prompt in own[pair].right.keys() & l2[pair].right.keys():
            changes.setdefault(prompt, []).append(float(own[pair].right[prompt]) - float(l2[pair].right[prompt]))
    if not changes:
        return NOTHING.low, NOTHING.high
    means = torch.tensor([sum(each) / len(each) for each in changes.values()], dtype=torch.float64)
    low, high = t_interval(means)
    return low.item(), high.item()


def differences_from_l2(lines: Mapping[Run, Line]) -> list[dict[str, object]]:
    """One row per regime, method and measure: the paired difference from l2's, where its interval is known."""
    return [
        {"panel": regime, "name": method, "measure": SHOWN[name], **found._asdict()}
        for regime, method, own, l2 in _beside_l2(lines) if method != "l2" for name in MEASURES
        if not isnan((found := _minus(name, own, l2)).low)
    ]  # fmt: skip


def _beside_l2(
    lines: Mapping[Run, Line],
) -> Iterator[tuple[str, str, Mapping[tuple[int, int], Point], Mapping[tuple[int, int], Point]]]:
    """Each regime and method, its points at the strength that its trials chose, and those of l2."""
    points = _final_points(lines)
    for regime, method in _in_final(lines):
        own, l2 = (_at(points, regime, each, chosen_strength(lines, regime, each)) for each in (method, "l2"))
        if own:
            yield regime, method, own, l2


def _minus(name: str, own: Mapping[tuple[int, int], Point], other: Mapping[tuple[int, int], Point]) -> Interval:
    """The paired difference of one measure."""
    values = ({pair: getattr(each, name) for pair, each in group.items()} for group in (own, other))
    return difference(*values)


def _final_points(lines: Mapping[Run, Line]) -> dict[Run, Point | None]:
    return {run: point(line) for run, line in lines.items() if run.part == "final"}


def _at(
    points: Mapping[Run, Point | None], regime: str, method: str, strength: float | None
) -> dict[tuple[int, int], Point]:
    """A method's points at a strength, by order and seed."""
    return {
        (run.order, run.seed): each for run, each in points.items()
        if each and (run.regime, run.method, run.strength) == (regime, method, strength)
    }  # fmt: skip


def _shown(finals: pd.DataFrame) -> pd.DataFrame:
    """Points in few words."""
    if finals.empty:
        return finals
    pairs = {
        name: [
            f"{value:.2f} ± {error:.2f}".replace(" ± nan", "")
            for value, error in zip(finals[name], finals[f"{name}_error"], strict=True)
        ]
        for name in ("learned", "kept")
    }
    shown = finals.drop(columns=[f"{name}_error" for name in pairs]).assign(**pairs).round(2)
    return shown.rename(columns={"base_kept": "base", "still_right": "still right"})


def areas_table(lines: Mapping[Run, Line]) -> pd.DataFrame:
    """One row per measure, regime and method that ran at all strengths: the area, and its paired differences."""
    rows = []
    for measure, (regime, method) in product(get_args(Kept), _in_final(lines)):
        own = areas(lines, "final", regime, method, measure)
        if len(own) < FEWEST:
            continue
        row = {"of what is": measure.replace("_", " "), "regime": regime, "method": method}
        row |= {"area": f"{mean(own.values()):.3f}", "pairs": len(own)}
        for other in BASELINES:
            theirs = areas(lines, "final", regime, other, measure)
            row[f"minus {other}"] = "" if method == other else in_words(difference(own, theirs))
        rows.append(row)
    return pd.DataFrame(rows)


def _in_final(lines: Mapping[Run, Line]) -> list[tuple[str, str]]:
    """Regimes and methods of the final part, in the order in which they are defined."""
    found = {(run.regime, run.method) for run in lines if run.part == "final"}
    return [(regime, method) for regime in REGIMES for method in METHODS if (regime, method) in found]


def trials_table(lines: Mapping[Run, Line], config: StudyConfig) -> pd.DataFrame:
    """One row per method, the best of the screening first: its areas in the trials, and whether it is a finalist."""
    rows, best = [], finalists(lines, config)
    for method, screened in ranked(lines, config.screened, config.methods):
        row: dict[str, object] = {"method": method, "screening": f"{screened:.3f}"}
        for regime in config.regimes:
            values = areas(lines, "trial", regime, method).values()
            row[regime] = f"{mean(values):.3f}" if values else ""
        why = "always" if method in ALWAYS else "chosen" if method in best else ""
        rows.append(row | {"finalist": why, "old examples": "yes" if method in WITH_OLD_EXAMPLES else ""})
    return pd.DataFrame(rows)


def cost_table(lines: Mapping[Run, Line]) -> pd.DataFrame:
    """One row per part of the study, regime and machine: what a run took there, with what ran beside it."""
    rows = pd.DataFrame(
        [{"part": run.part, "regime": run.regime, "machine": line["device"], "minutes": line["seconds"] / 60}
         for run, line in lines.items() if not METHODS[run.method].at_end]  # whose training serves several runs
    )  # fmt: skip
    order = {name: at for at, name in enumerate(REGIMES)}
    groups = rows.groupby(["part", "regime", "machine"], sort=False)["minutes"]
    table = groups.agg(runs="count", minutes="median").reset_index()
    table = table.sort_values(["part", "regime", "machine"], key=lambda each: each.map(order).fillna(each))
    return table.assign(minutes=table["minutes"].map("{:.1f}".format))
