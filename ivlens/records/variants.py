"""What the variants of an ablation are worth: each against the first, prompt by prompt."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
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
        over prompts within each task, whose scores are means over seeds: it does not say how seeds vary), tasks, and
        seeds.

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
            own, of_first = ([runs_of[seed].final_scores(role) for seed in by_seed] for runs_of in (by_seed, first))
            _check_prompts([*of_first, *own])
            if own[0]:
                before, after = _mean_over_seeds(of_first), _mean_over_seeds(own)
                found = change_over_tasks(before, after)
                rows.append({
                    "variant": name, "measure": measure, "value": mean_over_tasks(after).value,
                    "difference": found.value, "low": found.low, "high": found.high, "tasks": len(after),
                    "seeds": len(by_seed),
                })  # fmt: skip
    return pd.DataFrame(rows)


Scores = dict[str, Float[Tensor, " _"]]  # of every prompt, by ability


def _check_prompts(every: Sequence[Scores]) -> None:
    """Raise ArgumentError unless all have scores of the same prompts."""
    for one in every[1:]:
        if [*one] != [*every[0]] or any(len(one[name]) != len(every[0][name]) for name in one):
            raise ArgumentError("variants that were asked the same prompts", f"{[*one]} and {[*every[0]]}"[:80])


def _mean_over_seeds(of_seeds: Sequence[Scores]) -> list[Float[Tensor, " _"]]:
    """A score for every prompt of each ability: seeds share the prompts, which are the sample."""
    return [torch.stack([scores[name] for scores in of_seeds]).mean(0) for name in of_seeds[0]]
