"""Controls for every steering result."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from ..activations import capture
from ..checks import Count, Seed, checked
from ..errors import ArgumentError
from ..heads import random_heads
from ..models import Model, at_least_float32, attn_out_name, fork_layer, provenance, stream_name
from ..records import HeadMeans
from ..scoring import listed
from ..tasks import Prompt
from ..vectors import InstructionVector, instruction_vector
from ..vocabulary import Condition, Site, at_layer, check_layer
from ._compare import Setting
from ._steer import steer


@checked
def random_vector(vector: InstructionVector, *, seed: Seed) -> InstructionVector:
    """A vector of random direction and the same norm: the control that any vector must beat.

    Args:
        vector: the vector whose norm is used.
        seed: seed of the direction.

    Returns:
        A vector without heads.

    Example:
        >>> abs(iv.random_vector(vector, seed=0).norm - vector.norm) < 1e-4
        True
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(vector.values.shape, generator=generator, dtype=torch.float64)
    values = (direction / direction.norm() * vector.norm).to(vector.values)
    return replace(vector, values=values, parts=values.new_zeros(0, len(values)), heads=(), task=f"random, seed {seed}")


@checked
def random_heads_vector(model: Model, means: HeadMeans, vector: InstructionVector, *, seed: Seed) -> InstructionVector:
    """The vector of as many other, random heads from the same means, scaled to the same norm.

    Args:
        model: the model that the means were computed on.
        means: mean outputs over clean prompts, [layer, head, d_head].
        vector: the vector whose number of heads and norm are used.
        seed: seed of the heads.

    Returns:
        A vector of other heads, scaled to the same norm.

    Raises:
        ArgumentError: fewer other heads than the vector has, or ones that write nothing.

    Example:
        >>> len(iv.random_heads_vector(model, means, vector, seed=0).heads)
        3
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
    model: Model,
    clean: Iterable[Prompt] | Prompt,
    corrupted: Iterable[Prompt] | Prompt,
    layer: int,
    *,
    site: Site = "resid_pre",
    batch_size: Count = 32,
) -> InstructionVector:
    """The classical steering vector: mean residual stream at ``layer`` and the last token, clean minus corrupted.

    Args:
        model: the model to record.
        clean: prompts that show the task.
        corrupted: prompts that do not.
        layer: the layer at which activations are averaged.
        site: where in the layer, as in ``steer``, which adds the vector there.
        batch_size: prompts per forward pass.

    Returns:
        A vector without heads, in the residual stream's units.

    Raises:
        ArgumentError: a layer or site that does not exist.
        PromptError: no prompts, or one that cannot be tokenised.

    Example:
        >>> iv.mean_difference(model, prompts, task.prompts(4, shots=0, instruction=False), layer=1).values.shape
        torch.Size([32])
    """
    check_layer(model.cfg.n_layers, layer)
    clean, corrupted = listed(clean), listed(corrupted)
    n_layers = model.cfg.n_layers
    point = attn_out_name(layer) if site == "attn_out" else stream_name(n_layers, fork_layer(layer, site))
    with_task, without = (capture(model, each, [point], batch_size=batch_size)[point] for each in (clean, corrupted))
    values = (with_task - without).to(at_least_float32(model.cfg.dtype))
    origin = provenance(model, layer=layer, site=site, clean=len(clean), corrupted=len(corrupted))
    name = f"mean difference, {at_layer(layer, site)}"
    return InstructionVector(values, values.new_zeros(0, len(values)), (), name, provenance=origin)


def steered(
    model: Model,
    prompts: Sequence[Prompt],
    vectors: Mapping[str, InstructionVector],
    layer: int,
    scale: float,
    site: Site = "resid_pre",
) -> dict[str, Setting]:
    """Conditions for ``compare_conditions``: the prompts with each of the vectors added, by the vectors' names."""
    return {name: (prompts, steer(model, vector, layer, scale, site=site)) for name, vector in vectors.items()}


def controlled(
    model: Model,
    bare: Sequence[Prompt],
    clean: Sequence[Prompt] | None,
    vectors: Mapping[str, InstructionVector],
    layer: int,
    scale: float,
    random_seeds: Sequence[int],
    site: Site = "resid_pre",
) -> dict[str, Setting]:
    """Conditions for ``compare_conditions``: what steering is compared with, wherever it is.

    Args:
        model: the model to steer.
        bare: prompts without instruction and demonstrations.
        clean: the same queries with them; None leaves them out.
        vectors: by name, vectors that are added to the bare prompts.
        layer: the layer at which they are added.
        scale: their factor.
        random_seeds: of random vectors of the first vector's norm, which are added instead.
        site: where in the layer, see ``steer``.
    """
    first = next(iter(vectors.values()))
    random = {Condition.RANDOM_VECTOR.of(seed): random_vector(first, seed=seed) for seed in random_seeds}
    conditions: dict[str, Setting] = {Condition.BARE: (bare, None)}
    if clean is not None:
        conditions[Condition.CLEAN] = (clean, None)
    return conditions | steered(model, bare, {**vectors, **random}, layer, scale, site)
