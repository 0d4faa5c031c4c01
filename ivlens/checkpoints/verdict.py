"""What became of an ability: a documented rule on numbers with intervals, the kinds of evidence side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, isnan, nan
from typing import Any, NamedTuple, Self

from ..checks import Fraction, checked
from ..records.abilities import ABILITY
from ..records.claims import KNOWN
from ..records.tables import interval_in
from ..stats import NOTHING, Interval, prompts_to_decide, wilson_interval
from ..vocabulary import Opinion, Verdict


@checked
@dataclass(frozen=True)
class VerdictRule:
    """Thresholds of the verdict on a task, all of them fractions from 0 to 1.

    1. The base answers less than ``known`` of the prompts, with its whole interval, or where there is a choice less
       than guesses would: not an ability of the base. Where only the interval reaches ``known``, a fall is one, and no
       fall is not shown to be one; where the interval holds what guesses would answer, neither is.
    2. The drop of accuracy lies below ``tolerated`` with its whole interval: kept; above it: fallen. If the interval
       contains ``tolerated``, the answer's mean probability may decide. Fallen: accuracy dropped by more than
       ``tolerated``, and so did the probability, with its whole interval. Kept: the base's probability is ``known`` or
       more (a small one cannot fall far, and its mean hangs on few prompts); accuracy dropped by at most half of
       ``tolerated`` (a model that grows more certain of the rest keeps its mean probability while it forgets); and the
       fall of probability in accuracy's unit, as a fraction of the base's times the base's accuracy, lies below
       ``tolerated`` with its whole interval, one more lost prompt counted as in accuracy's. Else: not shown to have
       fallen.
    3. Kinds of evidence that restore the ability: the base's vector added to bare prompts (as a fraction of what it
       adds on the base), the new task's vector subtracted from clean ones, relearning from a few examples beyond what
       as many teach anew (both as a fraction of what was lost). Each says "still there" where its whole interval lies
       at or above ``recovered``, "not there" where it lies below; where the interval contains it, the same fraction of
       the answer's probability decides, if its whole interval lies on one side and the fraction of accuracy on the
       same. One that says "still there" is enough: the activation was drowned, the function is recoverable. So it is
       where one is undecided, and at least ``spilled`` of the wrong answers (whole interval) are the new task's or
       copies of the input: the new task is done in the old one's stead. One undecided without that, or none measured:
       fallen, recovery undecided.
    4. Otherwise, if knowledge (the cloze's probability, as a fraction of the base's) lies below ``remembered``:
       knowledge lost; above it, or unknown, for a task without a cloze or one whose cloze has less than ``knew`` on
       the base: function changed; on both sides: fallen, recovery undecided.

    The two open verdicts say about how many prompts would decide, if the values stayed what they are. A new rule is
    applied to the saved measures; nothing is measured again.

    Args:
        known: accuracy of the base from which a task counts as its ability, and probability from which it may decide.
        tolerated: drop of accuracy up to which an ability is kept.
        recovered: fraction of what was lost from which the function is still there.
        remembered: fraction of the base's knowledge probability from which the knowledge is still there.
        spilled: fraction of the wrong answers from which the new task is done in the old one's stead.
        knew: the base's mean probability of the cloze's answers from which it knew them, so that they can be lost.

    Raises:
        ArgumentError: naming the threshold that is outside 0 to 1.

    Example:
        >>> from ivlens.checkpoints import VerdictRule
        >>> iv.CheckpointConfig(rule=VerdictRule(tolerated=0.2)).rule.tolerated
        0.2
    """

    known: Fraction = ABILITY
    tolerated: Fraction = 0.1
    recovered: Fraction = 0.5
    remembered: Fraction = 0.5
    spilled: Fraction = 0.5
    knew: Fraction = KNOWN


class BaseAnswers(NamedTuple):
    """What the rule needs of the base: its accuracy, and the mean probability of its answers and of its cloze's.

    A probability that was not measured is not a number; ``chance`` is the accuracy of guessing.
    """

    accuracy: float
    probability: float = nan
    knowledge: float = nan
    chance: float = nan

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From the base's row of a comparison."""
        return cls(*(float(row.get(column, nan)) for column in cls._fields))

    def never_knew(self, rule: VerdictRule) -> bool:
        """Whether a cloze says that it did not know the answers, so that they cannot be lost."""
        return self.knowledge < rule.knew


class Decision(NamedTuple):
    """A verdict, a sentence with the numbers behind it, and where it is open, how many prompts would decide it.

    ``needed`` is None for a verdict that is not open, and where no number of prompts would decide.
    """

    verdict: Verdict
    because: str
    needed: int | None = None

    def columns(self) -> dict[str, Any]:
        """As a row of a comparison has them."""
        needed = nan if self.needed is None else float(self.needed)
        return {"verdict": self.verdict.value, "because": self.because, "prompts_to_decide": needed}


class Evidence(NamedTuple):
    """One kind of evidence: a fraction with its interval, the threshold it is held to, and its number of prompts.

    ``in_probability``: the same fraction of the answer's probability instead of accuracy, where there is one.
    """

    kind: str
    fraction: Interval
    threshold: float
    n: int
    in_probability: Interval = NOTHING

    @property
    def opinion(self) -> Opinion:
        """What it says."""
        if isnan(self.fraction.value):
            return Opinion.UNMEASURED
        said = _side(self.fraction, self.threshold)
        second = _side(self.in_probability, self.threshold)
        value = Opinion.THERE if self.fraction.value >= self.threshold else Opinion.GONE
        return second if said is Opinion.UNDECIDED and second is value else said

    @property
    def needed(self) -> int | None:
        """How many prompts would decide it, where it is undecided; None where no number would."""
        undecided = self.opinion is Opinion.UNDECIDED
        return prompts_to_decide(self.fraction, self.n, self.threshold) if undecided else None

    def __str__(self) -> str:
        said = SENTENCES[self.kind].format(_shown(self.fraction))
        decides = self.opinion not in (Opinion.UNMEASURED, _side(self.fraction, self.threshold))
        return f"{said}{f', in probability {_shown(self.in_probability)}' if decides else ''}: {self.opinion}"


def _side(interval: Interval, threshold: float) -> Opinion:
    """On which side of a threshold the whole interval lies; undecided also where it is unknown."""
    if interval.low >= threshold:
        return Opinion.THERE
    return Opinion.GONE if interval.high < threshold else Opinion.UNDECIDED


VECTOR, SUBTRACTED, RELEARNED = "base's vector added", "new task's vector subtracted", "relearning"
KNOWLEDGE, SPILLOVER = "knowledge", "spillover"
SENTENCES = {
    VECTOR: "the base's vector brings back {} of what it does on the base",
    SUBTRACTED: "subtracting the new task's vector brings back {} of what was lost",
    RELEARNED: "relearning brings back {} of what was lost, beyond what it teaches anew",
    KNOWLEDGE: "without instruction the answer has {} of its probability",
    SPILLOVER: "{} of the wrong answers are the new task's or copies of the input",
}
TOO_FEW = "too few prompts for an interval"
LEAST_PROBABILITY = 1e-9  # of the base, below which a fall is no fraction of it
MOST_PROMPTS = 100_000  # from which on a number that would decide is none
RESTORING = (VECTOR, SUBTRACTED, RELEARNED)
# kind of evidence: the column of its fraction, and the field of the rule that it is held to
COLUMNS = {
    VECTOR: ("recovered_fraction", "recovered"), SUBTRACTED: ("subtracted_fraction", "recovered"),
    RELEARNED: ("relearned_fraction", "recovered"), KNOWLEDGE: ("knowledge_fraction", "remembered"),
    SPILLOVER: ("spillover", "spilled"),
}  # fmt: skip


def evidence_of(row: Mapping[str, Any], base: Mapping[str, Any], rule: VerdictRule) -> list[Evidence]:
    """The kinds of evidence in a row of a comparison, measured or not; ``base`` is the base's row of the same task.

    A fraction of what the base never knew is as good as not measured.
    """
    n = int(row["n"])
    accuracy, relearned = float(row["accuracy"]), float(row.get("relearned_n", nan))
    counts = {
        SPILLOVER: 0 if isnan(accuracy) else n - round(n * accuracy),  # the wrong answers
        RELEARNED: n if isnan(relearned) else int(relearned),
    }
    found = [
        Evidence(kind, interval_in(row, column), getattr(rule, threshold), counts.get(kind, n),
                 interval_in(row, f"{column}_p"))
        for kind, (column, threshold) in COLUMNS.items()
    ]  # fmt: skip
    never_knew = BaseAnswers.of(base).never_knew(rule)
    return [each._replace(fraction=NOTHING) if never_knew and each.kind == KNOWLEDGE else each for each in found]


def judge(row: Mapping[str, Any], base: Mapping[str, Any], rule: VerdictRule) -> Decision:
    """The verdict on a row of a comparison; ``base`` is the base's row of the same task."""
    return decide_verdict(
        BaseAnswers.of(base), interval_in(row, "forgetting"), evidence_of(row, base, rule), rule, n=int(row["n"]),
        probability_fall=interval_in(row, "probability_fall"),
    )  # fmt: skip


def decide_verdict(
    base: BaseAnswers,
    drop: Interval,
    evidence: Sequence[Evidence],
    rule: VerdictRule,
    *,
    n: int = 1,
    probability_fall: Interval = NOTHING,
) -> Decision:
    """The verdict on a task by the four steps of ``VerdictRule``.

    Args:
        base: how the base answers.
        drop: accuracy of the base minus that of the checkpoint.
        evidence: the kinds of evidence, measured or not.
        rule: the thresholds.
        n: how many prompts there are.
        probability_fall: the answer's mean probability on the base minus that on the checkpoint.
    """
    measured = not isnan(base.accuracy)
    accuracy = Interval(base.accuracy, *wilson_interval(round(base.accuracy * n), n)) if measured else NOTHING
    ability = f"the base's accuracy is {_shown(accuracy)}; an ability of the base has {rule.known:.0%} or more"
    if accuracy.high < rule.known:
        return Decision(Verdict.UNKNOWN, f"{ability}. More demonstrations or an instruction may help")
    if base.chance > 0 and accuracy.low <= base.chance:
        return _guessed(accuracy, base.chance, drop, n)
    fall = _judge_fall(drop, probability_fall, base, rule, n)
    if fall.verdict is not Verdict.OPEN and accuracy.value >= rule.known:
        return fall
    if fall.verdict is not Verdict.OPEN:
        return _open(Verdict.UNSHOWN, ability, prompts_to_decide(accuracy, n, rule.known))
    found = [each for each in evidence if each.opinion is not Opinion.UNMEASURED]
    because = "; ".join([fall.because, *map(str, found)]) + _agreement(found)
    if base.never_knew(rule):
        because += f"; without instruction the answer had a probability of {base.knowledge:.2g} on the base, which"
        because += f" is no knowledge below {rule.knew:.2g}"
    return _on_evidence(because, {each.kind: each for each in found})


def _guessed(accuracy: Interval, chance: float, drop: Interval, n: int) -> Decision:
    """The verdict where the base may have guessed: what was guessed was not there to be lost."""
    because = (
        f"the base's accuracy is {_shown(accuracy)}, and guesses would have {chance:.0%}; it fell by {_points(drop)}"
    )
    if accuracy.high <= chance:
        return Decision(Verdict.UNKNOWN, because)
    return _open(Verdict.UNSHOWN, because, prompts_to_decide(accuracy, n, chance))


def _judge_fall(drop: Interval, probability_fall: Interval, base: BaseAnswers, rule: VerdictRule, n: int) -> Decision:
    """Step 2: kept, not shown to have fallen, or fallen, which leaves the rest open."""
    tolerated = rule.tolerated
    because = f"accuracy fell by {_points(drop)}"
    if drop.high < tolerated:
        return Decision(Verdict.KEPT, f"{because}, less than {100 * tolerated:.0f}")
    if drop.low > tolerated:
        return Decision(Verdict.OPEN, because)
    because += f": the interval holds {100 * tolerated:.0f}"
    second, about = _second_opinion(drop, probability_fall, base, rule, n)
    if not isnan(probability_fall.value):
        because += f"; the answer's probability fell by {_points(probability_fall)}{about}"
    if second.high < tolerated and drop.value < tolerated:
        return Decision(Verdict.KEPT, because)
    if second.low > tolerated and drop.value > tolerated:
        return Decision(Verdict.OPEN, because)
    needed = [prompts_to_decide(each, n, tolerated) for each in (drop, second)]
    same_side = (drop.value - tolerated) * (second.value - tolerated) > 0
    return _open(Verdict.UNSHOWN, because, _least(needed if same_side else needed[:1]))


def _second_opinion(
    drop: Interval, probability_fall: Interval, base: BaseAnswers, rule: VerdictRule, n: int
) -> tuple[Interval, str]:
    """The fall of probability that may decide beside this drop of accuracy, and what it is, or why none may."""
    if drop.value > rule.tolerated:
        return probability_fall, ""
    if not base.probability >= max(rule.known, LEAST_PROBABILITY):
        return NOTHING, f", from {base.probability:.0%}, too little for it to decide"
    if drop.value > rule.tolerated / 2:
        return NOTHING, f", which decides only where accuracy fell by at most {100 * rule.tolerated / 2:.0f}"
    value, low, high = (each * base.accuracy / base.probability for each in probability_fall)
    more = 1.96 / (n + 2)  # of one more lost prompt, as in paired_drop: few that change say little of others
    scaled = Interval(value, value - hypot(value - low, more), value + hypot(high - value, more))
    return scaled, "" if isnan(value) else f", in accuracy's unit by {_points(scaled)}"


def _on_evidence(because: str, measured: Mapping[str, Evidence]) -> Decision:
    """Steps 3 and 4: the ability fell; is it still there?"""
    restoring = [measured[kind] for kind in RESTORING if kind in measured]
    said = {each.opinion for each in restoring}
    if Opinion.THERE in said:
        return Decision(Verdict.DROWNED, because)
    if not restoring:
        return Decision(Verdict.OPEN, f"{because}; nothing was measured that may restore it")
    if Opinion.UNDECIDED in said:
        if SPILLOVER in measured and measured[SPILLOVER].opinion is Opinion.THERE:
            return Decision(Verdict.DROWNED, because)
        return _open(Verdict.OPEN, because, _to_restore(restoring))
    if KNOWLEDGE not in measured:
        return Decision(Verdict.CHANGED, f"{because}; no cloze tells whether it is known")
    knowledge = measured[KNOWLEDGE]
    if isnan(knowledge.fraction.low):
        return Decision(Verdict.OPEN, because)
    if knowledge.opinion is Opinion.UNDECIDED:
        return _open(Verdict.OPEN, because, knowledge.needed)
    return Decision(Verdict.LOST if knowledge.opinion is Opinion.GONE else Verdict.CHANGED, because)


def _agreement(measured: Sequence[Evidence]) -> str:
    """Whether the kinds that say something say the same."""
    decided = [each.opinion for each in measured if each.opinion is not Opinion.UNDECIDED]
    if len(decided) < 2:
        return ""
    return "; these agree" if len({*decided}) == 1 else "; these disagree"


def _to_restore(restoring: Sequence[Evidence]) -> int | None:
    """How many prompts would decide whether one of the kinds restores the ability.

    One that would then say "still there" is enough; without any, all of them must say "not there".
    """
    undecided = [each for each in restoring if each.opinion is Opinion.UNDECIDED]
    above = [each.needed for each in undecided if each.fraction.value > each.threshold]
    if above:
        return _least(above)
    needed = [each.needed for each in undecided]
    return None if None in needed else max(number for number in needed if number is not None)


def _least(numbers: Sequence[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _open(verdict: Verdict, because: str, needed: int | None) -> Decision:
    """A verdict that about ``needed`` prompts would decide, if the values stayed what they are."""
    if needed is None or needed > MOST_PROMPTS:
        return Decision(verdict, f"{because}; no number of prompts would decide it at this value")
    return Decision(verdict, f"{because}; about {needed:,} prompts would decide it", needed)


def evidence_rows(labels: Mapping[str, Any], evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    """One row per kind of evidence, as ``CheckpointComparison.evidence_frame`` has them."""
    return [
        {
            **labels, "kind": each.kind, "value": each.fraction.value, "low": each.fraction.low,
            "high": each.fraction.high, "threshold": each.threshold, "opinion": each.opinion.value,
            "prompts": each.n, "prompts_needed": float("nan") if each.needed is None else float(each.needed),
        }
        for each in evidence
    ]  # fmt: skip


def _shown(interval: Interval) -> str:
    ends = f"{interval.low:.0%} to {interval.high:.0%}" if interval.low == interval.low else TOO_FEW
    return f"{interval.value:.0%} ({ends})"


def _points(fall: Interval) -> str:
    """A difference of two percentages."""
    ends = f"{100 * fall.low:z.0f} to {100 * fall.high:z.0f}" if fall.low == fall.low else TOO_FEW
    return f"{100 * fall.value:z.0f} points ({ends})"
