"""The change of every matrix from the base's: how large it is, and on how many directions."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import Model, as_matrix, attention_weights, mlp_weights, provenance
from ..records import WeightSpectrum
from ..tensor_files import stream_tensors

SHARE = 0.9  # of the squared norm, that rank90 singular values hold


class Change(NamedTuple):
    """The change of one matrix, see ``WeightSpectrum``."""

    change: float
    stable_rank: float
    rank90: float
    squares: float
    base_squares: float


def weight_spectrum(model: Model, base_files: Iterable[Path]) -> WeightSpectrum:
    """The change of each matrix that is known of both models; of the base's, one is in memory at a time."""
    changes: dict[str, Change] = {}
    for path in base_files:
        for name, before in stream_tensors(path):
            layer, matrix = name.split(".", 1)
            now = _weights(model, int(layer)).get(matrix)
            if now is not None and now.shape == before.shape:
                changes[name] = matrix_change(as_matrix(matrix, before), as_matrix(matrix, now).cpu())
    order = sorted(changes, key=lambda name: int(name.partition(".")[0]))
    columns = zip(*(changes[name] for name in order), strict=True)
    change, stable_rank, rank90, squares, base_squares = (torch.tensor(each, dtype=torch.float64) for each in columns)
    return WeightSpectrum(
        change, stable_rank, rank90, squares, base_squares, tuple(order), provenance=provenance(model)
    )


def matrix_change(base: Float[Tensor, "_ _"], now: Float[Tensor, "_ _"]) -> Change:
    """The change from one matrix to the other, in float64.

    The squares of its singular values are the eigenvalues of its product with its transpose, on the smaller side.
    """
    before = base.double()
    difference = now.double() - before
    base_squares = before.square().sum().item()
    squares = difference.square().sum().item()
    relative = (squares / base_squares) ** 0.5 if base_squares else float("nan")
    if not squares:
        return Change(relative, float("nan"), 0.0, squares, base_squares)
    wide = difference if difference.shape[0] <= difference.shape[1] else difference.T
    energies = torch.linalg.eigvalsh(wide @ wide.T).clamp_min(0).flip(0)
    held = (energies.cumsum(0) < SHARE * energies.sum()).sum().item() + 1
    return Change(relative, squares / energies[0].item(), float(held), squares, base_squares)


def _weights(model: Model, layer: int) -> dict[str, Tensor]:
    return attention_weights(model, layer) | mlp_weights(model, layer)
