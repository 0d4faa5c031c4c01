"""Adding a vector to the residual stream: ``with steer(...)``, sweeps over layers and scales, and controls."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from .errors import ArgumentError, MismatchError, one_of
from .models import HookedTransformer, check_fits, hooked, last_token, provenance, resid_pre_name
from .records import SteeringSweep
from .scoring import evaluate
from .tasks import Prompt
from .vectors import InstructionVector

POSITIONS = ("last", "all")


@contextmanager
def steer(
    model: HookedTransformer,
    vector: InstructionVector | Float[Tensor, " d_model"],
    layer: int,
    scale: float = 1.0,
    position: str = "last",
) -> Iterator[HookedTransformer]:
    """Within this context, add ``scale`` times the vector to the residual stream entering block ``layer``.

    ``position="last"`` adds it at the last prompt token: where ``evaluate`` reads an answer from, or the last
    position of a plain forward pass; ``"all"`` at every position. The hook is removed on leaving, whatever happens.

    Raises:
        ArgumentError: a layer, scale or position that does not exist.
        MismatchError: a vector of another width, or computed on a model that it does not fit.
        HookError: on leaving, when no forward pass ran inside.
    """
    one_of("position", position, POSITIONS)
    if not 0 <= layer < model.cfg.n_layers:
        raise ArgumentError(f"layer to be from 0 to {model.cfg.n_layers - 1}", repr(layer))
    if not math.isfinite(scale):
        raise ArgumentError("scale to be a finite number", repr(scale))
    added = scale * _values(model, vector)

    def edit(residual: Float[Tensor, "batch pos d_model"]) -> Tensor:
        if position == "all":
            return residual + added.to(residual)
        rows, at = last_token(residual)
        residual = residual.clone()
        residual[rows, at] += added.to(residual)
        return residual

    with hooked(model, {resid_pre_name(layer): edit}):
        yield model


def random_vector(vector: InstructionVector, *, seed: int) -> InstructionVector:
    """A vector of random direction and the same norm: the control that any vector must beat."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(vector.values.shape, generator=generator, dtype=torch.float64)
    values = (direction / direction.norm() * vector.norm).to(vector.values)
    return replace(vector, values=values, parts=values[None], heads=(), task=f"random vector, seed {seed}")


def steering_sweep(
    model: HookedTransformer,
    vector: InstructionVector,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    scales: Sequence[float],
) -> SteeringSweep:
    """Accuracy and P(answer) with the vector added, for each layer and scale; both [layer, scale].

    Choose a cell on one set of prompts with ``.best()`` and report it on another.

    Raises:
        ArgumentError, MismatchError: see ``steer``.
        PromptError: see ``evaluate``.
    """
    if not layers or not scales:
        raise ArgumentError("at least one layer and one scale", f"{list(layers)} and {list(scales)}")
    cells = [(layer, scale) for layer in layers for scale in scales]
    scores = []
    for layer, scale in tqdm(cells, desc="steering sweep", unit="cell", leave=False, disable=None):
        with steer(model, vector, layer, scale):
            result = evaluate(model, prompts)
        scores.append((result.accuracy, result.probability))
    accuracy, probability = torch.tensor(scores, dtype=torch.float64).T.unflatten(1, (len(layers), len(scales)))
    return SteeringSweep(
        accuracy.contiguous(), probability.contiguous(), tuple(layers), tuple(scales), len(prompts), vector.task,
        provenance=provenance(model, vector=vector.provenance.get("settings")),
    )  # fmt: skip


def _values(model: HookedTransformer, vector: InstructionVector | Float[Tensor, " d_model"]) -> Tensor:
    if isinstance(vector, InstructionVector):
        check_fits(model, vector.provenance, "the instruction vector")
    values = vector.values if isinstance(vector, InstructionVector) else vector
    if tuple(values.shape) != (model.cfg.d_model,):
        raise MismatchError(f"a vector of shape ({model.cfg.d_model},)", f"{tuple(values.shape)}")
    return values.to(model.cfg.device)
