"""Terms of the objective against values computed by hand, and their gradients numerically."""

import math

import pytest
import torch

from ivlens.training.objective import consistency, cross_entropy, divergence, floored, pull_back, remaining

P, Q = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
KL = 0.5 * math.log(2) - 0.25 * math.log(2)  # KL(P || Q); by symmetry that of Q and P as well
SKEW = torch.tensor([0.8, 0.1, 0.1]).double()
KL_SKEW = 0.8 * math.log(0.8 / 0.25) + 0.1 * math.log(0.1 / 0.25) + 0.1 * math.log(0.1 / 0.5)
KL_WEKS = 0.25 * math.log(0.25 / 0.8) + 0.25 * math.log(0.25 / 0.1) + 0.5 * math.log(0.5 / 0.1)


def test_cross_entropy_is_the_negative_log_probability_of_each_target() -> None:
    logits = torch.stack([P.log() + 3, Q.log() - 1])  # constants do not matter
    expected = torch.tensor([math.log(4), math.log(2)]).double()
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([1, 2])), expected)


def test_kl_by_hand_and_its_direction() -> None:
    teacher, student = torch.stack([P, SKEW]).log(), torch.stack([Q, Q]).log()
    forward = divergence(teacher, student)
    torch.testing.assert_close(forward, torch.tensor([KL, KL_SKEW]).double())
    reverse = divergence(teacher, student, direction="reverse")
    torch.testing.assert_close(reverse, torch.tensor([KL, KL_WEKS]).double())


def test_temperature_flattens_and_its_square_scales() -> None:
    teacher, student = SKEW.log()[None], Q.log()[None]
    flat = [p.sqrt() / p.sqrt().sum() for p in (SKEW, Q)]  # temperature 2 is a square root
    expected = (flat[0] * (flat[0] / flat[1]).log()).sum()
    torch.testing.assert_close(divergence(teacher, student, temperature=2.0)[0], expected)
    squared = divergence(teacher, student, temperature=2.0, temperature_squared=True)[0]
    torch.testing.assert_close(squared, 4 * expected)


def test_consistency_sums_or_averages_the_squares() -> None:
    z, base = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    z[0, 1] = torch.tensor([1.0, 2.0, 0.0, 0.0])
    assert consistency(z, base).tolist() == [5.0, 0.0]
    assert consistency(z, base, "mean").tolist() == pytest.approx([5 / 12, 0.0])


def test_a_term_below_its_floor_neither_counts_nor_pushes() -> None:
    value = torch.tensor(0.05, requires_grad=True)
    assert not floored(value, 0.1).requires_grad
    assert floored(value, 0.1).item() == 0
    assert floored(value, 0.01) is value


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [1, 0.5, 0]), ("cosine", [1, 0.5, 0]), ("constant", [1, 1, 1])],
)
def test_schedules_start_whole_and_end_at_nothing(schedule: str, expected: list[float]) -> None:
    assert [remaining(schedule, step, 10) for step in (0, 5, 10)] == pytest.approx(expected)


def test_cosine_is_not_linear() -> None:
    assert remaining("cosine", 1, 10) == pytest.approx((1 + math.cos(math.pi / 10)) / 2)


def test_pull_back_moves_a_fraction_of_the_way() -> None:
    weight, anchor = torch.tensor([4.0, -2.0]), torch.tensor([0.0, 0.0])
    pull_back([weight], [anchor], 0.25)
    assert weight.tolist() == [3.0, -1.5]
    pull_back([weight], [anchor], 7.0)  # never past the anchor
    assert weight.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("options", [{}, {"direction": "reverse"}, {"temperature": 2.0, "temperature_squared": True}])
def test_gradients_numerically(options: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda logits: divergence(teacher, logits, **options), student)
    assert torch.autograd.gradcheck(lambda logits: cross_entropy(logits, torch.tensor([0, 4, 2])), student)
    z = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: consistency(z, torch.zeros_like(z)), z)
