"""Low-rank updates (LoRA, 2106.09685) on the weights themselves, so that all hooks and computations include them.

A weight W, [out, in] as Hugging Face has it, becomes W + alpha / rank * B A. Only the factors A [rank, in] and B [out,
rank] are trained; when switched off, the model computes with W.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checks import checked
from ..errors import ArgumentError, at_least
from ..vocabulary import check_layers
from .engines import HookedTransformer
from .naming import as_linear, from_linear, own_name

HOMES = {"W_Q": "attn", "W_K": "attn", "W_V": "attn", "W_O": "attn", "W_in": "mlp", "W_gate": "mlp", "W_out": "mlp"}


@dataclass
class Updates:
    """What all updates of a model share: scale, whether they are on, and which weights were trainable before."""

    rank: int
    alpha: float
    learnt: frozenset[str]
    on: bool = True


class LowRank(nn.Module):
    """One weight's update; A is initialised as in PEFT, from its own generator, and B is zero."""

    def __init__(self, target: str, weight: Float[Tensor, "..."], updates: Updates, seed: str) -> None:
        super().__init__()
        self.target, self.updates = target, updates
        rows, columns = as_linear(target, weight).shape
        start = nn.init.kaiming_uniform_(
            torch.empty(updates.rank, columns), a=math.sqrt(5), generator=generator_of(seed)
        )
        self.A = nn.Parameter(start.to(weight))
        self.B = nn.Parameter(weight.new_zeros(rows, updates.rank))

    @property
    def scale(self) -> float:
        """The factor of B A in the weight's change."""
        return self.updates.alpha / self.updates.rank

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.updates.on:
            return weight
        updated = torch.addmm(as_linear(self.target, weight), self.B, self.A, alpha=self.scale)
        return from_linear(self.target, updated, len(weight))

    def change(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What the update adds to the weight, in the weight's own shape."""
        return from_linear(self.target, self.scale * (self.B @ self.A), len(weight))


def generator_of(seed: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for a text."""
    return torch.Generator(device).manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))


def add_lora(
    model: HookedTransformer,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    layers: Sequence[int] | None,
    seed: int,
) -> None:
    """Add low-rank updates to weights; from then on only these are trained.

    Args:
        model: the model, changed in place.
        rank: of each update.
        alpha: an update is scaled by alpha / rank.
        targets: which weights of a layer, out of W_Q, W_K, W_V, W_O, W_in, W_gate and W_out; with grouped queries
            W_K and W_V are those that the heads share.
        layers: which layers; None for all.
        seed: seed of the random initial factors A.

    Raises:
        ArgumentError: a rank below 1, an alpha that is not positive, no target or layer or one that the model does not
            have, or a model with LoRA.
    """
    at_least("rank", rank, 1)
    if not 0 < alpha < math.inf:
        raise ArgumentError("alpha to be a positive number", repr(alpha))
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ArgumentError("a model without LoRA", "one that has it", "call merge_lora(model) first")
    layers = range(model.cfg.n_layers) if layers is None else layers
    check_layers(model.cfg.n_layers, layers)
    there = [name for name in HOMES if _home(model, 0, name) is not None]
    if not targets or not set(targets) <= set(there):
        raise ArgumentError(f"targets out of {', '.join(there)}", ", ".join(map(str, targets)) or "none")
    learnt = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    updates = Updates(rank, alpha, learnt)
    model.requires_grad_(False)
    for layer in sorted(set(layers)):
        for target in dict.fromkeys(targets):
            home, name = _home(model, layer, target), own_name(model.cfg, target)
            update = LowRank(target, getattr(home, name), updates, f"{seed}/{layer}/{target}")
            parametrize.register_parametrization(home, name, update, unsafe=True)  # unsafe: without a trial run


def updated_names(model: HookedTransformer, targets: Sequence[str], layers: Sequence[int] | None) -> set[str]:
    """Names of the weights that ``add_lora`` with these arguments puts updates on."""
    chosen = range(model.cfg.n_layers) if layers is None else layers
    return {f"blocks.{layer}.{HOMES[each]}.{own_name(model.cfg, each)}" for layer in chosen for each in targets}


def _home(model: HookedTransformer, layer: int, target: str) -> Any:
    """The module of a layer that holds a target, or None."""
    home = getattr(model.blocks[layer], HOMES[target], None)
    return home if hasattr(home, own_name(model.cfg, target)) else None


@singledispatch
def has_lora(model: Any) -> bool:
    """Whether the model has LoRA updates that are not merged."""
    return next(_updated(model), None) is not None


@singledispatch
def lora_is_on(model: Any) -> bool:
    """Whether the model has LoRA updates that are switched on."""
    return has_lora(model) and shared_updates(model).on


def lora_factors(model: HookedTransformer) -> dict[tuple[int, str], tuple[nn.Parameter, nn.Parameter]]:
    """The factors A [rank, in] and B [out, rank] of each (layer, target); none without LoRA."""
    return {(layer, update.target): (update.A, update.B) for layer, _, update in layer_updates(model)}


def updated_weights(model: HookedTransformer) -> dict[str, tuple[nn.Parameter, LowRank]]:
    """The weights that LoRA is on, by the names of their parameters: each without its update, and the update.

    Args:
        model: the model.
    """
    parameters = dict(model.named_parameters())
    updates = {name: each for name, each in model.named_modules() if isinstance(each, LowRank)}
    originals = {f"{name.rpartition('.')[0]}.original": each for name, each in updates.items()}
    return {name: (parameters[name], each) for name, each in originals.items()}


def shared_updates(model: HookedTransformer) -> Updates:
    """The shared state of the model's updates.

    Raises:
        ArgumentError: the model has no LoRA.
    """
    first = next(_updated(model), None)
    if first is None:
        raise ArgumentError("a model with LoRA", "one without", "call add_lora(model, ...) first")
    return first[3].updates


def updates_in_use(model: HookedTransformer) -> Updates:
    """The shared state of the model's updates.

    Raises:
        ArgumentError: the model has no LoRA, or it is switched off.
    """
    updates = shared_updates(model)
    if not updates.on:
        raise ArgumentError("LoRA that is switched on", "a model within lora_off", "leave that context first")
    return updates


def layer_updates(model: HookedTransformer) -> Iterator[tuple[int, Any, LowRank]]:
    """Layer, module and update of every weight that has one."""
    yield from ((layer, module, update) for layer, module, _, update in _updated(model))


def _updated(model: HookedTransformer) -> Iterator[tuple[int, Any, str, LowRank]]:
    """Layer, module, weight's name and update of every weight that has one."""
    for layer, block in enumerate(model.blocks):
        for module in block.children():
            chains: Any = getattr(module, "parametrizations", {})
            yield from ((layer, module, name, of[0]) for name, of in chains.items() if isinstance(of[0], LowRank))


@contextmanager
def lora_off(model: HookedTransformer) -> Iterator[None]:
    """Within this context the model computes with its base weights alone.

    Raises:
        ArgumentError: the model has no LoRA.
    """
    updates = shared_updates(model)
    was_on, updates.on = updates.on, False
    kept, parametrize._cache = parametrize._cache, {}  # updated weights cached by parametrize.cached()
    try:
        yield
    finally:
        updates.on, parametrize._cache = was_on, kept


@checked
@torch.no_grad()
def merge_lora(model: HookedTransformer) -> None:
    """Fold the updates into the weights, in place, and take LoRA off the model (2106.09685, section 4.2).

    Parameters that were trainable before LoRA was added are trainable again.

    Args:
        model: a model with LoRA on it.

    Raises:
        ArgumentError: the model has no LoRA, or it is switched off.

    Example:
        >>> from ivlens.models import add_lora, has_lora
        >>> add_lora(model, rank=2, alpha=4.0, targets=("W_Q",), layers=None, seed=0)
        >>> iv.merge_lora(model)
        >>> has_lora(model)
        False
    """
    updates = updates_in_use(model)
    merged = list(_updated(model))
    for _, module, name, _ in merged:
        module.parametrizations[name].original.copy_(getattr(module, name))
    for module in {id(module): module for _, module, _, _ in merged}.values():
        _restore(module)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in updates.learnt)


def _restore(module: Any) -> None:
    """Restore the parameters; torch's own removal would change the class that deep copies of the module share."""
    originals = {name: chain.original for name, chain in module.parametrizations.items()}
    own_class = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    module.__class__ = own_class
    for name, original in originals.items():
        module.register_parameter(name, original)


@singledispatch
def weight_names(model: Any, *, once: bool = True) -> list[str]:
    """Names of all weights without LoRA's renaming; ``operator.attrgetter(name)(model)`` is the effective weight.

    A weight with several names is listed ``once``, under the first, or under all of them.
    """
    names = []
    for name, _ in model.named_parameters(remove_duplicate=once):
        path, updated, rest = name.partition(".parametrizations.")
        if not updated:
            names.append(name)
        elif rest.endswith(".original"):
            names.append(f"{path}.{rest.removesuffix('.original')}")
    return names
