"""What the variants of an ablation are worth: each against the first, prompt by prompt."""

import re
from collections.abc import Mapping

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..checks import checked
from ..errors import ArgumentError
from ..stats import change_over_tasks, mean_over_tasks
from ..vocabulary import ContinualRole
from .continual import ContinualRun

SEED = re.compile(r", seed (\d+)$")
AT_END: dict[str, ContinualRole] = {
    "FP": "new",
    "kept": "keep",
    "GP": "zero-shot",
    "IP": "in-context",
}  # the role that each is a mean over


@checked
def compare_variants(runs: Mapping[str, ContinualRun]) -> pd.DataFrame:
    """One row per variant of an ablation and measure: its score at the end minus that of the first variant.

    Runs called ``NAME, seed N``, as ``ablations`` names them, are one variant; each is compared with the first
    variant's run of the same seed, on the same prompts.

    Args:
        runs: by their names, all of one sequence.

    Returns:
        The columns variant, measure (FP, kept, GP, IP), value, difference with its 95% interval (low, high: a bootstrap
        over prompts within each task and seed, so that it does not say how seeds vary), tasks, and seeds.

    Raises:
        ArgumentError: a variant without a seed that the first has, or other prompts.

    Example:
        >>> iv.compare_variants({"whole": sequence, "plain": sequence})["difference"].tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    variants: dict[str, dict[str, ContinualRun]] = {}
    for name, run in runs.items():
        seed = SEED.search(name)
        variants.setdefault(SEED.sub("", name), {})[seed[1] if seed else ""] = run
    (_, first), *others = variants.items() or [("", {})]
    rows = []
    for name, by_seed in others:
        if missing := by_seed.keys() - first.keys():
            raise ArgumentError(f"a run of the first variant with seed {min(missing)}", f"none, beside {name!r}")
        for measure, role in AT_END.items():
            pairs = [pair for seed, run in by_seed.items() for pair in _pairs(role, run, first[seed])]
            if pairs:
                own, of_first = zip(*pairs, strict=True)
                found, value = change_over_tasks(of_first, own), mean_over_tasks(own).value
                rows.append({
                    "variant": name, "measure": measure, "value": value, "difference": found.value, "low": found.low,
                    "high": found.high, "tasks": len(pairs) // len(by_seed), "seeds": len(by_seed),
                })  # fmt: skip
    return pd.DataFrame(rows)


def _pairs(
    role: ContinualRole, run: ContinualRun, first: ContinualRun
) -> list[tuple[Float[Tensor, " _"], Float[Tensor, " _"]]]:
    """The scores of a variant and of the first one on each ability of a role, at the end."""
    own, other = (each.final_scores(role) for each in (run, first))
    if [*own] != [*other] or any(len(own[name]) != len(other[name]) for name in own):
        raise ArgumentError("variants that were asked the same prompts", f"{[*own]} and {[*other]}"[:80])
    return [(own[name], other[name]) for name in own]
