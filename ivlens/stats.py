"""Statistics over prompts: intervals, rank correlation and similarity, each with its paper.

Prompts, or tasks, are the unit of resampling: tokens, heads and layers are not independent observations. Every function
is pure and has its own random generator. The tests compare with scipy.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from math import ceil, comb, cos, isnan, pi, sin, tan
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from .checks import Count, Natural, checked
from .errors import ArgumentError

RESAMPLES = 2000
ROUNDING = 1e-12  # of means that would be 0 in exact arithmetic
LEAST_DF = 4  # degrees of freedom from which a bootstrap says something about what was not measured
LEAST_GROUPS = 6  # and groups: the correlation over fewer has few values
ADDED = 4  # prompts, half of them right, that are drawn beside those that were only right or wrong

Columns = Mapping[str, np.ndarray]


class Interval(NamedTuple):
    """A value with the two ends of its interval; not a number where these are unknown."""

    value: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def check_level(level: float) -> None:
    """Raise ArgumentError unless ``level`` lies between 0 and 1."""
    if not 0 < level < 1:
        raise ArgumentError("level to be between 0 and 1", repr(level))


def standard_error(values: Tensor | Sequence[float]) -> float:
    """Standard error of the mean of independent values (not a number for fewer than two).

    Example:
        >>> from ivlens.stats import standard_error
        >>> standard_error([0.0, 2.0])
        1.0
    """
    numbers = torch.as_tensor(values).double()
    return (numbers.std(correction=1) / len(numbers) ** 0.5).item() if len(numbers) > 1 else float("nan")


@cache
def t_quantile(probability: float, df: int) -> float:
    """Quantile of Student's t with a whole number of degrees of freedom.

    Its distribution function has a closed form (Abramowitz and Stegun 1964, eqs. 26.7.3 and 26.7.4), which is inverted
    by bisection.

    Args:
        probability: the quantile's, between 0.5 and 1.
        df: degrees of freedom, 1 or more.

    Example:
        >>> from ivlens.stats import t_quantile
        >>> round(t_quantile(0.975, 4), 3)
        2.776
    """
    low, high = 0.0, pi / 2  # of the angle whose tangent is t / sqrt(df)
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _t_within(angle, df) < 2 * probability - 1 else (low, angle)
    return df**0.5 * tan(low)


def _t_within(angle: float, df: int) -> float:
    """The probability that Student's t lies between -sqrt(df) tan(angle) and sqrt(df) tan(angle)."""
    odd = df % 2
    term, total = cos(angle) if odd else 1.0, 0.0
    for step in range(1, df // 2 + 1):
        total += term
        term *= (2 * step - 1 + odd) / (2 * step + odd) * cos(angle) ** 2
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


@checked
def wilson_interval(successes: Natural, n: Count, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), valid also where all, or none, of a few prompts are correct.

    Args:
        successes: how many of the prompts are correct.
        n: how many prompts there are.
        level: the interval's level, between 0 and 1.

    Returns:
        The interval's lower and upper end, from 0 to 1.

    Raises:
        ArgumentError: a level outside (0, 1), no prompts, or more successes than prompts.

    Example:
        >>> from ivlens.stats import wilson_interval
        >>> [round(end, 2) for end in wilson_interval(10, 10)]
        [0.72, 1.0]
    """
    check_level(level)
    if successes > n:
        raise ArgumentError(f"successes to be at most n, {n}", repr(successes))
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (successes * (n - successes) / n + z * z / 4) ** 0.5
    return max(0.0, middle - half) if successes else 0.0, min(1.0, middle + half) if successes < n else 1.0


def paired_drop(base: Bool[Tensor, " prompt"], now: Bool[Tensor, " prompt"]) -> Interval:
    """Drop of accuracy between two measurements of the same prompts, with its 95% interval (Agresti and Min 2005).

    Their interval for matched pairs is Wald's with half a prompt added to each count of the two-by-two table.

    Args:
        base: whether each prompt was answered correctly before.
        now: whether it is now.

    Returns:
        Accuracy before minus accuracy now, from -1 to 1.

    Example:
        >>> import torch
        >>> from ivlens.stats import paired_drop
        >>> paired_drop(torch.tensor([True, True]), torch.tensor([True, False])).value
        0.5
    """
    n = len(base)
    lost, won = int((base & ~now).sum()), int((now & ~base).sum())
    middle = (lost - won) / (n + 2)
    half = 1.96 * max((lost + won + 1) - (lost - won) ** 2 / (n + 2), 0) ** 0.5 / (n + 2)
    return Interval((lost - won) / n, max(-1.0, middle - half), min(1.0, middle + half))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value that as many of the prompts that changed were lost as won (McNemar 1947).

    Args:
        lost: prompts that were answered correctly before and are not now.
        won: prompts that were not and are now.

    Returns:
        The p-value, from 0 to 1; 1 where no prompt changed.

    Example:
        >>> from ivlens.stats import mcnemar
        >>> mcnemar(5, 0)
        0.0625
    """
    n = lost + won
    tail = sum(comb(n, count) for count in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**n)


def lucky_changes(before: float, now: float, options: int) -> float:
    """The fraction of prompts expected to go from right to wrong, or from wrong to right, by guessing alone.

    As in arXiv 2510.17776, a prompt's answer is either known or a guess among the options, with independent guesses
    before and now. A fraction ``(1 - before) / (options - 1)`` was then guessed right, and ``1 - now`` of it is wrong
    now; the other direction has the same product.

    Args:
        before: accuracy before, 0 to 1.
        now: accuracy now, 0 to 1.
        options: how many answers there are to guess among, 2 or more.

    Example:
        >>> from ivlens.stats import lucky_changes
        >>> lucky_changes(0.5, 0.5, 2)
        0.25
    """
    return (1 - before) * (1 - now) / (options - 1)


def difference(one: Interval, other: Interval) -> Interval:
    """The difference of two independent values from their intervals (Newcombe 1998, method 10; MOVER).

    Example:
        >>> from ivlens.stats import Interval, difference
        >>> difference(Interval(5.0, 2.0, 8.0), Interval(1.0, -3.0, 5.0))
        Interval(value=4.0, low=-1.0, high=9.0)
    """
    value = one.value - other.value
    below = ((one.value - one.low) ** 2 + (other.high - other.value) ** 2) ** 0.5
    above = ((one.high - one.value) ** 2 + (other.value - other.low) ** 2) ** 0.5
    return Interval(value, value - below, value + above)


def quotient(above: Interval, below: Interval) -> Interval:
    """The quotient of two independent values from their intervals (Donner and Zou 2012; Newcombe 2016: MOVER-R).

    Its ends are those quotients ``q`` for which the interval of ``above - q * below``, by ``difference``, ends at 0.

    Args:
        above: the numerator.
        below: the denominator.

    Returns:
        The quotient with its interval; not-a-numbers unless the denominator is positive with its whole interval.

    Example:
        >>> from ivlens.stats import Interval, quotient
        >>> quotient(Interval(2.0, 1.0, 3.0), Interval(4.0, 4.0, 4.0))
        Interval(value=0.5, low=0.25, high=0.75)
    """
    if not below.low > 0:
        return NOTHING
    low = _least_quotient(above.value, above.low, below)
    return Interval(above.value / below.value, low, -_least_quotient(-above.value, -above.high, below))


def _least_quotient(value: float, low: float, below: Interval) -> float:
    """The lower end of ``quotient``: the root of a quadratic equation, in the form that does not cancel."""
    arm = (below.high if low > 0 else below.low) - below.value
    square = below.value**2 - arm**2
    root = ((value - low) ** 2 * square + arm**2 * value**2) ** 0.5
    if low > 0:
        return low * (2 * value - low) / (value * below.value + root)
    return (value * below.value - root) / square


def prompts_to_decide(interval: Interval, n: int, threshold: float) -> int | None:
    """How many prompts an interval that contains a threshold would need to end there, if its value stayed what it is.

    The half of the interval towards the threshold shrinks with the square root of the number of prompts.

    Args:
        interval: a value from ``n`` prompts.
        n: how many prompts the interval is from.
        threshold: what the interval must not contain.

    Returns:
        The number of prompts, more than ``n``; None where no number would do, since the value is the threshold or is
        unknown.

    Example:
        >>> from ivlens.stats import Interval, prompts_to_decide
        >>> prompts_to_decide(Interval(0.2, 0.0, 0.4), 30, 0.1)
        120
    """
    distance = interval.value - threshold
    if any(map(isnan, interval)) or distance == 0:
        return None
    half = interval.value - interval.low if distance > 0 else interval.high - interval.value
    needed = n * (half / distance) ** 2
    return max(n + 1, ceil(needed - 1e-9))


def spearman(one: ArrayLike, two: ArrayLike) -> float:
    """Rank correlation (Spearman 1904), with equal values sharing a rank.

    It is not a number where one side is constant, or has a value that is none.

    Args:
        one: values of any shape.
        two: as many values, in the same order.

    Example:
        >>> from ivlens.stats import spearman
        >>> round(spearman([1, 2, 3], [1, 4, 9]), 6)
        1.0
    """
    sides = [np.asarray(each, float).ravel() for each in (one, two)]
    if any(np.isnan(each).any() for each in sides):
        return float("nan")
    first, second = map(_centred_ranks, sides)
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norms if norms > 0 else float("nan")


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[index]
    return ranks - ranks.mean()


def resample(n: int, resamples: int, seed: int = 0) -> Int[Tensor, "resample prompt"]:
    """Prompt indices of bootstrap resamples: ``n`` of ``n``, drawn with replacement (Efron 1979)."""
    return torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))


def times_drawn(
    drawn: Int[Tensor, "resample draw"], n: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "resample prompt"]:
    """How often each of ``n`` prompts occurs in each resample, so that sums become one matrix product."""
    counts = torch.zeros(len(drawn), n, dtype=dtype)
    return counts.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=dtype))


def t_interval(
    values: Float[Tensor, "prompt *shape"], level: float = 0.95
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Student's t interval of the mean over prompts, which holds for few of them, too.

    Args:
        values: one number, or an array, per prompt.
        level: the interval's level, between 0 and 1.

    Returns:
        The lower and the upper ends, in the values' unit; of fewer than two prompts, not a number.

    Example:
        >>> import torch
        >>> from ivlens.stats import t_interval
        >>> low, high = t_interval(torch.tensor([0.0, 1.0]))
        >>> round(low.item(), 2), round(high.item(), 2)
        (-5.85, 6.85)
    """
    n = len(values)
    means = values.mean(0)
    if n < 2:
        return torch.full_like(means, torch.nan), torch.full_like(means, torch.nan)
    half = t_quantile((1 + level) / 2, n - 1) * values.std(0, correction=1) / n**0.5
    return means - half, means + half


def ratio_interval(
    above: Float[Tensor, "prompt *shape"], below: Float[Tensor, " prompt"], level: float = 0.95
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Interval of ratios of two means over the same prompts (Fieller 1954), with Student's t.

    Args:
        above: the numerators, one number or an array per prompt.
        below: the denominator of all of them.
        level: the interval's level, between 0 and 1.

    Returns:
        The lower and the upper ends; not a number where the denominator's mean may as well be 0, and so for fewer than
        two prompts.

    Example:
        >>> import torch
        >>> from ivlens.stats import ratio_interval
        >>> low, high = ratio_interval(torch.ones(4, 3), 2 * torch.ones(4))
        >>> low.tolist(), high.tolist()
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    """
    n = len(below)
    top, bottom = above.mean(0), below.mean()
    if n < 2:
        return torch.full_like(top, torch.nan), torch.full_like(top, torch.nan)
    errors, error = above - top, below - bottom
    scale = t_quantile((1 + level) / 2, n - 1) ** 2 / (n * (n - 1))
    squares = bottom**2 - scale * error.square().sum()
    middle = top * bottom - scale * torch.einsum("p...,p->...", errors, error)
    root = (middle**2 - squares * (top**2 - scale * errors.square().sum(0))).clamp_min(0).sqrt()
    squares = squares.masked_fill(squares <= 0, torch.nan)
    return (middle - root) / squares, (middle + root) / squares


def _ends(level: float, df: int, n: float) -> tuple[float, float]:
    """The percentiles of draws of ``n`` prompts that are as far apart as Student's t has it (Hesterberg 2015, 4.5).

    Percentile intervals of few prompts are too narrow: draws vary less than samples, and t has longer tails than they.
    """
    tail = NormalDist().cdf(-t_quantile((1 + level) / 2, df) * (n / df) ** 0.5)
    return tail, 1 - tail


def _quantiles(draws: Float[Tensor, "draw *shape"], levels: tuple[float, float]) -> Float[Tensor, "level *shape"]:
    """What ``torch.quantile`` gives over draws, and faster: numpy sorts with the processor's vectors."""
    ranks = torch.tensor(levels, dtype=draws.dtype) * (len(draws) - 1)
    below, above = ranks.long(), ranks.ceil().long()
    ordered = torch.from_numpy(np.sort(draws.movedim(0, -1).contiguous().numpy(), axis=-1))
    found = torch.lerp(ordered[..., below], ordered[..., above], ranks - below)
    return found.masked_fill(ordered[..., -1:].isnan(), torch.nan).movedim(-1, 0)


def interval_over_tasks(
    tasks: Sequence[Float[Tensor, "column _"]],
    statistic: Callable[[Float[Tensor, "column *draw"]], Float[Tensor, "*draw"]],
    level: float = 0.95,
) -> Interval:
    """A statistic of means over tasks, with the percentile bootstrap that draws prompts within each task.

    Draws of prompts that are all alike are alike, too: of ten right answers of ten, they would say that no other is
    ever wrong. So answers that are only right or wrong are drawn from these and four more in all, an equal part of each
    combination: what Agresti and Coull (1998) add to a proportion, and Bonett and Price (2012) to matched pairs. Of
    graded scores, as large a part of the four is added as the prompts are whose values are all 0 or 1.

    Args:
        tasks: for each task, a row of values for each column, by prompt; a task's prompts are drawn for all columns.
        statistic: function from the columns' means over tasks to a number; draws in which it is none are left out.
        level: the interval's level, between 0 and 1.

    Returns:
        The statistic with its interval; not-a-numbers without tasks or prompts, or where the statistic is none. The
        ends are not a number for fewer than five prompts whose values are not right or wrong, or where they are a
        task's only one.

    Example:
        >>> import torch
        >>> from ivlens.stats import interval_over_tasks
        >>> found = interval_over_tasks([torch.ones(1, 10)], lambda means: means[0])  # all of ten right
        >>> found.value, round(found.low, 1), found.high
        (1.0, 0.6, 1.0)
    """
    columns = [each.double() for each in tasks]
    counts = [each.shape[1] for each in columns]
    if not columns or not all(counts):
        return NOTHING
    value = statistic(torch.stack([each.mean(1) for each in columns]).mean(0)).item()
    if isnan(value):
        return NOTHING
    added = [ADDED / len(columns) * _right_or_wrong(each).double().mean().item() for each in columns]
    n = sum(counts) + sum(added)
    df = round(n) - len(columns)
    draws = [_mean_draws(each, more, seed) for seed, (each, more) in enumerate(zip(columns, added, strict=True))]
    found = statistic(torch.stack(draws).mean(0))
    found = found[~found.isnan()]
    if df < LEAST_DF or not len(found) or any(size == 1 and not more for size, more in zip(counts, added, strict=True)):
        return Interval(value, NOTHING.low, NOTHING.high)
    low, high = _quantiles(found, _ends(level, df, n)).tolist()
    return Interval(value, min(low, value), max(high, value))


def _right_or_wrong(values: Float[Tensor, "column prompt"]) -> Bool[Tensor, " prompt"]:
    return ((values == 0) | (values == 1)).all(0)


def _mean_draws(values: Float[Tensor, "column prompt"], added: float, seed: int) -> Float[Tensor, "column draw"]:
    """Means of columns over bootstrap draws of prompts, as if there were ``added`` more that are right or wrong."""
    n_columns, n = values.shape
    if added == 0:
        return times_drawn(resample(n, RESAMPLES, seed), n).matmul(values.T).div(n).T
    outcomes = torch.tensor([*product((0.0, 1.0), repeat=n_columns)], dtype=values.dtype).T
    weights = torch.cat([values.new_ones(n), values.new_full((outcomes.shape[1],), added / outcomes.shape[1])])
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weights, RESAMPLES * n, replacement=True, generator=generator).view(RESAMPLES, n)
    return times_drawn(drawn, len(weights)).matmul(torch.cat([values, outcomes], 1).T).div(n).T


def mean_over_tasks(values: Sequence[Float[Tensor, " _"]], level: float = 0.95) -> Interval:
    """Mean over tasks of their means over prompts, see ``interval_over_tasks``; of one task, Wilson's if it can be.

    Args:
        values: for each task, a value per prompt.
        level: the interval's level, between 0 and 1.

    Returns:
        The mean with its interval.

    Example:
        >>> import torch
        >>> from ivlens.stats import mean_over_tasks
        >>> mean_over_tasks([torch.ones(4), torch.zeros(9)]).value
        0.5
    """
    if len(values) == 1 and len(values[0]) and _right_or_wrong(values[0][None]).all():
        right = int(values[0].sum())
        return Interval(right / len(values[0]), *wilson_interval(right, len(values[0]), level))
    return interval_over_tasks([each[None] for each in values], lambda means: means[0], level)


def change_over_tasks(before: Sequence[Float[Tensor, " _"]], after: Sequence[Float[Tensor, " _"]]) -> Interval:
    """Change of such a mean between two measurements of the same prompts, see ``interval_over_tasks``.

    Args:
        before: for each task, a value per prompt.
        after: for each task, its value now.

    Returns:
        The mean after minus that before, with its 95% interval.

    Example:
        >>> import torch
        >>> from ivlens.stats import change_over_tasks
        >>> change_over_tasks([torch.ones(4)], [torch.tensor([1.0, 0.0, 1.0, 1.0])]).value
        -0.25
    """
    return interval_over_tasks(_pairs(before, after), lambda means: means[1] - means[0])


def ratio_over_tasks(above: Sequence[Float[Tensor, " _"]], below: Sequence[Float[Tensor, " _"]]) -> Interval:
    """Ratio of two such means over the same prompts, see ``interval_over_tasks``.

    Args:
        above: for each task, the numerator's value per prompt.
        below: the denominator's.

    Returns:
        The ratio with its 95% interval; not-a-numbers where the denominator's mean is not positive.

    Example:
        >>> import torch
        >>> from ivlens.stats import ratio_over_tasks
        >>> ratio_over_tasks([torch.full((4,), 0.2)], [torch.full((4,), 0.4)])
        Interval(value=0.5, low=0.5, high=0.5)
    """
    return interval_over_tasks(_pairs(above, below), lambda means: ratio(means[0], means[1]))


def _pairs(one: Sequence[Float[Tensor, " _"]], other: Sequence[Float[Tensor, " _"]]) -> list[Float[Tensor, "pair _"]]:
    return [torch.stack(pair) for pair in zip(one, other, strict=True)]


def ratio(above: Float[Tensor, "*shape"], below: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """One over the other, not a number where the other is not positive, but for rounding."""
    return (above / below).masked_fill(below <= ROUNDING, torch.nan)


def bootstrap_groups(columns: Columns, groups: np.ndarray, statistic: Callable[[Columns], float]) -> Interval:
    """A statistic of a table with its 95% percentile bootstrap over whole groups of rows (Field and Welsh 2007).

    Rows of one group (checkpoints of one task) are not independent, so whole groups are resampled.

    Args:
        columns: the table's columns by name, all of one length.
        groups: the group of each row.
        statistic: function from such columns to a number; draws in which it is none are left out.

    Returns:
        The statistic with its interval, whose ends are not a number with fewer than six groups.
    """
    nothing = float("nan")
    if not len(groups):
        return NOTHING
    rows_of = [np.flatnonzero(groups == group) for group in dict.fromkeys(groups)]
    value = float(statistic(columns))
    if len(rows_of) < LEAST_GROUPS:
        return Interval(value, nothing, nothing)
    picks = np.random.default_rng(0).integers(len(rows_of), size=(RESAMPLES, len(rows_of)))
    distinct, which = np.unique(np.sort(picks, axis=1), axis=0, return_inverse=True)  # of few groups, few draws differ
    drawn = [np.concatenate([rows_of[at] for at in pick]) for pick in distinct]
    values = np.array([statistic({name: column[rows] for name, column in columns.items()}) for rows in drawn])[which]
    ends = _ends(0.95, len(rows_of) - 1, len(rows_of))
    low, high = np.nanquantile(values, ends) if np.isfinite(values).any() else (nothing, nothing)
    return Interval(value, float(low), float(high))


def jackknife(
    base: Float[Tensor, "group *shape"],
    now: Float[Tensor, "group *shape"],
    statistic: Callable[[Tensor, Tensor], Tensor],
) -> Interval:
    """A statistic of two means over the same groups of prompts, with its 95% interval by the delete-a-group jackknife.

    The jackknife (Tukey 1958; Efron and Tibshirani 1993, ch. 11) leaves one group out at a time; its standard error has
    as many degrees of freedom as there are groups, but one.

    Args:
        base: the groups' values before.
        now: the same groups' values now.
        statistic: function from the two means over groups, of ``shape``, to a number.
    """
    values = jackknife_values(torch.stack([base, now], 1), lambda means: statistic(means[0], means[1]))
    low, high = t_interval(values)
    return Interval(statistic(base.mean(0), now.mean(0)).item(), low.item(), high.item())


def jackknife_values(
    groups: Float[Tensor, "group *shape"], statistic: Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*out"]]
) -> Float[Tensor, "group *out"]:
    """A value for each group whose mean is a statistic of the mean over groups, and varies as it does.

    They are what leaving out one group at a time changes, times all others, around the statistic of all: the interval
    of their mean is the jackknife's.

    Args:
        groups: a group's values.
        statistic: function from the mean over groups, of ``shape``, to a number or several.

    Returns:
        In float64; the statistic itself of a single group.
    """
    n = len(groups)
    whole = statistic(groups.mean(0)).double()
    if n == 1:
        return whole[None]
    left = [[*range(at), *range(at + 1, n)] for at in range(n)]
    values = torch.stack([statistic(groups[rest].mean(0)) for rest in left]).double()
    return whole + (n - 1) * (values.mean(0) - values)


def cosine(one: Float[Tensor, "*#rows d_model"], two: Float[Tensor, "*#rows d_model"]) -> Float[Tensor, "*rows"]:
    """Cosine of two vectors, in float64; not a number where one is zero."""
    one, two = one.double(), two.double()
    return (one * two).sum(-1) / (one.norm(dim=-1) * two.norm(dim=-1))


def linear_cka(one: Float[Tensor, "prompt d_model"], two: Float[Tensor, "prompt d_other"]) -> float:
    """Linear CKA of two sets of hidden states of the same prompts (Kornblith et al., arXiv 1905.00414, eq. 3).

    Args:
        one: a hidden state per prompt.
        two: another model's or layer's hidden state per prompt.

    Returns:
        The similarity, from 0 to 1, invariant to rotation, scale and shift; not a number where one side is constant.

    Example:
        >>> import torch
        >>> from ivlens.stats import linear_cka
        >>> states = torch.eye(4)
        >>> round(linear_cka(states, 3 * states + 1), 6)
        1.0
    """
    first, second = (each.double() - each.double().mean(0) for each in (one, two))
    grams = [each @ each.T for each in (first, second)]
    norms = grams[0].norm() * grams[1].norm()
    return ((grams[0] * grams[1]).sum() / norms).item() if norms > 0 else float("nan")
