"""Statistics against scipy, which computes each of them in its own way."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import spatial
from scipy import stats as oracle

from ivlens import ArgumentError
from ivlens.stats import (
    NOTHING,
    RESAMPLES,
    Interval,
    _quantiles,
    bootstrap_groups,
    change_over_tasks,
    cosine,
    difference,
    interval_over_tasks,
    jackknife,
    jackknife_values,
    linear_cka,
    mean_over_tasks,
    paired_drop,
    quotient,
    ratio,
    ratio_interval,
    ratio_over_tasks,
    resample,
    spearman,
    standard_error,
    t_interval,
    t_quantile,
    times_drawn,
    wilson_interval,
)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_a_proportion_is_scipys_wilson(n: int, share: float, level: float) -> None:
    successes = round(share * n)
    expected = oracle.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson_interval(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("asked", "named"), [((3, 2), "successes"), ((1, 2, 1.0), "level"), ((0, 0), "n to be")])
def test_what_is_no_proportion_is_refused(asked: Any, named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        wilson_interval(*asked)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_rank_correlation_is_scipys_ties_included(pairs: list[tuple[int, int]]) -> None:
    one, two = np.array(pairs).T
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        assert math.isnan(spearman(one, two))
    else:
        assert spearman(one, two) == pytest.approx(oracle.spearmanr(one, two).statistic)


def test_the_standard_error_is_scipys() -> None:
    assert standard_error(values(9)) == pytest.approx(oracle.sem(values(9).numpy()))
    assert math.isnan(standard_error([1.0]))


def test_a_paired_drop_is_wald_s_with_half_a_prompt_in_each_cell() -> None:
    base, now = values(40) > -0.5, values(40, seed=1) > 0.2
    counts = np.histogram2d(base.numpy(), now.numpy(), bins=[[-0.5, 0.5, 1.5]] * 2)[0] + 0.5
    n, difference = counts.sum(), (counts[1, 0] - counts[0, 1]) / counts.sum()
    variance = ((counts[1, 0] + counts[0, 1]) / n - difference**2) / n
    half = oracle.norm.ppf(0.975) * math.sqrt(variance)
    found = paired_drop(base, now)
    assert found.value == pytest.approx((base.double().mean() - now.double().mean()).item())
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half), abs=1e-4)


def test_the_interval_of_a_mean_is_scipys() -> None:
    data = values(7, 3)
    low, high = t_interval(data, 0.9)
    expected = oracle.ttest_1samp(data.numpy(), 0.0).confidence_interval(0.9)
    np.testing.assert_allclose(low, expected.low)
    np.testing.assert_allclose(high, expected.high)
    low, high = t_interval(data[:1])
    assert torch.stack([low, high]).isnan().all()


def test_the_interval_of_a_ratio_holds_what_scipy_does_not_tell_from_it() -> None:
    """Fieller's interval are the ratios r for which the mean of above - r below may be 0."""
    above, below = values(9, 2) + 2, values(9, seed=1) + 4
    for at, ends in enumerate(zip(*ratio_interval(above, below, 0.9), strict=True)):
        for end in ends:
            assert oracle.ttest_1samp((above[:, at] - end * below).numpy(), 0.0).pvalue == pytest.approx(0.1)
    unknown = ratio_interval(above, values(9))  # whose mean may as well be 0
    assert torch.stack(unknown).isnan().all()
    assert torch.stack(ratio_interval(above[:1], below[:1])).isnan().all()


@pytest.mark.parametrize("n", [3, 6, 30])
def test_intervals_of_ratios_hold_the_truth(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    below = 4 + torch.randn(2000, n, generator=generator, dtype=torch.float64)
    above = 0.5 * below + torch.randn(2000, n, generator=generator, dtype=torch.float64)
    ends = [ratio_interval(one, other) for one, other in zip(above, below, strict=True)]
    held = [low <= 0.5 <= high for low, high in ends if low == low]
    assert 0.93 < sum(held) / len(held) < 0.97


def test_the_bootstrap_of_a_ratio_is_scipys_up_to_the_draws() -> None:
    above, below = values(50) + 2, values(50, seed=1) + 4
    found = ratio_over_tasks([above], [below])
    tail = oracle.norm.cdf(-oracle.t.ppf(0.975, 49) * math.sqrt(50 / 49))  # expanded for few prompts
    expected = oracle.bootstrap(
        (above.numpy(), below.numpy()), lambda one, two, axis: one.mean(axis) / two.mean(axis), paired=True,
        n_resamples=20_000, method="percentile", confidence_level=1 - 2 * tail, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert found.value == pytest.approx((above.mean() / below.mean()).item())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert ratio_over_tasks([above], [-below]) == pytest.approx(NOTHING, nan_ok=True)


RARE = {  # how often answers are wrong and wrong, wrong and right, right and wrong, right and right
    "seldom wrong": (0.02, 0.0, 0.005, 0.975), "seldom changed": (0.1, 0.0, 0.02, 0.88),
    "often": (0.3, 0.05, 0.1, 0.55),
}  # fmt: skip


@pytest.mark.parametrize(("tasks", "n"), [(1, 10), (4, 30)])
@pytest.mark.parametrize("rates", RARE.values(), ids=RARE)
def test_intervals_hold_the_truth_also_where_few_answers_are_wrong_or_change(
    rates: tuple[float, ...], tasks: int, n: int
) -> None:
    """Draws of ten prompts alone hold the change in 5 of 100 simulated measurements where answers are seldom wrong."""
    generator = torch.Generator().manual_seed(0)
    _, won, lost, both = rates
    truth = {
        mean_over_tasks: both + lost,
        change_over_tasks: won - lost,
        ratio_over_tasks: (both + won) / (both + lost),
    }
    within = dict.fromkeys(truth, 0)
    for _ in range(100):
        drawn = torch.multinomial(torch.tensor(rates), tasks * n, replacement=True, generator=generator).view(tasks, n)
        before, after = [*(drawn > 1).double()], [*(drawn % 2).double()]
        found = mean_over_tasks(before), change_over_tasks(before, after), ratio_over_tasks(after, before)
        for statistic, interval in zip(truth, found, strict=True):
            assert interval.low <= interval.value <= interval.high
            within[statistic] += interval.low <= truth[statistic] <= interval.high
    assert min(within.values()) >= 85


def test_few_prompts_say_nothing_about_others_unless_they_are_right_or_wrong() -> None:
    one, many = torch.tensor([0.3]), torch.linspace(0.1, 0.9, 9)
    assert mean_over_tasks([many, one]) == pytest.approx((0.4, math.nan, math.nan), nan_ok=True)
    assert mean_over_tasks([many[:4]]) == pytest.approx((0.25, math.nan, math.nan), nan_ok=True)
    low, high = mean_over_tasks([torch.ones(1)])[1:]
    assert low < 0.5 < high == 1  # right once
    assert mean_over_tasks([many, torch.zeros(0)]) == pytest.approx(NOTHING, nan_ok=True)


def test_of_one_task_that_is_right_or_wrong_it_is_wilsons() -> None:
    found = mean_over_tasks([torch.tensor([1.0] * 28 + [0.0] * 2)], 0.9)
    assert found == (28 / 30, *wilson_interval(28, 30, 0.9))


@pytest.mark.parametrize("n", [10, 30])
def test_graded_scores_may_be_others_than_those_that_were_seen(n: int) -> None:
    """Most answers are right, some half; seldom one is lost. Draws of these alone hold the change in 61 of 100."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(100):
        before = torch.where(torch.rand(n, generator=generator) < 0.1, 0.5, 1.0).double()
        after = before.where(torch.rand(n, generator=generator) > 0.03, 0.0)
        low, high = change_over_tasks([before], [after])[1:]
        held += low <= -0.03 * 0.95 <= high
    assert held >= 90


def test_an_interval_holds_its_value() -> None:
    for level in (0.5, 0.95):
        for values_ in ([torch.tensor([1.0] * 29 + [0.99])], [torch.ones(30), torch.ones(30)]):
            value, low, high = mean_over_tasks(values_, level)
            assert low <= value <= high


def test_a_denominator_that_is_nothing_but_rounding_is_none() -> None:
    answers = torch.zeros(4, 30)
    answers[0, :2] = answers[2, 2:4] = 1.0  # two right beside none, of both
    found = interval_over_tasks([answers], lambda means: ratio(means[0] - means[1], means[2] - means[3]))
    assert found.value == 1
    assert max(map(abs, found)) < 100


def test_values_that_are_not_right_or_wrong_are_drawn_alone() -> None:
    data = values(40)
    low, high = mean_over_tasks([data])[1:]
    assert torch.tensor([low, high]) == pytest.approx(torch.stack(t_interval(data)), abs=0.05)
    same = torch.full((9,), 0.3)
    assert change_over_tasks([same], [same]) == pytest.approx((0, 0, 0))


def test_groups_of_one_row_are_the_bootstrap_of_rows() -> None:
    data = values(30).numpy()
    found = bootstrap_groups({"x": data}, np.arange(30), lambda of: of["x"].mean())
    tail = oracle.norm.cdf(-oracle.t.ppf(0.975, 29) * math.sqrt(30 / 29))
    expected = oracle.bootstrap(
        (data,), np.mean, n_resamples=20_000, method="percentile", confidence_level=1 - 2 * tail,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert found.value == pytest.approx(data.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    copied = bootstrap_groups({"x": np.tile(data, 4)}, np.tile(np.arange(30), 4), lambda of: of["x"].mean())
    assert copied == pytest.approx(found)  # four copies of each row are no new observations


def test_fewer_than_six_groups_have_no_interval() -> None:
    five = bootstrap_groups({"x": np.arange(5.0)}, np.arange(5), lambda of: of["x"].mean())
    assert five == pytest.approx((2.0, math.nan, math.nan), nan_ok=True)
    assert bootstrap_groups({"x": np.zeros(0)}, np.zeros(0), lambda of: 1.0) == pytest.approx(NOTHING, nan_ok=True)


def test_resamples_are_counted() -> None:
    drawn = resample(6, 4, seed=3)
    counts = times_drawn(drawn, 6)
    assert counts.tolist() == [np.bincount(row, minlength=6).tolist() for row in drawn.numpy()]
    assert torch.equal(drawn, resample(6, 4, seed=3))


def test_the_jackknife_of_a_mean_is_students_t() -> None:
    now = values(7, 1)
    value, low, high = jackknife(torch.zeros_like(now), now, lambda one, two: (two - one)[0])
    expected = oracle.ttest_1samp(now[:, 0].numpy(), 0.0).confidence_interval()
    assert (value, low, high) == pytest.approx((now.mean().item(), expected.low, expected.high))


def test_jackknife_values_have_the_statistic_as_mean_and_its_interval() -> None:
    groups = values(7, 3)
    found = jackknife_values(groups, lambda mean: mean.norm())
    left_out = torch.stack([(groups.sum(0) - each).div(6).norm() for each in groups])
    assert found.mean().item() == pytest.approx(groups.mean(0).norm().item())
    error = (6 / 7 * (left_out - left_out.mean()).square().sum()).sqrt().item()  # Efron and Tibshirani 1993, eq. 11.5
    assert found.std(correction=1).item() / 7**0.5 == pytest.approx(error)
    assert jackknife_values(groups[:1], lambda mean: mean.norm()).tolist() == [groups[0].norm().item()]


def test_cosines_are_scipys() -> None:
    one, two = values(5, 4), values(5, 4, seed=1)
    expected = [1 - spatial.distance.cosine(*rows) for rows in zip(one.numpy(), two.numpy(), strict=True)]
    np.testing.assert_allclose(cosine(one, two), expected)
    assert cosine(torch.zeros(1, 4), two[:1]).isnan().all()


def test_cka_of_one_column_is_the_squared_correlation() -> None:
    one, two = values(12, 1), values(12, 1, seed=1)
    expected = oracle.pearsonr(one[:, 0].numpy(), two[:, 0].numpy()).statistic ** 2
    assert linear_cka(one, two) == pytest.approx(expected)


def test_cka_is_the_normalised_sum_of_squared_covariances_and_blind_to_turns() -> None:
    one, two = values(12, 6), values(12, 5, seed=1)
    covariance = np.cov(np.hstack([one, two]).T)
    cross, own, other = covariance[:6, 6:], covariance[:6, :6], covariance[6:, 6:]
    expected = np.square(cross).sum() / np.sqrt(np.square(own).sum() * np.square(other).sum())
    assert linear_cka(one, two) == pytest.approx(expected)
    turn = torch.from_numpy(oracle.special_ortho_group.rvs(6, random_state=0))
    assert linear_cka(one, 3 * one @ turn + 5) == pytest.approx(1)
    assert math.isnan(linear_cka(one, torch.ones(12, 2)))


def test_a_difference_of_independent_values_covers_the_truth() -> None:
    """Of two means, each with its own 95% interval."""
    drawn = np.random.default_rng(0)
    one, two = (drawn.normal(at, spread, 4000) for at, spread in ((2.0, 1.0), (0.5, 0.5)))
    found = [
        difference(Interval(a, a - 1.96, a + 1.96), Interval(b, b - 0.98, b + 0.98))
        for a, b in zip(one, two, strict=True)
    ]
    assert np.mean([each.low <= 1.5 <= each.high for each in found]) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("above", [(3.0, 1.0), (0.4, 1.0), (-0.4, 1.0), (-3.0, 1.0), (0.0, 0.5), (2.0, 0.0)])
def test_a_quotient_of_values_with_even_arms_is_fiellers(above: tuple[float, float]) -> None:
    """Fieller (1940): those q for which (a - q b)^2 is at most the square of the arm of a - q b; here as roots."""
    (a, arm), (b, other) = above, (4.0, 1.5)
    roots = np.sort(np.roots([b**2 - other**2, -2 * a * b, a**2 - arm**2]).real)
    found = quotient(Interval(a, a - arm, a + arm), Interval(b, b - other, b + other))
    assert found == pytest.approx((a / b, *roots))


@given(st.floats(-3, 3), *[st.floats(0.01, 3)] * 5)
def test_a_quotient_ends_where_the_difference_from_its_multiple_does(
    a: float, below: float, above: float, b: float, down: float, up: float
) -> None:
    one, other = Interval(a, a - below, a + above), Interval(b + down, b, b + down + up)
    found = quotient(one, other)
    for end, at in ((found.low, 1), (found.high, 2)):
        multiple = Interval(end * other.value, *sorted((end * other.low, end * other.high)))
        assert difference(one, multiple)[at] == pytest.approx(0, abs=1e-9 * (1 + abs(end)) * 10)
    assert found.low <= found.value <= found.high


def test_a_quotient_of_what_may_be_nothing_is_no_number() -> None:
    for below in (Interval(1 / 30, -0.03, 0.09), Interval(0.1, 0.0, 0.2), Interval(-0.2, -0.3, -0.1), NOTHING):
        assert all(map(math.isnan, quotient(Interval(0.4, 0.02, 0.65), below)))
    assert all(map(math.isnan, quotient(NOTHING, Interval(1.0, 0.5, 1.5))))


@pytest.mark.parametrize("n", [30, 100])
def test_a_quotient_of_independent_drops_covers_the_truth(n: int) -> None:
    """Half of the 40% that were lost come back, on other prompts."""
    drawn, hits, draws = torch.Generator().manual_seed(0), 0, 1500
    right = torch.ones(n, dtype=torch.bool)
    for _ in range(draws):
        lost, gained = (torch.rand(n, generator=drawn) < share for share in (0.4, 0.2))
        found = quotient(paired_drop(gained, ~right), paired_drop(right, ~lost))
        hits += found.low <= 0.5 <= found.high
    assert 0.94 < hits / draws < 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2000,), (2000, 3, 2), (7, 4), (1, 2)])
def test_ends_of_intervals_are_torchs_quantiles_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    levels = (0.025, 0.975)
    assert torch.equal(_quantiles(draws, levels), torch.quantile(draws, torch.tensor(levels, dtype=dtype), dim=0))
    draws[0] = torch.nan
    assert _quantiles(draws, levels).isnan().all()


def test_a_statistic_of_few_groups_is_computed_once_per_distinct_draw() -> None:
    seen: list[int] = []

    def mean(columns: Mapping[str, np.ndarray]) -> float:
        seen.append(1)
        return float(columns["value"].mean())

    columns = {"value": np.arange(12.0)}
    groups = np.repeat([*"abcdef"], 2)
    found = bootstrap_groups(columns, groups, mean)
    assert len(seen) <= 1 + 462  # multisets of six of six groups
    picks = np.random.default_rng(0).integers(6, size=(RESAMPLES, 6))
    means = columns["value"].reshape(6, 2).mean(1)[picks].mean(1)
    tail = oracle.norm.cdf(-oracle.t.ppf(0.975, 5) * math.sqrt(6 / 5))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [tail, 1 - tail])))


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 49, 500])
def test_quantiles_of_students_t_are_scipys(df: int) -> None:
    for probability in (0.6, 0.95, 0.9875, 0.99999):
        assert t_quantile(probability, df) == pytest.approx(oracle.t.ppf(probability, df), rel=1e-9)
