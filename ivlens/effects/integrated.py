"""Integrated gradients: gradients on the way from the heads' outputs to their means, not only where it begins.

The path is that of one layer at one place: its heads move together, those of later layers answer as they do in any
forward pass. With many steps the sum over the layer's heads tends to the effect of patching them all, of which each
head gets its share (that of Aumann and Shapley; 1703.01365 has the axioms). A path of all layers at once would mix the
effects of heads that feed each other; one of a single head would be exact, and dearer than the loop.
"""

from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models import HookedTransformer, padded
from .metric import Measure, Pair
from .slopes import slopes

Ways = Float[Tensor, "layer cell head d_head"]


def path_gradients(
    model: HookedTransformer,
    pair: Pair,
    cells: tuple[Int[Tensor, " cell"], Int[Tensor, " cell"]],
    way: Ways,
    measure: Measure,
    *,
    steps: int,
    batch_size: int,
) -> Ways:
    """Sum of a prompt's gradients at 1/steps, 2/steps ... of the way, copies of the prompt being run together.

    ``cells`` are the position and the place of tokens; a copy has one layer's tokens at one place moved. ``measure``
    reads the prompt alone.
    """
    position, place = cells
    total = torch.zeros_like(way)
    moves = [*product(range(len(way)), place.unique().tolist(), range(1, steps))]
    for start in range(0, len(moves), batch_size):
        chunk = torch.tensor(moves[start : start + batch_size], device=place.device)  # copy (layer, place, step)
        layers = chunk[:, 0].unique().tolist()
        found = {layer: ((chunk[:, :1] == layer) & (chunk[:, 1:2] == place)).nonzero().T for layer in layers}
        gone = {
            layer: (chunk[copy, 2] / steps)[:, None, None] * way[layer, cell] for layer, (copy, cell) in found.items()
        }
        at = {layer: (copy, position[cell]) for layer, (copy, cell) in found.items()}
        rows = padded([pair] * len(chunk), place.device)
        _, slope, _ = slopes(model, rows, at, gone, measure.copies(0, len(chunk)))
        for layer, (_, cell) in found.items():
            total[layer].index_add_(0, cell, slope[layer].to(total))
    return total
