"""What became of an ability: a documented rule on numbers with intervals."""

from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

from ..checks import Fraction, checked
from ..stats import Interval
from ..vocabulary import Verdict


@checked
@dataclass(frozen=True)
class VerdictRule:
    """Thresholds of the verdict on a task, all of them fractions from 0 to 1.

    1. The base answers less than ``known`` of the prompts: not an ability of the base.
    2. The drop of accuracy lies below ``tolerated`` with its whole interval: kept. If the interval contains
       ``tolerated``: undecided.
    3. The base's vector, added to bare prompts, restores at least the fraction ``recovered`` of what it adds on the
       base: the activation was drowned, the function is recoverable. With an interval on both sides: undecided.
    4. Otherwise, if knowledge (the cloze's probability, as a fraction of the base's) lies below ``remembered``:
       knowledge lost; above it, or unknown for a task without a cloze: function changed; on both sides: undecided.

    A new rule is applied to the saved measures; nothing is measured again.

    Args:
        known: accuracy of the base from which a task counts as its ability.
        tolerated: drop of accuracy up to which an ability is kept.
        recovered: fraction of what the base's vector does on the base from which the function is still there.
        remembered: fraction of the base's knowledge probability from which the knowledge is still there.

    Raises:
        ArgumentError: naming the threshold that is outside 0 to 1.

    Example:
        >>> from ivlens.checkpoints import VerdictRule
        >>> iv.CheckpointConfig(rule=VerdictRule(tolerated=0.2)).rule.tolerated
        0.2
    """

    known: Fraction = 0.3
    tolerated: Fraction = 0.1
    recovered: Fraction = 0.5
    remembered: Fraction = 0.5


class Decision(NamedTuple):
    """A verdict, and a sentence with the numbers behind it."""

    verdict: Verdict
    because: str


def decide_verdict(
    base_accuracy: float, drop: Interval, recovered: Interval, knowledge: Interval, rule: VerdictRule
) -> Decision:
    """The verdict on a task by the four steps of ``VerdictRule``.

    Args:
        base_accuracy: accuracy of the base, 0 to 1.
        drop: accuracy of the base minus that of the checkpoint.
        recovered: what the base's vector adds on the checkpoint, as a fraction of what it adds on the base.
        knowledge: the cloze's probability as a fraction of the base's; not a number for a task without a cloze.
        rule: the thresholds.
    """
    because = f"accuracy fell by {_shown(drop)}"
    if base_accuracy < rule.known:
        return Decision(Verdict.UNKNOWN, f"the base's accuracy is {base_accuracy:.2f}, below {rule.known:.2f}")
    if drop.high < rule.tolerated:
        return Decision(Verdict.KEPT, f"{because}, less than {rule.tolerated:.2f}")
    if drop.low <= rule.tolerated:
        return Decision(Verdict.UNDECIDED, f"{because}: the interval holds {rule.tolerated:.2f}")
    if isnan(recovered.value):
        return Decision(
            Verdict.UNDECIDED, f"{because}, and the base's vector does nothing on the base's own bare prompts"
        )
    because += f"; the base's vector brings back {_shown(recovered)} of what it does on the base"
    if recovered.low >= rule.recovered:
        return Decision(Verdict.DROWNED, because)
    if recovered.high >= rule.recovered:
        return Decision(Verdict.UNDECIDED, f"{because}: the interval holds {rule.recovered:.2f}")
    return _on_knowledge(because, knowledge, rule)


def _on_knowledge(because: str, knowledge: Interval, rule: VerdictRule) -> Decision:
    """Step 4: the vector does not restore the function; is the knowledge there?"""
    if isnan(knowledge.value):
        return Decision(
            Verdict.CHANGED, f"{because}; the task has no cloze that would tell whether the knowledge is there"
        )
    because += f"; without instruction the answer has {_shown(knowledge)} of its probability"
    if knowledge.high < rule.remembered:
        return Decision(Verdict.LOST, because)
    if knowledge.low >= rule.remembered:
        return Decision(Verdict.CHANGED, because)
    return Decision(Verdict.UNDECIDED, f"{because}: the interval holds {rule.remembered:.2f}")


def _shown(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
