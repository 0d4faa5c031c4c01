"""The trained parameters, their initial values where needed, and the optimiser."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models import HookedTransformer, add_lora, has_lora, only_trainable, trainable_names, updated_names
from ..vocabulary import check_layers
from .config import TrainingConfig
from .term import Term

EMBEDDINGS = ("embed.", "pos_embed.", "unembed.")
READOUT = ("ln_final.", "unembed.")  # modules that a teacher's cached residual streams still pass through


@dataclass(frozen=True)
class Trainable:
    """The trained parameters by name, and the AdamW that updates them.

    ``views`` are the same parameters in the layout that is fastest for the optimiser. ``anchors`` are initial values,
    and ``terms`` those that use them to change the weights after a step. ``means`` are the mean weights of the steps
    from ``averaged_from`` on, where a term averages them.
    """

    parameters: dict[str, Tensor]
    views: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.AdamW
    anchors: dict[str, Tensor]
    terms: tuple[Term, ...]
    clip: float
    means: dict[str, Tensor]
    averaged_from: int | None

    @classmethod
    @contextmanager
    def of(cls, model: HookedTransformer, config: TrainingConfig) -> Iterator["Trainable"]:
        """Within this context only the parameters that ``config`` selects have gradients.

        With LoRA, its factors are added to the model and stay there.
        """
        with only_trainable(model, _names(model, config)) as named:
            views = {name: torch.nn.Parameter(_dense(each.detach())) for name, each in named}
            optimizer = torch.optim.AdamW(
                views.values(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay,
                fused=True,
            )  # fmt: skip
            terms = tuple(term for term in config.terms if "anchors" in term.needs)
            firsts = (term.averaged_from(config.steps) for term in config.terms)
            first = next((each for each in firsts if each is not None), None)
            means = {} if first is None else {name: torch.zeros_like(each) for name, each in views.items()}
            yield cls(dict(named), views, optimizer, _anchors(named, config), terms, config.clip, means, first)

    def clipped_norm(self) -> float:
        """The norm of all gradients, after which these are scaled down to norm ``clip`` if it is larger (0: never)."""
        largest = self.clip or float("inf")
        return torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), largest, foreach=True).item()

    def step(self, rate: float) -> None:
        """Update the parameters by their gradients, clear these, and apply the terms that need anchors."""
        self.optimizer.param_groups[0]["lr"] = rate
        for name, each in self.parameters.items():
            self.views[name].grad = None if each.grad is None else _dense(each.grad)
        self.optimizer.step()
        for term in self.terms:
            term.after_step(*self._with_anchors(), rate)
        for each in (*self.parameters.values(), *self.views.values()):
            each.grad = None
        self._note_change()

    def average(self, step: int) -> None:
        """Take the weights after ``step`` into the mean, if its steps have begun."""
        if self.averaged_from is not None and step >= self.averaged_from:
            weights = [each.detach() for each in self.views.values()]
            torch._foreach_lerp_([*self.means.values()], weights, 1 / (step - self.averaged_from + 1))

    def is_finite(self) -> bool:
        """Whether all parameters are finite numbers."""
        return all(bool(each.isfinite().all()) for each in self.parameters.values())

    @torch.no_grad()
    def finish(self) -> None:
        """Give the parameters the values that the run ends with, after its last step."""
        for name, mean in self.means.items():
            self.views[name].copy_(mean)
        for term in self.terms:
            term.at_end(*self._with_anchors())
        self._note_change()

    def _with_anchors(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters that have initial values, and these."""
        weights = [self.views[name].detach() for name in self.anchors]
        return weights, [_dense(anchor) for anchor in self.anchors.values()]

    def _note_change(self) -> None:
        """Provenance checks the parameters' version counters, which fused AdamW and views do not increase."""
        torch.autograd.graph.increment_version(list(self.parameters.values()))


def check_trainable(model: HookedTransformer, config: TrainingConfig) -> None:
    """Raise ArgumentError where the model lacks the layers to train, has LoRA already, or its precision will not do."""
    if model.cfg.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            "a model in float32 or float64 to train", str(model.cfg.dtype),
            "load it with dtype=torch.float32; precision='bfloat16' computes in mixed precision",
        )  # fmt: skip
    device = next(model.parameters()).device
    if config.precision == "bfloat16" and not computes_in_bfloat16(device):
        raise ArgumentError("a device that computes in bfloat16", str(device), "precision='full'")
    if config.layers is not None:
        check_layers(model.cfg.n_layers, config.layers)
    if not layers_to_train(model, config):
        raise ArgumentError("a layer to train", "layers that the guidance freezes, all of them")
    if has_lora(model):
        raise ArgumentError("a model without LoRA", "one with it", "merge_lora(model) folds the updates in")


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether mixed precision in bfloat16 works on a device; where it is emulated, it is slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.amp.is_autocast_available(device.type)


def _names(model: HookedTransformer, config: TrainingConfig) -> set[str]:
    """Names of the trained parameters; with LoRA, its factors, which are added here."""
    if config.lora is not None:
        add_lora(
            model, config.lora.rank, config.lora.alpha, config.lora.targets, layers_to_train(model, config), config.seed
        )
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return weights_to_train(model, config)


def changed_names(model: HookedTransformer, config: TrainingConfig) -> set[str]:
    """Names of the model's weights that training changes, LoRA's updates merged."""
    if config.lora is None:
        return weights_to_train(model, config)
    return updated_names(model, config.lora.targets, layers_to_train(model, config))


def layers_to_train(model: HookedTransformer, config: TrainingConfig) -> list[int]:
    """The layers of the configuration that no term freezes."""
    n_layers = model.cfg.n_layers
    layers = range(n_layers) if config.layers is None else config.layers
    return [layer for layer in layers if all(term.trains(layer, n_layers) for term in config.terms)]


def weights_to_train(model: HookedTransformer, config: TrainingConfig) -> set[str]:
    """Names of the model's weights that training without LoRA changes."""
    chosen = tuple(f"blocks.{layer}." for layer in layers_to_train(model, config))
    chosen += ("ln_final.",) if config.layers is None else ()
    chosen += EMBEDDINGS if config.embeddings else ()
    return {name for name in trainable_names(model) if name.startswith(chosen)}


def _anchors(named: list[tuple[str, Tensor]], config: TrainingConfig) -> dict[str, Tensor]:
    """The initial values that are needed later.

    All for terms that need anchors or a live teacher, otherwise final norm and unembedding; with LoRA, whose updates
    can be switched off, only the zeros of B, for terms that need anchors.
    """
    needs = config.guidance.needs
    if config.lora is not None:
        return {name: torch.zeros_like(each) for name, each in named if "anchors" in needs and name.endswith(".B")}
    whole = "anchors" in needs or (config.teacher == "live" and "base" in needs)
    return {name: each.detach().clone() for name, each in named if whole or name.startswith(READOUT)}


def _dense(tensor: Tensor) -> Tensor:
    """The same memory with its axes in order: fused AdamW takes three times as long on weights stored transposed."""
    return tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
