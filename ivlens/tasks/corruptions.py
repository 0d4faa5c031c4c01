"""Corrupted prompts, which hide the task.

Every corruption drops the true instruction and the true labels, and keeps the query:

    "no-instruction"      drops the demonstrations too, which leaves a bare prompt
    "other-instruction"   asks for another task: its instruction, its labels, its demonstrations
    "shuffled-labels"     keeps the demonstrations under neutral labels, their answers deranged (Todd et al. 2310.15213)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .examples import Example
from .turns import NEUTRAL, Turns


def without_instruction(turns: Turns) -> Turns:
    """The query alone, under neutral labels."""
    return Turns(None, NEUTRAL, (), turns.query)


def with_shuffled_labels(turns: Turns) -> tuple[Turns, float]:
    """The demonstrations with deranged answers under neutral labels, and the fraction that became wrong."""
    shots = turns.demonstrations
    answers = derange([shot.answers[0] for shot in shots])
    wrong = sum(answer not in shot.answers for shot, answer in zip(shots, answers, strict=True))
    shuffled = tuple(Example(shot.input, (answer,)) for shot, answer in zip(shots, answers, strict=True))
    return replace(turns, instruction=None, labels=NEUTRAL, demonstrations=shuffled), wrong / len(shots)


def derange(values: Sequence[str]) -> list[str]:
    """The same values in another order, with as many positions as possible changed to a different value.

    Sorting groups equal values, so a rotation by the size of the largest group moves every value out of its group,
    except where that group is more than half of all.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    shift = max(Counter(values).values(), default=0)
    source = dict(zip(order, order[shift:] + order[:shift], strict=True))
    return [values[source[index]] for index in range(len(values))]
