"""``TrainingConfig``: how the loop runs; it checks itself."""

from dataclasses import dataclass, field

from ..errors import ArgumentError, finite, instance, one_of, whole
from .guidance import Guidance
from .objective import remaining

PRECISIONS = ("full", "bfloat16")
DECAYS = ("none", "linear", "cosine")
TEACHERS = ("cached", "live")


@dataclass(frozen=True)
class LoRA:
    """Rank-r updates: ``alpha / rank * B @ A`` on the ``targets``' weights (Hu et al., arXiv 2106.09685).

    ``targets``: W_Q, W_K, W_V, W_O, W_in, W_gate, W_out. The defaults are those of 2502.11019.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("W_Q", "W_V")

    def __post_init__(self) -> None:
        whole("rank", self.rank, 1)
        finite("alpha", self.alpha, 1e-6)
        object.__setattr__(self, "targets", tuple(self.targets))


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
    steps: int = 100
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: int = 0
    decay: str = "linear"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    lora: LoRA | None = None
    layers: tuple[int, ...] | None = None
    embeddings: bool = False
    precision: str = "full"
    checkpointing: bool = False
    teacher: str = "cached"
    save_every: int = 50
    evaluate_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        instance("guidance", self.guidance, Guidance)
        instance("lora", self.lora, LoRA, type(None))
        for name in ("steps", "batch_size", "accumulate", "save_every"):
            whole(name, getattr(self, name), 1)
        for name in ("warmup", "evaluate_every", "seed"):
            whole(name, getattr(self, name), 0)
        if self.accumulate > self.batch_size:
            raise ArgumentError(f"accumulate to be at most batch_size, {self.batch_size}", repr(self.accumulate))
        for name in ("learning_rate", "weight_decay", "clip"):
            finite(name, getattr(self, name), 0)
        object.__setattr__(self, "betas", tuple(self.betas))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ArgumentError("betas to be two numbers from 0 to below 1", repr(self.betas))
        if self.layers is not None:
            object.__setattr__(self, "layers", _layers(self.layers))
        if self.embeddings and self.lora is not None:
            raise ArgumentError("embeddings only with full training", "LoRA", "leave one of the two out")
        if self.accumulate > 1 and (self.guidance.kl_floor or self.guidance.consistency_floor):
            raise ArgumentError("floors only with accumulate=1", repr(self.accumulate), "they hold for a whole step")
        one_of("decay", self.decay, DECAYS)
        one_of("precision", self.precision, PRECISIONS)
        one_of("teacher", self.teacher, TEACHERS)

    def rate(self, step: int) -> float:
        """The learning rate of a step: warm-up, then decay towards 0 after the last step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        schedule = "constant" if self.decay == "none" else self.decay
        return self.learning_rate * remaining(schedule, step - self.warmup, max(self.steps - self.warmup, 1))


def _layers(layers: object) -> tuple[int, ...]:
    if not isinstance(layers, (tuple, list, range)) or not all(isinstance(layer, int) for layer in layers):
        raise ArgumentError("layers to be whole numbers, like (20, 21), or None", repr(layers))
    return tuple(layers)
