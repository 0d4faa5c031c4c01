"""What the forgetting study trains, measures, and chooses on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ivlens import ArgumentError, Guidance
from ivlens.training import HeadConsistency, KLToGuidedTeacher, ProgressiveVector

# The preset "fv" when this study first ran: neither the formulas of arXiv 2502.11019 nor what its code computes.
FV_BEFORE = Guidance((
    KLToGuidedTeacher(last=20.0, answer=0.1, scale=1.0, site="attn_out", direction="reverse", temperature=2.0,
                      temperature_squared=False, floor=0.1),
    HeadConsistency(1.0, "mean", floor=0.01),
))  # fmt: skip


class Setting(NamedTuple):
    """A learning rate, and a factor on a preset's weights; of "iv", which has one weight, on the vector's scale."""

    rate: float = 1e-4
    factor: float = 1.0

    def guidance(self, method: str) -> Guidance:
        """The method's terms at this setting."""
        preset = FV_BEFORE if method == "fv-before" else Guidance.preset(method)
        if method != "iv":
            return preset.scaled(self.factor)
        return Guidance.preset(method, scale=self.factor * ProgressiveVector().scale)


TRIED = (Setting(5e-5), Setting(1e-4, 0.3), Setting(1e-4), Setting(1e-4, 3.0))
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "plain": (Setting(2.5e-5), Setting(5e-5), Setting(1e-4), Setting(2e-4)),
    **dict.fromkeys(("iv", "fv-before", "kl", "l2", "rehearsal", "replay", "guided"), TRIED),
}


@dataclass(frozen=True)
class StudyConfig:
    """What the study trains and measures.

    ``new`` are learned one after the other, ``old`` are to be kept; ``trial_new`` and ``trial_old`` serve to choose
    each method's setting, among as many for each.
    """

    new: tuple[str, ...] = ("word-topic", "choose-last-of-3", "adjective-comparative")
    old: tuple[str, ...] = ("antonym", "verb-gerund", "country-language", "choose-animal")
    trial_new: str = "lowercase-first-letter"
    trial_old: tuple[str, ...] = ("present-past", "singular-plural", "capitalize", "country-capital")
    settings: Mapping[str, tuple[Setting, ...]] = field(default_factory=lambda: dict(SETTINGS))
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 10
    batch_size: int = 8
    warmup: int = 2
    n_test: int = 20
    n_test_new: int = 30
    watched: int = 8
    n_clean: int = 30
    n_corrupted: int = 12
    k: int = 20
    layer: int = 12
    scale: float = 4.0
    kept: float = 0.98

    def __post_init__(self) -> None:
        named = (*self.new, *self.old, self.trial_new, *self.trial_old)
        if len(set(named)) < len(named):
            raise ArgumentError("different tasks to learn, to keep and to choose on", ", ".join(named))


# Readings of arXiv 2502.11019 side by side, on the same prompts: one new task, then the sequence of three.
READINGS = StudyConfig(
    settings=dict.fromkeys(("fv-before", "fv", "fv-code"), (Setting(5e-5), Setting(1e-4, 0.3))), seeds=()
)
SEQUENCES = StudyConfig(settings=dict.fromkeys(("fv-before", "fv", "fv-code"), (Setting(1e-4, 0.3),)))


def trial_name(method: str, setting: Setting) -> str:
    """The file name of a trial's record."""
    return f"trial-{method}-{setting.rate:g}-{setting.factor:g}"


def run_name(method: str, seed: int, stage: int) -> str:
    """The file name of the record of a stage."""
    return f"{method}-{seed}-{stage}"
