"""What learns: the chosen parameters, their initial values where those are asked for again, and the optimiser."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models import HookedTransformer, add_lora, has_lora, only_trainable, trainable_names
from ..vocabulary import check_layers
from .config import TrainingConfig
from .objective import pull_back

EMBEDDINGS = ("embed.", "pos_embed.", "unembed.")
READOUT = ("ln_final.", "unembed.")  # what a teacher's remembered residual streams still pass through


@dataclass(frozen=True)
class Learner:
    """Parameters by name, and the AdamW that moves them; those in ``pulled`` are drawn back to their anchors by L2.

    ``moved`` are the parameters again, by the same names and in the same memory, as the optimiser knows them.
    """

    parameters: dict[str, Tensor]
    moved: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.AdamW
    anchors: dict[str, Tensor]
    pulled: tuple[str, ...]
    clip: float

    def clipped_norm(self) -> float:
        """The norm of all gradients, which are scaled down to ``clip`` where it is above (0: never)."""
        largest = self.clip or float("inf")
        return torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), largest, foreach=True).item()

    def step(self, rate: float, l2: float) -> None:
        """Move the parameters by their gradients, which are dropped, and then towards their anchors."""
        self.optimizer.param_groups[0]["lr"] = rate
        for name, each in self.parameters.items():
            self.moved[name].grad = None if each.grad is None else _dense(each.grad)
        self.optimizer.step()
        if self.pulled:
            drawn = [(self.moved[name].detach(), _dense(self.anchors[name])) for name in self.pulled]
            pull_back([each for each, _ in drawn], [anchor for _, anchor in drawn], rate * l2)
        for each in (*self.parameters.values(), *self.moved.values()):
            each.grad = None
        # provenance looks at the versions of parameters, which fused AdamW does not count up
        torch.autograd.graph.increment_version(list(self.parameters.values()))


@contextmanager
def learner(model: HookedTransformer, config: TrainingConfig, anchors: dict[str, Tensor]) -> Iterator[Learner]:
    """Within this context the parameters that ``config`` chooses learn; ``anchors`` is filled with initial values.

    With LoRA, its factors are added to the model, and stay. The anchors are those that are asked for again: all for L2
    or a live teacher, otherwise the final norm and unembedding; for LoRA the zeros of B, to which L2 draws the update.
    """
    with only_trainable(model, _names(model, config)) as named:
        parameters, guidance = dict(named), config.guidance
        if config.lora is not None:
            kept = {name: torch.zeros_like(each) for name, each in named if guidance.l2 and name.endswith(".B")}
        else:
            whole = guidance.l2 or (config.teacher == "live" and guidance.asks_base)
            kept = {name: each.detach().clone() for name, each in named if whole or name.startswith(READOUT)}
        anchors |= kept
        moved = {name: torch.nn.Parameter(_dense(each.detach())) for name, each in named}
        optimizer = torch.optim.AdamW(
            moved.values(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        yield Learner(parameters, moved, optimizer, anchors, tuple(kept) if guidance.l2 else (), config.clip)


def check_learnable(model: HookedTransformer, config: TrainingConfig) -> None:
    """Raise ArgumentError where the model has not the layers that are to learn, has LoRA, or is of half precision."""
    if model.cfg.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            "a model in float32 or float64 to train", str(model.cfg.dtype),
            "load it with dtype=torch.float32; precision='bfloat16' computes in mixed precision",
        )  # fmt: skip
    if config.layers is not None:
        check_layers(model.cfg.n_layers, config.layers)
    if has_lora(model):
        raise ArgumentError("a model without LoRA", "one with it", "merge_lora(model) folds the updates in")


def _names(model: HookedTransformer, config: TrainingConfig) -> set[str]:
    """Names of the parameters that learn; with LoRA, its factors, which are added here."""
    if config.lora is not None:
        add_lora(model, config.lora.rank, config.lora.alpha, config.lora.targets, config.layers, config.seed)
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = range(model.cfg.n_layers) if config.layers is None else config.layers
    chosen = tuple(f"blocks.{layer}." for layer in layers)
    chosen += ("ln_final.",) if config.layers is None else ()
    chosen += EMBEDDINGS if config.embeddings else ()
    return {name for name in trainable_names(model) if name.startswith(chosen)}


def _dense(tensor: Tensor) -> Tensor:
    """The same memory with its axes in order: fused AdamW takes three times as long on weights stored transposed."""
    return tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
