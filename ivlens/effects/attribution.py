"""Attribution patching: the effect of a patch to first order, from the metric's gradient at the heads' outputs.

One forward and one backward pass give ``(zbar - z) . d metric / d z`` for all heads at all positions, which is exact
where the metric is linear between z and zbar. With several steps the gradient is averaged along the path from z to zbar
(integrated gradients, 1703.01365). Each path moves one layer's heads at one position together, while later layers
respond as in any forward pass. With many steps the sum over the layer's heads tends to the effect of patching all of
them, and each head gets its Aumann-Shapley share. A path of all layers at once would mix the effects of heads that feed
each other; a path per head would be exact, but cost more than the loop.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models import (
    HookedTransformer,
    Rows,
    answer_logits,
    at_least_float32,
    differentiable,
    hooked,
    map_batches,
    padded,
    z_name,
)
from ..vocabulary import Metric, TokenizedPrompt
from .metric import Measure

Groups = Sequence[Sequence[int]]  # positions in one prompt that are patched together
Batch = tuple[Float[Tensor, "batch layer head group"], Float[Tensor, " batch"]]
Tokens = tuple[Int[Tensor, " token"], Int[Tensor, " token"]]  # row and position of some tokens of a batch
Outputs = dict[int, Float[Tensor, "token head d_head"]]  # by layer, at its tokens
Deltas = Float[Tensor, "layer token head d_head"]


def attributed_effects(
    model: HookedTransformer,
    pairs: Sequence[TokenizedPrompt],
    groups: Sequence[Groups],
    means: Float[Tensor, "group layer head d_head"],
    metric: Metric,
    *,
    steps: int,
    batch_size: int,
    n_jobs: int | None,
) -> tuple[Float[Tensor, "prompt layer head group"], Float[Tensor, " prompt"]]:
    """First-order effects of every head at every group of positions, and the metric of the unpatched prompts.

    ``steps`` gradients are averaged, the first at z; each further one costs a forward and a backward pass per layer and
    group. ``n_jobs`` workers share the batches.
    """
    n_groups, layers, heads, _ = means.shape
    dtype = at_least_float32(model.cfg.dtype)
    work = partial(_of_batch, groups=groups, means=means.to(dtype), metric=metric, steps=steps, batch_size=batch_size)
    batches = map_batches(model, work, pairs, batch_size, n_jobs, kind="corrupted", doing="attribution")
    effects = torch.zeros(len(pairs), layers, heads, n_groups, dtype=dtype)
    baseline = torch.zeros(len(pairs), dtype=dtype)
    for numbers, of_batch in batches:
        effects[numbers], baseline[numbers] = (each.to(effects) for each in of_batch)
    return effects, baseline


def _of_batch(
    model: HookedTransformer,
    numbered: tuple[list[int], Sequence[TokenizedPrompt]],
    groups: Sequence[Groups],
    means: Float[Tensor, "group layer head d_head"],
    metric: Metric,
    steps: int,
    batch_size: int,
) -> Batch:
    """Effects of one batch of prompts, on the CPU."""
    numbers, batch = numbered
    patched = [
        (row, position, group)
        for row, number in enumerate(numbers)
        for group, positions in enumerate(groups[number])
        for position in positions
    ]
    layers = range(means.shape[1])
    with differentiable(model):
        means = means.to(model.cfg.device)
        row, position, group = torch.tensor(patched, device=means.device).T
        rows = padded(batch, means.device)
        measure = Measure(metric, rows.answers)
        zeros = means.new_zeros(len(patched), *means.shape[2:])
        outputs, gradients, baseline = gradients_at(
            model, rows, dict.fromkeys(layers, (row, position)), dict.fromkeys(layers, zeros), measure
        )
        deltas = torch.stack([means[group, layer] - outputs[layer] for layer in layers])
        total = torch.stack([gradients[layer].to(deltas) for layer in layers])
        for number, pair in enumerate(batch) if steps > 1 else ():
            its = row == number
            total[:, its] += path_gradients(
                model, pair, (position[its], group[its]), deltas[:, its], measure.copies(number, 1),
                steps=steps, batch_size=batch_size,
            )  # fmt: skip
        of_tokens = (deltas * total).sum(-1).permute(1, 0, 2) / steps  # token layer head
        effects = of_tokens.new_zeros(len(batch), len(groups[numbers[0]]), *of_tokens.shape[1:])
        effects.index_put_((row, group), of_tokens, accumulate=True)
    return effects.permute(0, 2, 3, 1).cpu(), baseline.cpu()


def path_gradients(
    model: HookedTransformer,
    pair: TokenizedPrompt,
    tokens: tuple[Int[Tensor, " token"], Int[Tensor, " token"]],
    deltas: Deltas,
    measure: Measure,
    *,
    steps: int,
    batch_size: int,
) -> Deltas:
    """Sum of a prompt's gradients at 1/steps, 2/steps ... of the path, running copies of the prompt together.

    ``tokens`` are their positions and groups; in a copy, one layer's outputs at one group are moved along the path.
    ``measure`` is that of the prompt alone.
    """
    position, group = tokens
    total = torch.zeros_like(deltas)
    moves = [*product(range(len(deltas)), group.unique().tolist(), range(1, steps))]
    for start in range(0, len(moves), batch_size):
        chunk = torch.tensor(moves[start : start + batch_size], device=group.device)  # copy (layer, group, step)
        layers = chunk[:, 0].unique().tolist()
        moved = {layer: ((chunk[:, :1] == layer) & (chunk[:, 1:2] == group)).nonzero().T for layer in layers}
        offsets = {
            layer: (chunk[copy, 2] / steps)[:, None, None] * deltas[layer, token]
            for layer, (copy, token) in moved.items()
        }
        at = {layer: (copy, position[token]) for layer, (copy, token) in moved.items()}
        rows = padded([pair] * len(chunk), group.device)
        _, gradients, _ = gradients_at(model, rows, at, offsets, measure.copies(0, len(chunk)))
        for layer, (_, token) in moved.items():
            total[layer].index_add_(0, token, gradients[layer].to(total))
    return total


def gradients_at(
    model: HookedTransformer,
    rows: Rows,
    tokens: Mapping[int, Tokens],
    offsets: Mapping[int, Float[Tensor, "token head d_head"]],
    measure: Callable[[Sequence[Tensor]], Float[Tensor, " row"]],
) -> tuple[Outputs, Outputs, Float[Tensor, " row"]]:
    """By layer, heads' outputs at its tokens and the metric's gradients there; and each row's metric.

    Outputs are taken before ``offsets`` are added, gradients after. Autograd stores only the activations that it needs,
    and no parameter gets a gradient (see ``differentiable``).
    """
    outputs: Outputs = {}
    added = {layer: offset.detach().clone().requires_grad_() for layer, offset in offsets.items()}

    def edit(layer: int, z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        outputs[layer] = z[tokens[layer]].detach()
        return z.index_put(tokens[layer], added[layer].to(z), accumulate=True)

    with hooked(model, {z_name(layer): partial(edit, layer) for layer in tokens}):
        metric = measure(answer_logits(model, rows))
    gradients = torch.autograd.grad(metric.sum(), [*added.values()])
    return outputs, dict(zip(added, gradients, strict=True)), metric.detach()
