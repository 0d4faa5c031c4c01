"""``TrainingConfig``: how the loop runs; it checks itself."""

from dataclasses import dataclass, field
from typing import Annotated

from ..checks import Between, Count, Natural, NotNegative, Seed, checked
from ..errors import ArgumentError, one_of
from .guidance import Guidance
from .objective import remaining

PRECISIONS = ("full", "bfloat16")
DECAYS = ("none", "linear", "cosine")
TEACHERS = ("cached", "live")


@checked
@dataclass(frozen=True)
class LoRA:
    """Rank-r updates: ``alpha / rank * B @ A`` on the ``targets``' weights (Hu et al., arXiv 2106.09685).

    ``targets``: W_Q, W_K, W_V, W_O, W_in, W_gate, W_out. The defaults are those of 2502.11019.
    """

    rank: Count = 8
    alpha: Annotated[float, Between(1e-6)] = 16.0
    targets: tuple[str, ...] = ("W_Q", "W_V")


@checked
@dataclass(frozen=True)
class TrainingConfig:
    """How ``fine_tune`` runs: AdamW for ``steps`` steps of ``batch_size`` prompts in ``accumulate`` parts.

    ``learning_rate`` rises over ``warmup`` steps and falls by ``decay``; gradients are clipped to the norm ``clip``.
    ``layers`` (None: all, and the final norm) are trained, in full or by ``lora``; embeddings only with ``embeddings``.
    ``precision`` ``"bfloat16"`` computes in mixed precision; ``checkpointing`` recomputes blocks in the backward pass
    for memory. ``teacher``: the base is asked once (``"cached"``) or at each step (``"live"``). The state is
    saved every ``save_every`` steps, abilities are measured every ``evaluate_every`` (0: only at the end).

    Raises:
        ArgumentError: naming the field that is outside its values.
    """

    guidance: Guidance = field(default_factory=Guidance)
    steps: Count = 100
    batch_size: Count = 8
    accumulate: Count = 1
    learning_rate: NotNegative = 1e-4
    warmup: Natural = 0
    decay: str = "linear"
    weight_decay: NotNegative = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: NotNegative = 1.0
    lora: LoRA | None = None
    layers: tuple[Natural, ...] | None = None
    embeddings: bool = False
    precision: str = "full"
    checkpointing: bool = False
    teacher: str = "cached"
    save_every: Count = 50
    evaluate_every: Natural = 0
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.accumulate > self.batch_size:
            raise ArgumentError(f"accumulate to be at most batch_size, {self.batch_size}", repr(self.accumulate))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ArgumentError("betas to be two numbers from 0 to below 1", repr(self.betas))
        if self.embeddings and self.lora is not None:
            raise ArgumentError("embeddings only with full training", "LoRA", "leave one of the two out")
        if self.accumulate > 1 and (self.guidance.kl_floor or self.guidance.consistency_floor):
            raise ArgumentError("floors only with accumulate=1", repr(self.accumulate), "they hold for a whole step")
        one_of("decay", self.decay, DECAYS)
        one_of("precision", self.precision, PRECISIONS)
        one_of("teacher", self.teacher, TEACHERS)

    @checked
    def rate(self, step: Natural) -> float:
        """The learning rate of a step: warm-up, then decay towards 0 after the last step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        schedule = "constant" if self.decay == "none" else self.decay
        return self.learning_rate * remaining(schedule, step - self.warmup, max(self.steps - self.warmup, 1))
