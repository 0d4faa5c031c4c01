"""Factors A of LoRA from tasks learned before, whose updates are merged into the weights since."""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, MismatchError, few
from ..models import HookedTransformer, lora_factors
from ..tensor_files import load_tensors

FACTOR = re.compile(r"weights\.blocks\.(\d+)\.\w+\.parametrizations\._?(W_\w+)\.0\.A")  # in the state of a run
SHARED = 0.5  # of an adapter's directions, beyond chance: it began with the same seed
Factors = Mapping[tuple[int, str], Tensor]


def earlier_factors(adapter: str | Path | Mapping[tuple[int, str], tuple[Tensor, Tensor]]) -> Factors:
    """The factors A [rank, in] of an earlier adapter, by (layer, target).

    Args:
        adapter: the folder of its run (``fine_tune``'s ``out``), or ``lora_factors(model)`` from before the merge.

    Raises:
        RecordError: no readable state of a run in the folder.
        ArgumentError: a run that was not one of LoRA.
    """
    if isinstance(adapter, Mapping):
        return {of: factors[0].detach().clone() for of, factors in adapter.items()}
    tensors, _ = load_tensors(Path(adapter) / "state.safetensors")
    named = {FACTOR.fullmatch(name): tensor for name, tensor in tensors.items()}
    factors = {(int(name[1]), name[2]): tensor for name, tensor in named.items() if name}
    if not factors:
        raise ArgumentError("the folder of a run of LoRA", f"{adapter}, whose run trained the weights themselves")
    return factors


def stacked_factors(
    model: HookedTransformer, adapters: Sequence[Factors]
) -> dict[tuple[int, str], Float[Tensor, "earlier in"]]:
    """The earlier factors of each weight that LoRA is on, one below the other, by (layer, target).

    Raises:
        MismatchError: an adapter of another model, or of no weight that is trained now.
        ArgumentError: an adapter that started with the factors with which the model's start now.
    """
    stacked = {}
    for (layer, target), (factor, _) in lora_factors(model).items():
        found = [each[layer, target].to(factor) for each in adapters if (layer, target) in each]
        if wrong := {each.shape[1] for each in found} - {factor.shape[1]}:
            came = f"one with {max(wrong)}"
            raise MismatchError(f"adapters of this model, with {factor.shape[1]} inputs to {target}", came)
        if found:
            stacked[layer, target] = torch.cat(found)
    if idle := next((each for each in adapters if not stacked.keys() & each.keys()), None):
        theirs = few(sorted({target for _, target in idle}))
        raise MismatchError(
            "adapters with a weight that is trained now", f"one of {theirs}, in other layers or weights"
        )
    _check_anew(model, adapters)
    return stacked


@torch.no_grad()
def _check_anew(model: HookedTransformer, adapters: Sequence[Factors]) -> None:
    """Refuse an adapter whose inputs are those of the new one."""
    now = {of: factors[0] for of, factors in lora_factors(model).items()}
    for number, earlier in enumerate(adapters, 1):
        shared = [_shared(now[of], earlier[of]) for of in now.keys() & earlier.keys()]
        if sum(shared) / len(shared) > SHARED:
            raise ArgumentError(
                "adapters that start with other factors than the new one",
                f"adapter {number} of {len(adapters)}",
                "train each task with another seed",
            )


def _shared(one: Float[Tensor, "rank in"], other: Float[Tensor, "earlier in"]) -> float:
    """The share of the smaller one's directions that the other has, too: 0 by chance, 1 where it has all of them.

    Random directions share as many as the larger one has of all inputs; where it has all, nothing is known (0).
    """
    bases = [torch.linalg.qr(each.cpu().double().T).Q for each in (one, other)]
    ranks = [each.shape[1] for each in bases]
    chance = max(ranks) / one.shape[1]
    overlap = float((bases[0].T @ bases[1]).square().sum()) / min(ranks)
    return (overlap - chance) / (1 - chance) if chance < 1 else 0.0


def factors_digest(factors: Factors) -> str:
    """A hash of the factors."""
    found = sha256()
    for of in sorted(factors):
        found.update(repr(of).encode() + factors[of].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
