"""The verdict's rule, and the numbers with intervals that go into it, by hand."""

import math

import pytest
import torch

import ivlens
from ivlens.checkpoints import CheckpointConfig, VerdictRule
from ivlens.checkpoints.summary import recovered_fraction
from ivlens.checkpoints.verdict import decide_verdict
from ivlens.records import ConditionComparison
from ivlens.stats import Interval, cosine, jackknife, linear_cka, paired_drop, ratio_of_means, spearman
from ivlens.vocabulary import Condition, Verdict

NAN = Interval(math.nan, math.nan, math.nan)
FELL, HELD = Interval(0.5, 0.3, 0.7), Interval(0.0, -0.05, 0.05)


@pytest.mark.parametrize(
    ("accuracy", "drop", "recovered", "knowledge", "expected"),
    [
        (0.2, FELL, (1.0, 0.9, 1.1), NAN, "not an ability of the base"),
        (0.9, HELD, NAN, NAN, "kept"),
        (0.9, (0.1, -0.02, 0.2), (1.0, 0.9, 1.1), NAN, "undecided"),
        (0.9, FELL, (0.8, 0.6, 1.0), (0.1, 0.0, 0.2), "activation drowned, recoverable"),
        (0.9, FELL, (0.6, 0.4, 0.8), NAN, "undecided"),
        (0.9, FELL, NAN, NAN, "undecided"),
        (0.9, FELL, (0.1, 0.0, 0.3), (0.2, 0.1, 0.3), "knowledge lost"),
        (0.9, FELL, (0.1, 0.0, 0.3), (0.9, 0.8, 1.0), "function changed"),
        (0.9, FELL, (0.1, 0.0, 0.3), (0.5, 0.3, 0.7), "undecided"),
        (0.9, FELL, (0.1, 0.0, 0.3), NAN, "function changed"),
    ],
)
def test_each_branch_of_the_rule(
    accuracy: float, drop: tuple, recovered: tuple, knowledge: tuple, expected: str
) -> None:
    intervals = Interval(*drop), Interval(*recovered), Interval(*knowledge)
    verdict, because = decide_verdict(accuracy, *intervals, VerdictRule())
    assert verdict is Verdict(expected)
    assert f"{accuracy:.2f}" in because or f"{drop[0]:.2f}" in because


def test_thresholds_move_the_verdict() -> None:
    drop, recovered = Interval(0.2, 0.12, 0.28), Interval(0.4, 0.35, 0.45)
    assert decide_verdict(0.9, drop, recovered, NAN, VerdictRule(tolerated=0.3))[0] == "kept"
    assert decide_verdict(0.9, drop, recovered, NAN, VerdictRule(recovered=0.3))[0] == "activation drowned, recoverable"
    with pytest.raises(ivlens.ArgumentError, match="tolerated"):
        VerdictRule(tolerated=1.5)


def test_a_paired_drop_counts_the_prompts_that_changed() -> None:
    base, now = torch.tensor([True] * 8 + [False] * 2), torch.tensor([True] * 5 + [False] * 4 + [True])
    value, low, high = paired_drop(base, now)
    assert value == pytest.approx(0.2)  # three lost, one won, of ten
    middle, half = 2 / 12, 1.96 * math.sqrt(5 - 4 / 12) / 12
    assert (low, high) == pytest.approx((middle - half, middle + half))
    same = paired_drop(base, base)
    assert same[0] == 0
    assert same[1] < 0 < same[2]


def recovery(bare: torch.Tensor, steered: torch.Tensor) -> ConditionComparison:
    """Bare prompts, and those with the base's vector, as they are answered."""
    conditions = (Condition.BASE_VECTOR.value, Condition.BARE.value)
    return ConditionComparison(torch.stack([steered, bare]), torch.zeros(2, len(bare)).double(), conditions)


def test_fractions_are_ratios_of_means_with_their_intervals() -> None:
    yes, no = torch.ones(20, dtype=torch.bool), torch.zeros(20, dtype=torch.bool)
    half = torch.arange(20) < 10
    value, low, high = recovered_fraction(recovery(no, half), recovery(no, yes))
    assert value == 0.5
    assert 0.2 < low < 0.5 < high < 0.8
    assert recovered_fraction(recovery(no, yes), recovery(no, yes)) == (1, 1, 1)
    assert math.isnan(recovered_fraction(recovery(no, yes), recovery(no, no)).value)
    probabilities = torch.linspace(0.1, 0.9, 20)
    assert ratio_of_means(probabilities / 4, probabilities) == pytest.approx((0.25, 0.25, 0.25))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    base, now = torch.zeros(5, 1).double(), torch.tensor([[1.0], [2.0], [3.0], [4.0], [10.0]]).double()
    value, low, high = jackknife(base, now, lambda one, two: (two - one)[0])
    error = now.std().item() / math.sqrt(5)
    assert (value, low, high) == pytest.approx((4, 4 - 2 * error, 4 + 2 * error))
    assert cosine(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])).item() == pytest.approx(math.sqrt(0.5))


def test_rank_correlation_and_cka() -> None:
    one = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert spearman(one, one**3) == pytest.approx(1)
    assert spearman(one, -one) == pytest.approx(-1)
    assert spearman(one, torch.tensor([[2.0, 1.0], [3.0, 4.0]])) == pytest.approx(0.8)
    states = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).Q
    assert linear_cka(states, 3 * states @ turn + 5) == pytest.approx(1, abs=1e-5)  # blind to turns, scale and shift
    other = torch.randn(12, 6, generator=torch.Generator().manual_seed(2))
    assert linear_cka(states, other) < 0.8


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"groups": 1}, "groups"), ({"n_clean": 0}, "n_clean"), ({"groups": 50}, "groups"), ({"scales": ()}, "scales"),
     ({"steps": 2}, "steps"), ({"method": "loop", "stream_dtype": torch.float64}, "stream_dtype")],
)  # fmt: skip
def test_a_setting_outside_its_values_is_named(settings: dict, named: str) -> None:
    with pytest.raises(ivlens.ArgumentError, match=named):
        CheckpointConfig(**settings)
    with pytest.raises(ivlens.ArgumentError, match="layers"):
        CheckpointConfig(layers=(40,)).tried_layers(30)
