"""Controls that belong beside every steering result."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, Seed, checked
from ..errors import ArgumentError, refuse_odd
from ..heads import random_heads
from ..models import HookedTransformer, batches, final_residual, hooked, last_token, padded, provenance, resid_pre_name
from ..records import HeadMeans
from ..scoring import listed, prompt_ids
from ..tasks import Prompt
from ..vectors import InstructionVector, instruction_vector
from ..vocabulary import check_layer


@checked
def random_vector(vector: InstructionVector, *, seed: Seed) -> InstructionVector:
    """A vector of random direction and the same norm: the control that any vector must beat."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(vector.values.shape, generator=generator, dtype=torch.float64)
    values = (direction / direction.norm() * vector.norm).to(vector.values)
    return replace(vector, values=values, parts=values.new_zeros(0, len(values)), heads=(), task=f"random, seed {seed}")


@checked
def random_heads_vector(
    model: HookedTransformer, means: HeadMeans, vector: InstructionVector, *, seed: Seed
) -> InstructionVector:
    """The vector of as many random other heads out of the same means, scaled to the same norm.

    Raises:
        ArgumentError: fewer other heads than the vector has, or ones that write nothing.
    """
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    heads = random_heads(shape, len(vector.heads), seed=seed, exclude=vector.heads)
    other = instruction_vector(model, means, heads)
    if not other.norm:
        raise ArgumentError("random heads that write something", f"zeros, from {heads}"[:80], "take another seed")
    return replace(other * (vector.norm / other.norm), task=f"random heads, seed {seed}")


@checked
@torch.no_grad()
def mean_difference(
    model: HookedTransformer,
    clean: Iterable[Prompt] | Prompt,
    corrupted: Iterable[Prompt] | Prompt,
    layer: int,
    *,
    batch_size: Count = 32,
) -> InstructionVector:
    """The classical steering vector: mean residual stream entering ``layer`` at the last token, clean minus corrupted.

    Raises:
        ArgumentError: a layer that the model does not have.
        PromptError: no prompts, or one that cannot be tokenised.
    """
    check_layer(model.cfg.n_layers, layer)
    clean, corrupted = listed(clean), listed(corrupted)
    values = _mean_residual(model, clean, layer, batch_size) - _mean_residual(model, corrupted, layer, batch_size)
    values = values.to(torch.float64 if model.cfg.dtype == torch.float64 else torch.float32)
    origin = provenance(model, layer=layer, clean=len(clean), corrupted=len(corrupted))
    return InstructionVector(
        values, values.new_zeros(0, len(values)), (), f"mean difference, layer {layer}", provenance=origin
    )


def _mean_residual(
    model: HookedTransformer, prompts: Sequence[Prompt], layer: int, batch_size: int
) -> Float[Tensor, " d_model"]:
    pairs = [(ids, ()) for ids in prompt_ids(model, prompts)]
    odd: list[int] = []
    total = torch.zeros(model.cfg.d_model, dtype=torch.float64)

    def add(numbers: list[int], residual: Float[Tensor, "batch pos d_model"]) -> None:
        states = residual[last_token(residual)].double().cpu()
        odd.extend(numbers[row] for row in (~states.isfinite().all(1)).nonzero().flatten().tolist())
        total.add_(states.sum(0))

    for numbers, batch in batches(pairs, batch_size):
        with hooked(model, {resid_pre_name(layer): partial(add, numbers)}):
            final_residual(model, padded(batch, model.cfg.device))
    refuse_odd("activations", [prompt.text for prompt in prompts], odd)
    return total / len(pairs)
