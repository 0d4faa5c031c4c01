"""The verdict's rule, and the numbers with intervals that go into it, by hand."""

import math
from statistics import NormalDist, fmean

import pytest
import torch

import ivlens
from ivlens.checkpoints import CheckpointConfig, VerdictRule
from ivlens.checkpoints.summary import recovered_fraction
from ivlens.checkpoints.verdict import (
    KNOWLEDGE,
    RELEARNED,
    SPILLOVER,
    SUBTRACTED,
    VECTOR,
    BaseAnswers,
    Evidence,
    decide_verdict,
    evidence_of,
    judge,
)
from ivlens.records import ConditionComparison
from ivlens.stats import (
    Interval,
    change_over_tasks,
    cosine,
    jackknife,
    linear_cka,
    paired_drop,
    prompts_to_decide,
    ratio_over_tasks,
    spearman,
)
from ivlens.vocabulary import Condition, Verdict

NAN = Interval(math.nan, math.nan, math.nan)
THERE, GONE, UNSURE = Interval(0.8, 0.6, 1.0), Interval(0.1, 0.0, 0.3), Interval(0.4, 0.2, 0.6)
FELL, HELD = Interval(0.5, 0.3, 0.7), Interval(0.0, -0.05, 0.05)


def kinds(
    recovered: tuple = NAN, knowledge: tuple = NAN, subtracted: tuple = NAN, relearned: tuple = NAN,
    spillover: tuple = NAN,
) -> list[Evidence]:  # fmt: skip
    """The kinds of evidence with these fractions, from 30 prompts, under the default thresholds."""
    found = {VECTOR: recovered, SUBTRACTED: subtracted, RELEARNED: relearned, KNOWLEDGE: knowledge,
             SPILLOVER: spillover}  # fmt: skip
    return [Evidence(kind, Interval(*fraction), 0.5, 30) for kind, fraction in found.items()]


@pytest.mark.parametrize(
    ("accuracy", "drop", "recovered", "knowledge", "expected"),
    [
        (0.2, FELL, (1.0, 0.9, 1.1), NAN, "not an ability of the base"),
        (0.9, HELD, NAN, NAN, "kept"),
        (0.9, (0.1, -0.02, 0.2), (1.0, 0.9, 1.1), NAN, "not shown to have fallen"),
        (0.9, FELL, (0.8, 0.6, 1.0), (0.1, 0.0, 0.2), "activation drowned, recoverable"),
        (0.9, FELL, (0.6, 0.4, 0.8), NAN, "fallen, recovery undecided"),
        (0.9, FELL, NAN, NAN, "fallen, recovery undecided"),
        (0.9, FELL, (0.1, 0.0, 0.3), (0.2, 0.1, 0.3), "knowledge lost"),
        (0.9, FELL, (0.1, 0.0, 0.3), (0.9, 0.8, 1.0), "function changed"),
        (0.9, FELL, (0.1, 0.0, 0.3), (0.5, 0.3, 0.7), "fallen, recovery undecided"),
        (0.9, FELL, (0.1, 0.0, 0.3), NAN, "function changed"),
    ],
)
def test_each_branch_of_the_rule(
    accuracy: float, drop: tuple, recovered: tuple, knowledge: tuple, expected: str
) -> None:
    verdict, because, _ = decide_verdict(
        BaseAnswers(accuracy, 0.8), Interval(*drop), kinds(recovered, knowledge), VerdictRule(), n=100
    )
    assert verdict is Verdict(expected)
    assert f"{accuracy:.0%}" in because or f"by {100 * drop[0]:.0f} points" in because


def test_few_prompts_do_not_show_that_the_base_lacks_an_ability() -> None:
    """2 of 10: from 6% to 51%. A fall is a fall; no fall is not shown to be one."""
    level, fell = Interval(0.0, -0.2, 0.2), Interval(0.2, 0.12, 0.5)
    verdict, because, needed = decide_verdict(BaseAnswers(0.2, 0.8), level, kinds(THERE), VerdictRule(), n=10)
    assert verdict is Verdict.UNSHOWN
    assert because.startswith("the base's accuracy is 20% (6% to 51%); an ability of the base has 30% or more")
    assert needed is not None
    assert 90 < needed < 110  # 51% is three times as far from 20% as 30% is
    assert decide_verdict(BaseAnswers(0.2, 0.8), HELD, kinds(), VerdictRule(), n=10).verdict is Verdict.UNSHOWN
    assert decide_verdict(BaseAnswers(0.2, 0.8), fell, kinds(THERE), VerdictRule(), n=10).verdict is Verdict.DROWNED
    assert decide_verdict(BaseAnswers(0.2, 0.8), fell, kinds(THERE), VerdictRule(), n=100).verdict is Verdict.UNKNOWN
    assert decide_verdict(BaseAnswers(0.3, 0.8), HELD, kinds(), VerdictRule(), n=10).verdict is Verdict.KEPT
    assert decide_verdict(BaseAnswers(math.nan, 0.8), HELD, kinds(), VerdictRule(), n=10).verdict is Verdict.UNSHOWN
    assert "no number of prompts" in decide_verdict(BaseAnswers(0.2999, 0.8), HELD, kinds(), VerdictRule(), n=3).because


@pytest.mark.parametrize(
    ("accuracy", "n", "chance", "drop", "expected"),
    [
        (0.4, 100, 0.5, HELD, Verdict.UNKNOWN), (0.4, 100, 0.5, Interval(*FELL), Verdict.UNKNOWN),
        (0.5, 100, 0.5, HELD, Verdict.UNSHOWN), (1 / 3, 30, fmean([1 / 3] * 30), HELD, Verdict.UNSHOWN),
        (0.58, 100, 0.5, HELD, Verdict.UNSHOWN), (0.58, 100, 0.5, Interval(*FELL), Verdict.UNSHOWN),
        (0.7, 100, 0.5, HELD, Verdict.KEPT), (0.5, 100, 0.25, HELD, Verdict.KEPT),
        (0.5, 100, 0.0, HELD, Verdict.KEPT), (0.5, 100, math.nan, HELD, Verdict.KEPT),
        (0.2, 100, 0.1, HELD, Verdict.UNKNOWN),
    ],
)  # fmt: skip
def test_what_guesses_among_options_would_answer_is_neither_kept_nor_lost(
    accuracy: float, n: int, chance: float, drop: Interval, expected: Verdict
) -> None:
    found = decide_verdict(BaseAnswers(accuracy, 0.8, chance=chance), drop, kinds(THERE), VerdictRule(), n=n)
    assert found.verdict is expected
    guessed = expected is Verdict.UNSHOWN or accuracy == 0.4
    assert (f"and guesses would have {chance:.0%}; it fell by" in found.because) == guessed
    assert (found.needed is not None) == (accuracy == 0.58)


def test_thresholds_move_the_verdict() -> None:
    drop, recovered = Interval(0.2, 0.12, 0.28), Interval(0.4, 0.35, 0.45)
    lower = [Evidence(VECTOR, recovered, 0.3, 30)]
    assert decide_verdict(BaseAnswers(0.9, 0.8), drop, kinds(recovered), VerdictRule(tolerated=0.3))[0] == "kept"
    assert decide_verdict(BaseAnswers(0.9, 0.8), drop, kinds(recovered), VerdictRule())[0] == "function changed"
    assert decide_verdict(BaseAnswers(0.9, 0.8), drop, lower, VerdictRule())[0] == "activation drowned, recoverable"
    with pytest.raises(ivlens.ArgumentError, match="tolerated"):
        VerdictRule(tolerated=1.5)


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (kinds(GONE, subtracted=THERE), "activation drowned, recoverable"),  # one that restores it is enough
        (kinds(GONE, relearned=THERE), "activation drowned, recoverable"),
        (kinds(UNSURE, subtracted=GONE), "fallen, recovery undecided"),
        (kinds(UNSURE, spillover=THERE), "activation drowned, recoverable"),
        (kinds(UNSURE, spillover=UNSURE), "fallen, recovery undecided"),
        (kinds(UNSURE, knowledge=THERE), "fallen, recovery undecided"),  # knowledge says nothing about the function
        (kinds(GONE, spillover=THERE), "function changed"),
        (kinds(GONE, subtracted=GONE, knowledge=GONE), "knowledge lost"),
        (kinds(spillover=THERE, knowledge=THERE), "fallen, recovery undecided"),
        (kinds(subtracted=GONE, knowledge=THERE), "function changed"),
    ],
)
def test_the_kinds_of_evidence_stand_side_by_side(evidence: list[Evidence], expected: str) -> None:
    verdict, because, _ = decide_verdict(BaseAnswers(0.9, 0.8), FELL, evidence, VerdictRule(), n=30)
    assert verdict == expected
    measured = [each for each in evidence if not math.isnan(each.fraction.value)]
    assert all(str(each) in because for each in measured)
    decided = {each.opinion for each in measured} - {"undecided"}
    count = sum(each.opinion != "undecided" for each in measured)
    assert ("these agree" in because) == (count > 1 and len(decided) == 1)
    assert ("these disagree" in because) == (len(decided) > 1)


@pytest.mark.parametrize(
    ("fraction", "in_probability", "expected"),
    [
        (UNSURE, (0.3, 0.2, 0.45), "not there"),
        (UNSURE, (0.7, 0.6, 0.8), "undecided"),  # the two differ
        (UNSURE, (0.45, 0.3, 0.6), "undecided"),
        (UNSURE, NAN, "undecided"),
        ((0.6, 0.4, 0.8), (0.7, 0.6, 0.8), "still there"),
        (THERE, (0.1, 0.0, 0.2), "still there"),  # accuracy is enough where it decides
        (NAN, (0.7, 0.6, 0.8), "not measured"),
    ],
)
def test_the_answers_probability_decides_where_a_fraction_of_accuracy_does_not(
    fraction: tuple, in_probability: tuple, expected: str
) -> None:
    evidence = Evidence(VECTOR, Interval(*fraction), 0.5, 30, Interval(*in_probability))
    assert evidence.opinion == expected
    decides = fraction not in (NAN, THERE) and expected != "undecided"
    assert ("in probability" in str(evidence)) == decides
    assert (evidence.needed is None) == (expected != "undecided")


def test_undecided_says_how_many_prompts_would_decide() -> None:
    """Halving an interval takes four times the prompts."""
    straddling = Interval(0.3, 0.05, 0.55)
    below = kinds(UNSURE, subtracted=(0.1, -0.6, 0.7))  # 30 times 4, and times 2.25: both must say "not there"
    assert decide_verdict(BaseAnswers(0.9, 0.8), FELL, below, VerdictRule()).because.endswith(
        "; about 120 prompts would decide it"
    )
    above = kinds(UNSURE, subtracted=(0.7, 0.4, 1.0))  # one that says "still there" is enough
    assert decide_verdict(BaseAnswers(0.9, 0.8), FELL, above, VerdictRule()).because.endswith(
        "; about 68 prompts would decide it"
    )
    level = kinds(UNSURE, subtracted=(0.5, 0.4, 0.6))
    assert decide_verdict(BaseAnswers(0.9, 0.8), FELL, level, VerdictRule()).because.endswith(
        "no number of prompts would decide it at this value"
    )
    said = decide_verdict(BaseAnswers(0.9, 0.8), straddling, [], VerdictRule(), n=30)
    assert said.verdict == "not shown to have fallen"
    assert said.needed == said.columns()["prompts_to_decide"] == 47
    assert said.because.endswith("; about 47 prompts would decide it")
    assert prompts_to_decide(straddling, 30, 0.1) == math.ceil(30 * (0.25 / 0.2) ** 2)
    assert prompts_to_decide(Interval(0.0, -0.1, 0.2), 30, 0.1) == 120
    assert prompts_to_decide(Interval(0.1, 0.0, 0.2), 30, 0.1) is None
    assert prompts_to_decide(NAN, 30, 0.1) is None
    exactly = decide_verdict(BaseAnswers(0.9, 0.8), Interval(0.1, 0.0, 0.2), [], VerdictRule(), n=30)
    assert exactly.because.endswith("no number of prompts would decide it at this value")


@pytest.mark.parametrize(
    ("drop", "fall", "expected"),
    [
        ((0.15, 0.05, 0.25), (0.2, 0.15, 0.25), "function changed"),
        ((0.05, -0.05, 0.15), (0.02, 0.0, 0.04), "kept"),
        ((0.07, -0.05, 0.15), (0.02, 0.0, 0.04), "not shown to have fallen"),  # accuracy fell by more than half of 10
        ((0.15, 0.05, 0.25), (0.02, 0.0, 0.04), "not shown to have fallen"),  # the two differ
        ((0.15, 0.05, 0.25), (0.15, 0.05, 0.25), "not shown to have fallen"),
        ((0.15, 0.05, 0.25), NAN, "not shown to have fallen"),
        ((0.05, -0.05, 0.09), (0.3, 0.2, 0.4), "kept"),  # accuracy is enough where it decides
    ],
)
def test_the_answers_probability_decides_whether_accuracy_fell(drop: tuple, fall: tuple, expected: str) -> None:
    evidence = kinds(GONE, knowledge=THERE)
    verdict = decide_verdict(
        BaseAnswers(0.9, 0.8), Interval(*drop), evidence, VerdictRule(), n=30, probability_fall=Interval(*fall)
    )
    assert verdict[0] == expected


@pytest.mark.parametrize(
    ("base", "fall", "expected"),
    [
        (BaseAnswers(0.8, 0.04), (0.04, 0.03, 0.05), "not shown to have fallen"),  # all of it is gone
        (BaseAnswers(0.8, 0.04), (0.0, -0.01, 0.01), "not shown to have fallen"),  # too little to decide
        (BaseAnswers(0.8, 0.29), (0.0, -0.01, 0.01), "not shown to have fallen"),
        (BaseAnswers(0.8, 0.3), (0.0, -0.01, 0.01), "kept"),
        (BaseAnswers(0.8, 0.32), (0.03, 0.01, 0.04), "not shown to have fallen"),  # 4 of 32 are 10 of 80
        (BaseAnswers(0.8, 0.31), (0.014, 0.0, 0.024), "not shown to have fallen"),  # 4 (0 to 10) of 80
        (BaseAnswers(0.8, 0.7), (0.014, 0.0, 0.024), "kept"),  # 2 (-5 to 8) of 80
        (BaseAnswers(0.8), (0.0, -0.01, 0.01), "not shown to have fallen"),
    ],
)
def test_a_probability_that_cannot_fall_far_is_no_reason_for_kept(
    base: BaseAnswers, fall: tuple, expected: str
) -> None:
    drop = Interval(0.03, -0.05, 0.12)
    found = decide_verdict(base, drop, [], VerdictRule(), n=30, probability_fall=Interval(*fall))
    assert found.verdict == expected
    assert ("too little for it to decide" in found.because) == (not base.probability >= 0.3)


def share_kept(true_drop: float, change: str, *, n: int = 30, draws: int = 400) -> tuple[float, float]:
    """How often the verdict is kept, by accuracy alone and with the answers' probability.

    An answer is right where its margin, normal around 2.5, is positive, and has the margin's probability. All margins
    shrink by what makes accuracy drop by ``true_drop``; or as many prompts are lost whole, at random or the weakest.
    """
    generator, normal, counts = torch.Generator().manual_seed(0), NormalDist(2.5, 2.0), [0, 0]
    by = normal.inv_cdf(normal.cdf(0) + true_drop)
    for _ in range(draws):
        margin = 2.5 + 2 * torch.randn(n, generator=generator, dtype=torch.float64)
        at_random = torch.rand(n, generator=generator) < true_drop / (1 - normal.cdf(0))
        lost = (margin > 0) & (margin < by) if change == "weakest lost" else at_random
        now = margin - by if change == "all shrink" else torch.where(lost, -5.0, margin)
        drop, fall = paired_drop(margin > 0, now > 0), change_over_tasks([now.sigmoid()], [margin.sigmoid()])
        base = BaseAnswers((margin > 0).double().mean().item(), margin.sigmoid().mean().item())
        for at, second in enumerate((NAN, fall)):
            found = decide_verdict(base, drop, [], VerdictRule(), n=n, probability_fall=second)
            counts[at] += found.verdict is Verdict.KEPT
    return counts[0] / draws, counts[1] / draws


def test_probability_finds_more_that_is_kept_and_hardly_more_that_is_not() -> None:
    alone, with_probability = share_kept(0.02, "all shrink")
    assert with_probability > alone + 0.2
    # the weakest answers, whose probability is less than that of others, can be lost with less of a fall
    for change, true_drop, more in (
        ("all shrink", 0.1, 0.01), ("all shrink", 0.15, 0.01), ("some lost", 0.1, 0.05), ("some lost", 0.15, 0.02),
        ("weakest lost", 0.1, 0.12), ("weakest lost", 0.15, 0.03),
    ):  # fmt: skip
        alone, with_probability = share_kept(true_drop, change)
        assert alone <= with_probability < alone + more


def lost_all(**columns: float) -> dict:
    """A row whose accuracy fell, whose vector restores nothing, and whose cloze lost four fifths."""
    row = {"n": 30, "accuracy": 0.2, **columns}
    for name, ends in {"forgetting": FELL, "recovered_fraction": GONE, "knowledge_fraction": (0.2, 0.19, 0.21)}.items():
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    return row


@pytest.mark.parametrize(
    ("knowledge", "knew", "expected"),
    [(1e-5, 0.05, "function changed"), (0.04, 0.05, "function changed"), (0.06, 0.05, "knowledge lost"),
     (0.04, 0.03, "knowledge lost")],
)  # fmt: skip
def test_what_the_base_never_knew_is_not_lost(knowledge: float, knew: float, expected: str) -> None:
    base, rule = {"accuracy": 0.8, "probability": 0.7, "knowledge": knowledge}, VerdictRule(knew=knew)
    decision = judge(lost_all(), base, rule)
    assert decision.verdict == expected
    never = expected == "function changed"
    assert (f"had a probability of {knowledge:.2g} on the base" in decision.because) == never
    assert ("without instruction the answer has 20%" in decision.because) == (not never)
    (found,) = (each for each in evidence_of(lost_all(), base, rule) if each.kind == KNOWLEDGE)
    assert found.opinion == ("not measured" if never else "not there")


def test_relearning_is_from_its_own_number_of_prompts() -> None:
    base, fraction = {"accuracy": 0.8}, dict(zip(("", "_low", "_high"), UNSURE, strict=True))
    row = lost_all(**{f"relearned_fraction{end}": value for end, value in fraction.items()})
    for n, more in ((30, {}), (30, {"relearned_n": math.nan}), (12, {"relearned_n": 12.0})):
        (found,) = (each for each in evidence_of(row | more, base, VerdictRule()) if each.kind == RELEARNED)
        assert found.n == n
        assert found.needed == 4 * n


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
    assert 0.1 < low < 0.5 < high < 0.9
    value, low, high = recovered_fraction(recovery(no, yes), recovery(no, yes))
    assert 0.5 < low < value == 1 < high < 1.5  # all of twenty, which is not all of any number
    assert math.isnan(recovered_fraction(recovery(no, yes), recovery(no, no)).value)
    probabilities = torch.linspace(0.1, 0.9, 20)
    assert ratio_over_tasks([probabilities / 4], [probabilities]) == pytest.approx((0.25, 0.25, 0.25))


def test_the_jackknife_of_a_mean_is_students_t() -> None:
    base, now = torch.zeros(5, 1).double(), torch.tensor([[1.0], [2.0], [3.0], [4.0], [10.0]]).double()
    value, low, high = jackknife(base, now, lambda one, two: (two - one)[0])
    half = 2.776445 * now.std().item() / math.sqrt(5)
    assert (value, low, high) == pytest.approx((4, 4 - half, 4 + half))
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


def test_what_is_no_ability_of_the_base_says_from_when_it_is_and_what_may_help() -> None:
    decision = decide_verdict(BaseAnswers(0.2, 0.8), FELL, [], VerdictRule(), n=100)
    assert decision.because == (
        "the base's accuracy is 20% (13% to 29%); an ability of the base has 30% or more. "
        "More demonstrations or an instruction may help"
    )


def test_a_verdict_says_in_which_unit_the_probability_decides() -> None:
    base, drop, fall = BaseAnswers(0.9, 0.5), Interval(0.03, -0.06, 0.12), Interval(0.06, 0.04, 0.08)
    found = decide_verdict(base, drop, [], VerdictRule(), n=40, probability_fall=fall)
    assert found.verdict is Verdict.UNSHOWN
    assert "fell by 6 points (4 to 8), in accuracy's unit by 11 points (5 to 17)" in found.because
    nothing = decide_verdict(BaseAnswers(0.3, 0.0), drop, [], VerdictRule(known=0), n=40, probability_fall=fall)
    assert "from 0%, too little" in nothing.because


def test_knowledge_of_too_few_prompts_is_undecided_not_unmeasured() -> None:
    few = Evidence("knowledge", Interval(0.02, math.nan, math.nan), 0.5, 4)
    gone = Evidence("relearning", Interval(0.05, -0.1, 0.2), 0.5, 40)
    found = decide_verdict(BaseAnswers(0.9, 0.8, 0.8), FELL, [few, gone], VerdictRule(), n=4)
    assert found.verdict is Verdict.OPEN
    assert "2% (too few prompts for an interval)" in found.because
    assert found.needed is None
