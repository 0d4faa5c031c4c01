"""Attribution patching: the effect of a patch to first order, from the metric's gradient at the heads' outputs.

One forward and one backward pass give ``(zbar - z) . d metric / d z`` for all heads at all places, which is exact where
the metric is linear between z and zbar.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import HookedTransformer, differentiable, map_batches, padded
from .integrated import path_gradients
from .metric import Measure, Pair
from .slopes import slopes

Sites = Sequence[Sequence[int]]  # for each place its positions in a prompt
Batch = tuple[Float[Tensor, "batch layer head place"], Float[Tensor, " batch"]]


def attributed_effects(
    model: HookedTransformer,
    pairs: Sequence[Pair],
    sites: Sequence[Sites],
    means: Float[Tensor, "place layer head d_head"],
    metric: str,
    *,
    steps: int,
    batch_size: int,
    n_jobs: int | None,
) -> tuple[Float[Tensor, "prompt layer head place"], Float[Tensor, " prompt"]]:
    """First-order effects of every head at every place, whose tokens are patched together; the prompts' own metric.

    ``steps`` counts the gradients whose mean is taken, the first of them at z; each further one costs a forward and a
    backward pass for every layer and place. ``n_jobs`` workers share the batches.
    """
    places, layers, heads, _ = means.shape
    dtype = torch.float64 if model.cfg.dtype == torch.float64 else torch.float32
    work = partial(_of_batch, sites=sites, means=means.to(dtype), metric=metric, steps=steps, batch_size=batch_size)
    found = map_batches(model, work, pairs, batch_size, n_jobs, kind="corrupted", doing="attribution")
    effects = torch.zeros(len(pairs), layers, heads, places, dtype=dtype)
    baseline = torch.zeros(len(pairs), dtype=dtype)
    for numbers, of_batch in found:
        effects[numbers], baseline[numbers] = (each.to(effects) for each in of_batch)
    return effects, baseline


def _of_batch(
    model: HookedTransformer,
    numbered: tuple[list[int], Sequence[Pair]],
    sites: Sequence[Sites],
    means: Float[Tensor, "place layer head d_head"],
    metric: str,
    steps: int,
    batch_size: int,
) -> Batch:
    """Effects of one batch of prompts, on the CPU."""
    numbers, batch = numbered
    own = [sites[number] for number in numbers]
    with differentiable(model):
        means = means.to(model.cfg.device)
        cells = [
            (row, position, place)
            for row, of_row in enumerate(own)
            for place, positions in enumerate(of_row)
            for position in positions
        ]
        row, position, place = torch.tensor(cells, device=means.device).T
        rows = padded(batch, means.device)
        measure = Measure(metric, rows.answers)
        still = means.new_zeros(len(cells), *means.shape[2:])
        layers = range(means.shape[1])
        outputs, slope, scores = slopes(
            model, rows, dict.fromkeys(layers, (row, position)), dict.fromkeys(layers, still), measure
        )
        way = torch.stack([means[place, layer] - outputs[layer] for layer in layers])
        total = torch.stack([slope[layer].to(way) for layer in layers])
        if steps > 1:
            for number, pair in enumerate(batch):
                its = row == number
                total[:, its] += path_gradients(
                    model, pair, (position[its], place[its]), way[:, its], measure.copies(number, 1),
                    steps=steps, batch_size=batch_size,
                )  # fmt: skip
        each = (way * total).sum(-1).permute(1, 0, 2) / steps  # cell layer head
        found = each.new_zeros(len(batch), len(own[0]), *each.shape[1:])
        found.index_put_((row, place), each, accumulate=True)
    return found.permute(0, 2, 3, 1).cpu(), scores.cpu()
