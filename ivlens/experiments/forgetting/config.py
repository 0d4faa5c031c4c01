"""What the forgetting study trains, measures, and chooses on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...errors import ArgumentError
from ...training import Guidance

STRENGTHS: dict[str, tuple[float, ...]] = {
    "plain": (0.125, 0.25, 0.5, 1.0),
    "iv": (0.5, 1.0, 2.0),
    "fv": (0.3, 1.0, 3.0),
    "kl": (0.1, 0.3, 1.0),
    "l2": (0.5, 1.0, 2.0),
    "rehearsal": (1.0, 2.0, 4.0),
    "replay": (1.0, 2.0, 4.0),
    "guided": (0.5, 1.0, 2.0),
}


@dataclass(frozen=True)
class StudyConfig:
    """What the study trains and measures.

    ``new`` are learned one after the other, ``old`` are to be kept; ``trial_new`` and ``trial_old`` serve to choose
    each method's strength: a factor on its weights, for "plain" on the learning rate, for "iv" on the vector's scale.
    """

    new: tuple[str, ...] = ("word-topic", "choose-last-of-3", "adjective-comparative")
    old: tuple[str, ...] = ("antonym", "verb-gerund", "country-language", "choose-animal")
    trial_new: str = "lowercase-first-letter"
    trial_old: tuple[str, ...] = ("present-past", "singular-plural", "capitalize", "country-capital")
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: dict(STRENGTHS))
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 12
    batch_size: int = 8
    learning_rate: float = 2e-4
    warmup: int = 2
    test: int = 20
    test_new: int = 30
    watched: int = 8
    clean: int = 30
    corrupted: int = 12
    heads: int = 20
    layer: int = 12
    scale: float = 4.0
    kept: float = 0.98

    def __post_init__(self) -> None:
        named = (*self.new, *self.old, self.trial_new, *self.trial_old)
        if len(set(named)) < len(named):
            raise ArgumentError("different tasks to learn, to keep and to choose on", ", ".join(named))


def strengthened(method: str, strength: float) -> Guidance:
    """A preset with its weights times the strength; for "iv" it scales the vector, and with it the KL's target."""
    preset = Guidance.preset(method)
    return replace(preset, scale=strength * preset.scale) if method == "iv" else preset.scaled(strength)


def trial_name(method: str, strength: float) -> str:
    """The file name of a trial's record."""
    return f"trial-{method}-{strength:g}"


def run_name(method: str, seed: int, stage: int) -> str:
    """The file name of the record of a stage."""
    return f"{method}-{seed}-{stage}"
