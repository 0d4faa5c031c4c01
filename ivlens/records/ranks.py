"""Rank correlation."""

import numpy as np
from numpy.typing import ArrayLike


def spearman(one: ArrayLike, two: ArrayLike) -> float:
    """Spearman's correlation, equal values sharing a rank; not a number where one side is constant."""
    first, second = (_centred_ranks(np.asarray(each, float).ravel()) for each in (one, two))
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norms if norms > 0 else float("nan")


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks - ranks.mean()
