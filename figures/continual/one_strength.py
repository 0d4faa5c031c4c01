"""One strength for all regimes: which one each method's trials choose, and what it learns and keeps of the rest."""

from collections.abc import Mapping
from dataclasses import replace
from math import isnan
from typing import NamedTuple, get_args

import pandas as pd

from ivlens import Guidance
from ivlens.training.config import DEFAULT_PRESET

from .choice import Kept, area, point
from .config import METHODS, StudyConfig
from .paired import FEWEST, difference, in_words, mean
from .runs import Line, Run

Strengths = Mapping[str, float]  # by regime


class Best(NamedTuple):
    """A method's strength that is best over the trials of all regimes, and the areas of all its strengths there."""

    strength: float
    areas: tuple[float, ...]


def single_areas(
    lines: Mapping[Run, Line], part: str, method: str, strengths: Strengths, measure: Kept = "retained"
) -> dict[tuple[int, int], float]:
    """The mean over the regimes of the area under one strength in each, by order and seed, where all of them ran.

    That area is what was gained of the new tasks times what is kept of the old ones.
    """
    found: dict[tuple[int, int], list[float]] = {}
    for run, line in lines.items():
        if (run.part, run.method) == (part, method) and strengths.get(run.regime) == run.strength:
            found.setdefault((run.order, run.seed), []).append(area([point(line)], measure))
    return {pair: mean(values) for pair, values in found.items() if len(values) == len(strengths)}


def best_strengths(lines: Mapping[Run, Line], config: StudyConfig) -> dict[str, Best]:
    """The best strength of each method that was tried in all regimes at all strengths, the best method first."""
    found = {}
    for method in config.methods:
        strengths = METHODS[method].strengths
        each = (single_areas(lines, "trial", method, dict.fromkeys(config.regimes, one)) for one in strengths)
        areas = tuple(mean(values.values()) for values in each)
        if not any(isnan(value) for value in areas):
            found[method] = Best(strengths[areas.index(max(areas))], areas)
    return dict(sorted(found.items(), key=lambda one: -max(one[1].areas)))


def default_pulls(config: StudyConfig) -> Strengths:
    """The share of the change that the default takes back in each regime: its weight times the learning rate."""
    pulls = {}
    for regime in config.regimes:
        training = config.training(Run("trial", regime, "plain", 1.0, 0, 0))
        (l2,) = replace(training, guidance=Guidance.preset()).terms
        pulls[regime] = round(l2.weights["l2"] * training.learning_rate, 9)
    return pulls


def one_strength_trials_table(best: Mapping[str, Best]) -> pd.DataFrame:
    """One row per method: the areas of its strengths on the trials, from weak to strong, and the best strength."""
    return pd.DataFrame(
        [{"method": method, **{f"strength {number}": f"{each:.3f}" for number, each in enumerate(found.areas, 1)},
          "best": f"{found.strength:.2g}"} for method, found in best.items()]
    )  # fmt: skip


def one_strength_table(lines: Mapping[Run, Line], config: StudyConfig, best: Mapping[str, Best]) -> pd.DataFrame:
    """One row per strength that ran in all regimes of the final part, and the default, beside l2 at its best one."""

    def kept(method: str, strengths: Strengths) -> dict[Kept, dict[tuple[int, int], float]]:
        return {measure: single_areas(lines, "final", method, strengths, measure) for measure in get_args(Kept)}

    chosen = {method: dict.fromkeys(config.regimes, each.strength) for method, each in best.items()}
    tried: list[tuple[str, str, Strengths]] = [
        (method, f"{each:.2g}", dict.fromkeys(config.regimes, each))
        for method in best for each in METHODS[method].strengths
    ]  # fmt: skip
    l2, rows = kept("l2", chosen.get("l2", {})), []
    for method, name, strengths in [*tried, ("l2", DEFAULT_PRESET, default_pulls(config))]:
        own, is_chosen = kept(method, strengths), strengths == chosen.get(method)
        pairs = len(own["retained"])
        if pairs < FEWEST:
            continue
        row: dict[str, object] = {"method": method, "strength": name, "chosen": is_chosen}
        row["trials"] = f"{mean(single_areas(lines, 'trial', method, strengths).values()):.3f}"
        for measure, areas in own.items():
            title, beside = measure.replace("_", " "), in_words(difference(areas, l2[measure]))
            row |= {"pairs": pairs, title: f"{mean(areas.values()):.3f}"}
            row[f"{title}, minus l2"] = "" if method == "l2" and is_chosen else beside
        rows.append(row)
    return pd.DataFrame(rows)
