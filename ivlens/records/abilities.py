"""When a model has an ability that it can lose: it answers more than a few prompts, and more than a guess would."""

from ..stats import Interval
from .checkpoints import CheckpointComparison

ABILITY = 0.3  # accuracy from which a task counts as an ability of a model


def is_ability(accuracy: Interval, chance: float, known: float = ABILITY) -> bool:
    """Whether answers may show an ability.

    Args:
        accuracy: of the answers, with its interval.
        chance: the accuracy of guessing; 0 where there is nothing to guess among.
        known: accuracy from which a task counts as an ability.

    Returns:
        Whether the interval reaches ``known`` and all of it lies above chance.

    Example:
        >>> from ivlens.records.abilities import is_ability
        >>> from ivlens.stats import Interval
        >>> is_ability(Interval(0.5, 0.4, 0.6), 0.25), is_ability(Interval(0.5, 0.4, 0.6), 0.5)
        (True, False)
    """
    return accuracy.high >= known and accuracy.low > chance


def general_abilities(comparison: CheckpointComparison, known: float = ABILITY) -> list[str]:
    """The general abilities that a comparison's base may have."""
    return [
        row["task"] for row in comparison.general
        if row["checkpoint"] == comparison.checkpoints[0]
        and is_ability(Interval(row["accuracy"], row["low"], row["high"]), row["chance"], known)
    ]  # fmt: skip
