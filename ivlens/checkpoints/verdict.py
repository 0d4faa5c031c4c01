"""What became of an ability, in plain words: a documented rule on numbers with intervals."""

from math import isnan

from .config import VerdictRule

Interval = tuple[float, float, float]  # value, low, high

KEPT = "kept"
DROWNED = "activation drowned, recoverable"
CHANGED = "function changed"
LOST = "knowledge lost"
UNDECIDED = "undecided"
UNKNOWN = "not an ability of the base"


def verdict(
    base_accuracy: float, drop: Interval, recovered: Interval, knowledge: Interval, rule: VerdictRule
) -> tuple[str, str]:
    """The verdict on a task, and the sentence with the numbers that carry it.

    1. The base answers fewer than ``known`` of the prompts: not an ability of the base.
    2. The drop of accuracy lies below ``tolerated`` with its whole interval: kept. Not above it: undecided.
    3. The base's vector, added to bare prompts, brings back at least the fraction ``recovered`` of what it does on the
       base: the activation was drowned, the function is recoverable. With an interval on both sides: undecided.
    4. It does not. Knowledge (the cloze's probability, as a fraction of the base's) lies below ``remembered``:
       knowledge lost; above it, or unknown for a task without a cloze: function changed; on both sides: undecided.
    """
    said = f"accuracy fell by {_shown(drop)}"
    if base_accuracy < rule.known:
        return UNKNOWN, f"the base's accuracy is {base_accuracy:.2f}, below {rule.known:.2f}"
    if drop[2] < rule.tolerated:
        return KEPT, f"{said}, less than {rule.tolerated:.2f}"
    if drop[1] <= rule.tolerated:
        return UNDECIDED, f"{said}: the interval holds {rule.tolerated:.2f}"
    if isnan(recovered[0]):
        return UNDECIDED, f"{said}, and the base's vector does nothing on the base's own bare prompts"
    said += f"; the base's vector brings back {_shown(recovered)} of what it does on the base"
    if recovered[1] >= rule.recovered:
        return DROWNED, said
    if recovered[2] >= rule.recovered:
        return UNDECIDED, f"{said}: the interval holds {rule.recovered:.2f}"
    if isnan(knowledge[0]):
        return CHANGED, f"{said}; the task has no cloze that would tell whether the knowledge is there"
    said += f"; without instruction the answer has {_shown(knowledge)} of its probability"
    if knowledge[2] < rule.remembered:
        return LOST, said
    if knowledge[1] >= rule.remembered:
        return CHANGED, said
    return UNDECIDED, f"{said}: the interval holds {rule.remembered:.2f}"


def _shown(value: Interval) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"
