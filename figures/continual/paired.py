"""Means, and differences between runs of the same order and seed with their intervals, in numbers and words."""

from collections.abc import Iterable, Mapping
from math import isnan

import torch

from ivlens.stats import NOTHING, ROUNDING, Interval, standard_error, t_interval

FEWEST = 3  # pairs of order and seed from which an interval is given


def mean(values: Iterable[float]) -> float:
    """The mean; nan of no values."""
    found = list(values)
    return sum(found) / len(found) if found else float("nan")


def difference(one: Mapping[tuple[int, int], float], other: Mapping[tuple[int, int], float]) -> Interval:
    """The mean difference over the pairs of order and seed that both have; from FEWEST pairs on its 95% interval.

    Differences of counts may all be equal by chance, which says nothing of others.
    """
    found = [one[pair] - other[pair] for pair in one if pair in other]
    if len(found) < FEWEST or standard_error(found) <= ROUNDING:
        return NOTHING._replace(value=mean(found))
    low, high = t_interval(torch.tensor(found, dtype=torch.float64))
    return Interval(mean(found), low.item(), high.item())


def in_words(of: Interval) -> str:
    """A difference with its sign and its interval; empty where there is none."""
    value, low, high = of
    if isnan(value):
        return ""
    return f"{value:+.3f}" if isnan(low) else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
