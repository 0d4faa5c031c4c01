"""Controls that belong beside every steering result."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from ..activations import capture
from ..checks import Count, Seed, checked
from ..errors import ArgumentError
from ..heads import random_heads
from ..models import HookedTransformer, provenance, resid_pre_name
from ..records import HeadMeans
from ..scoring import listed
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
    point = resid_pre_name(layer)
    with_task, without = (capture(model, each, [point], batch_size=batch_size)[point] for each in (clean, corrupted))
    values = (with_task - without).to(torch.float64 if model.cfg.dtype == torch.float64 else torch.float32)
    origin = provenance(model, layer=layer, clean=len(clean), corrupted=len(corrupted))
    return InstructionVector(
        values, values.new_zeros(0, len(values)), (), f"mean difference, layer {layer}", provenance=origin
    )
