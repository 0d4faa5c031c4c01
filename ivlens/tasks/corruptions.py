"""Corrupted prompts, which hide the task.

Every corruption drops the true instruction, an example's own too, and the true labels; it keeps the query with its
history and the options that are shown:

    "no-instruction"      drops the demonstrations too, which leaves a bare prompt
    "other-instruction"   asks for another task: its instruction, its labels, its demonstrations
    "shuffled-labels"     keeps demonstrations under neutral labels, their answers deranged (Todd et al. 2310.15213),
                          or a wrong one of their options
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from .examples import Example
from .turns import NEUTRAL, Turns


def without_instruction(turns: Turns) -> Turns:
    """The query alone, with its history and options, under neutral labels."""
    return replace(turns, instruction=None, labels=NEUTRAL, demonstrations=(), shared=True)


def with_shuffled_labels(turns: Turns) -> tuple[Turns, float]:
    """The demonstrations with wrong answers under neutral labels, and the fraction that became wrong.

    Answers are deranged; a demonstration with options gets one of its own that is wrong.
    """
    shots = turns.demonstrations
    deranged = iter(derange([shot.answers[0] for shot in shots if not shot.options]))
    answers = [_wrong_option(shot) if shot.options else next(deranged) for shot in shots]
    wrong = sum(answer not in shot.answers for shot, answer in zip(shots, answers, strict=True))
    pairs = zip(shots, answers, strict=True)
    shuffled = tuple(replace(shot, answers=(answer,), instruction=None) for shot, answer in pairs)
    return replace(turns, instruction=None, labels=NEUTRAL, demonstrations=shuffled, shared=True), wrong / len(shots)


def _wrong_option(shot: Example) -> str:
    """One of the options that are not accepted, determined by the example alone."""
    return Random(repr(shot.asked)).choice([option for option in shot.options if option not in shot.answers])


def derange(values: Sequence[str]) -> list[str]:
    """The same values in another order, with as many positions as possible changed to a different value.

    Sorting groups equal values, so a rotation by the size of the largest group moves every value out of its group,
    except where that group is more than half of all.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    shift = max(Counter(values).values(), default=0)
    source = dict(zip(order, order[shift:] + order[:shift], strict=True))
    return [values[source[index]] for index in range(len(values))]
