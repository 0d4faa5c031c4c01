"""``Guidance``: which terms count in the objective, and how; the presets, with their sources."""

from dataclasses import dataclass, replace
from typing import Annotated

from ..checks import Between, Count, Natural, NotNegative, checked
from ..errors import one_of
from ..steering import SITES
from ..vocabulary import check_layer
from .objective import DIRECTIONS, SCHEDULES

REDUCTIONS = ("sum", "mean")


@checked
@dataclass(frozen=True)
class Guidance:
    """Weights of the objective's terms beside the supervised one; a term of weight 0 costs nothing.

    The vector: ``progressive`` is the schedule by which ``scale`` times the vector is added to the trained model's
    last prompt token at ``layer`` (None: the middle one) and ``site`` (2406.12227), down to nothing after the fraction
    ``handover`` of the steps; the teacher is the base model with ``teacher_scale`` (None: ``scale``) times the vector
    added there.

    - ``kl_last``, ``kl_answer``: vector-guided KL at the last prompt token, and over all places from which the answer's
      tokens are predicted (2502.11019); ``kl_base``: KL to the base without a vector, at those places. They share
      ``direction``, ``temperature`` and ``temperature_squared`` (2 and True: Hinton et al., arXiv 1503.02531), and
      ``kl_floor``, below which a term does not count.
    - ``consistency``: squared distance of the vector's heads' outputs to the base's at the last prompt token.
    - ``rehearsal``: KL(base || model), temperature 1, at the last token of ``rehearsal_batch`` extra prompts a step,
      the new inputs under other instructions.
    - ``l2``: decoupled pull to the initial weights, by this times the learning rate a step.
    - ``replay``: cross-entropy on ``replay_batch`` old examples a step.

    Raises:
        ArgumentError: naming the field that is outside its values.
    """

    progressive: str = "none"
    layer: Natural | None = None
    scale: float = 4.0
    site: str = "resid_pre"
    handover: Annotated[float, Between(1e-3, 1)] = 1.0
    teacher_scale: float | None = None
    kl_last: NotNegative = 0.0
    kl_answer: NotNegative = 0.0
    kl_base: NotNegative = 0.0
    direction: str = "forward"
    temperature: Annotated[float, Between(1e-3)] = 2.0
    temperature_squared: bool = True
    kl_floor: NotNegative = 0.0
    consistency: NotNegative = 0.0
    consistency_reduction: str = "sum"
    consistency_floor: NotNegative = 0.0
    rehearsal: NotNegative = 0.0
    rehearsal_batch: Count = 4
    l2: NotNegative = 0.0
    replay: NotNegative = 0.0
    replay_batch: Count = 2

    def __post_init__(self) -> None:
        one_of("progressive", self.progressive, SCHEDULES)
        one_of("direction", self.direction, DIRECTIONS)
        one_of("site", self.site, tuple(SITES))
        one_of("consistency_reduction", self.consistency_reduction, REDUCTIONS)

    @classmethod
    @checked
    def preset(cls, name: str) -> "Guidance":
        """A named combination: plain, iv, fv, kl, l2, rehearsal, replay or guided.

        Raises:
            ArgumentError: another name.
        """
        one_of("guidance", name, tuple(PRESETS))
        return PRESETS[name]

    @property
    def teaches(self) -> bool:
        """Whether the teacher, the base with the vector, is asked."""
        return self.kl_last > 0 or self.kl_answer > 0

    @property
    def uses_vector(self) -> bool:
        """Whether an instruction vector is needed."""
        return self.teaches or self.progressive != "none" or self.consistency > 0

    @property
    def asks_base(self) -> bool:
        """Whether the base model is asked anything."""
        return self.teaches or self.kl_base > 0 or self.consistency > 0 or self.rehearsal > 0

    @checked
    def scaled(self, factor: NotNegative) -> "Guidance":
        """The same combination with every weight times ``factor``."""
        weights = ("kl_last", "kl_answer", "kl_base", "consistency", "rehearsal", "l2", "replay")
        return replace(self, **{name: factor * getattr(self, name) for name in weights})

    @checked
    def layer_in(self, n_layers: Count) -> int:
        """The layer of the vector in a model of so many layers.

        Raises:
            ArgumentError: the model has no such layer.
        """
        layer = n_layers // 2 if self.layer is None else self.layer
        check_layer(n_layers, layer)
        return layer


PRESETS = {
    "plain": Guidance(),
    # 2406.12227; its vector is handed over by the last step, which a learning rate that has decayed cannot take up
    "iv": Guidance(progressive="linear", handover=0.5, kl_last=1.0, temperature=1.0),
    "fv": Guidance(  # 2502.11019: weights of the paper, details of its code; a floor below which a term does not count
        scale=1.0, site="attn_out", kl_last=20.0, kl_answer=0.1, direction="reverse", temperature=2.0,
        temperature_squared=False, kl_floor=0.1, consistency=1.0, consistency_reduction="mean", consistency_floor=0.01,
    ),
    "kl": Guidance(kl_base=1.0, temperature=1.0),
    "l2": Guidance(l2=1000.0),
    "rehearsal": Guidance(rehearsal=1.0),
    "replay": Guidance(replay=1.0),
    "guided": Guidance(progressive="linear", scale=2.0, handover=0.5, rehearsal=1.0, rehearsal_batch=2, l2=1000.0),
}  # fmt: skip
