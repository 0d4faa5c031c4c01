"""Attribution patching: the effect of a patch to first order, from the metric's gradient at the parts' activations.

One forward and one backward pass give ``(mean - a) . d metric / d a`` for the activations a of all heads, attention
blocks, MLPs and residual streams at all positions, which is exact where the metric is linear between a and the mean.
With several steps the gradient is averaged along the path from a to the mean (integrated gradients, 1703.01365). Each
path moves one part of one layer at one position, all heads of a layer together, while later layers respond as in any
forward pass. With many steps the sum over the layer's heads tends to the effect of patching all of them, and each head
gets its Aumann-Shapley share; other parts get their exact effect. A path of all layers at once would mix the effects of
heads that feed each other; a path per head would be exact, but cost more than the loop.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models import (
    POINTS,
    Model,
    Rows,
    answer_logits,
    at_least_float32,
    differentiable,
    fused_attention,
    hooked,
    map_batches,
    padded,
    rows_that_fit,
)
from ..vocabulary import Metric, Part, TokenizedPrompt
from .metric import Measure

# Positions in one prompt that are patched together, and which of the means each is patched to.
Groups = Sequence[Mapping[int, int]]
Means = Mapping[Part, Float[Tensor, "mean layer ..."]]  # what parts are patched to, [mean, layer, *head, width]
Effects = dict[Part, Float[Tensor, "prompt layer ..."]]  # [prompt, layer, *head, group]
Products = dict[str, Float[Tensor, "token ..."]]  # by hook point, [token, *head]


class Replacement(NamedTuple):
    """What replaces the activations of some tokens of a batch at a hook point, and how far they are moved to it."""

    rows: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    values: Float[Tensor, "token *head width"]
    moved: Float[Tensor, " token"] | None = None  # fractions of the way

    def to(self, device: torch.device) -> "Replacement":
        moved = None if self.moved is None else self.moved.to(device)
        return Replacement(self.rows.to(device), self.positions.to(device), self.values.to(device), moved)


def prompts_that_fit(model: Model, pairs: Sequence[TokenizedPrompt], budget: int | None = None) -> int:
    """How many prompts fit into a batch of ``budget`` rows (None: as many as fit into memory).

    Autograd stores every layer's activations per token, so a batch holds budget / n_layers tokens.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    return max(1, (budget or rows_that_fit(model, longest)) // (model.cfg.n_layers * longest))


def attributed_effects(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    groups: Sequence[Groups],
    means: Means,
    metric: Metric,
    *,
    steps: int,
    batch_size: int,
    n_jobs: int | None,
) -> tuple[Effects, Float[Tensor, " prompt"]]:
    """First-order effects of parts at every group of positions, and the metric of the unpatched prompts.

    ``steps`` gradients are averaged, the first at the prompts' own activations; each further one costs a forward and a
    backward pass per part, layer and group. ``n_jobs`` workers share the batches.
    """
    dtype = at_least_float32(model.cfg.dtype)
    wide = {part: of_part.to(dtype) for part, of_part in means.items()}
    work = partial(_of_batch, groups=groups, means=wide, metric=metric, steps=steps, batch_size=batch_size)
    batches = map_batches(model, work, pairs, batch_size, n_jobs, kind="corrupted", doing="attribution")
    order = torch.tensor([number for numbers, _ in batches for number in numbers]).argsort()
    effects = {part: torch.cat([found[part] for _, (found, _) in batches])[order] for part in means}
    return effects, torch.cat([baseline for _, (_, baseline) in batches])[order].to(dtype)


def _of_batch(
    model: Model,
    numbered: tuple[list[int], Sequence[TokenizedPrompt]],
    groups: Sequence[Groups],
    means: Means,
    metric: Metric,
    steps: int,
    batch_size: int,
) -> tuple[Effects, Float[Tensor, " prompt"]]:
    """Effects and metric of one batch of prompts, on the CPU."""
    numbers, batch = numbered
    patched = [
        (row, position, group, mean)
        for row, number in enumerate(numbers)
        for group, positions in enumerate(groups[number])
        for position, mean in positions.items()
    ]
    row, position, group, mean = torch.tensor(patched, device=model.cfg.device).T
    values = {
        POINTS[part](layer): of_layer
        for part, of_part in means.items()
        for layer, of_layer in enumerate(of_part.to(row.device).unbind(1))
    }
    with differentiable(model):
        rows = padded(batch, row.device)
        measure = Measure(metric, rows.answers)
        clean = {point: Replacement(row, position, each[mean]) for point, each in values.items()}
        products, baseline = first_order(model, rows, clean, measure)
        for number, pair in enumerate(batch) if steps > 1 else ():
            its = row == number
            along = path_products(
                model, pair, (position[its], group[its], mean[its]), values, measure.copies(number, 1),
                steps=steps, batch_size=batch_size,
            )  # fmt: skip
            for point in products:
                products[point][its] += along[point]
    of_groups = {point: _summed(each / steps, row, group, numbers, groups) for point, each in products.items()}
    effects = {
        part: torch.stack([of_groups[POINTS[part](layer)] for layer in range(of_part.shape[1])], 1).movedim(2, -1).cpu()
        for part, of_part in means.items()
    }
    return effects, baseline.cpu()


def _summed(
    of_tokens: Float[Tensor, "token *head"],
    row: Int[Tensor, " token"],
    group: Int[Tensor, " token"],
    numbers: Sequence[int],
    groups: Sequence[Groups],
) -> Float[Tensor, "prompt group *head"]:
    """Each prompt's sums over the tokens of each group."""
    total = of_tokens.new_zeros(len(numbers), len(groups[numbers[0]]), *of_tokens.shape[1:])
    return total.index_put_((row, group), of_tokens, accumulate=True)


def path_products(
    model: Model,
    pair: TokenizedPrompt,
    tokens: tuple[Int[Tensor, " token"], Int[Tensor, " token"], Int[Tensor, " token"]],
    values: Mapping[str, Float[Tensor, "mean *head width"]],
    measure: Measure,
    *,
    steps: int,
    batch_size: int,
) -> Products:
    """Sum of a prompt's products at 1/steps, 2/steps ... of the path, running copies of the prompt together.

    ``tokens`` are their positions, groups and means; in a copy, the activations at one hook point and one group are
    moved along the path. ``measure`` is that of the prompt alone.
    """
    position, group, mean = tokens
    points = [*values]
    shapes = {point: (len(group), *each.shape[1:-1]) for point, each in values.items()}
    total = {point: values[point].new_zeros(shape) for point, shape in shapes.items()}
    moves = [*product(range(len(points)), group.unique().tolist(), range(1, steps))]
    for start in range(0, len(moves), batch_size):
        chunk = torch.tensor(moves[start : start + batch_size], device=group.device)  # copy (point, group, step)
        replacements, which = {}, {}
        for number in chunk[:, 0].unique().tolist():
            copy, token = ((chunk[:, :1] == number) & (chunk[:, 1:2] == group)).nonzero().T
            point, moved = points[number], chunk[copy, 2] / steps
            which[point] = token
            replacements[point] = Replacement(copy, position[token], values[point][mean[token]], moved)
        rows = padded([pair] * len(chunk), group.device)
        products, _ = first_order(model, rows, replacements, measure.copies(0, len(chunk)))
        for point, each in products.items():
            total[point].index_add_(0, which[point], each)
    return total


def first_order(
    model: Model,
    rows: Rows,
    replacements: Mapping[str, Replacement],
    measure: Callable[[Sequence[Tensor]], Float[Tensor, " row"]],
) -> tuple[Products, Float[Tensor, " row"]]:
    """By hook point, replacement minus activation, times the metric's gradient where it is moved; each row's metric.

    The backward pass multiplies each gradient as soon as it is known, so that no gradients are kept. No parameter gets
    one (see ``differentiable``).
    """
    products: Products = {}
    source = torch.zeros((), requires_grad=True)  # the leaf at which the backward pass ends

    def edit(point: str, activation: Float[Tensor, "batch pos *head width"]) -> Tensor:
        row, position, values, moved = replacements[point].to(activation.device)
        delta = values - activation.detach()[row, position]
        if moved is not None:
            offset = moved.to(delta).view(-1, *[1] * (delta.ndim - 1)) * delta
            activation = activation.index_put((row, position), offset.to(activation), accumulate=True)
        if not activation.requires_grad:
            activation = activation + source

        def multiply(gradient: Tensor) -> None:
            products[point] = (delta * gradient[row, position].to(delta)).sum(-1).to(replacements[point].values.device)

        activation.register_hook(multiply)
        return activation

    edits = {point: partial(edit, point) for point in replacements}
    with hooked(model, edits), fused_attention(model):  # in this order, since edits keep other threads off the model
        metric = measure(answer_logits(model, rows))
    torch.autograd.grad(metric.sum(), source)
    return products, metric.detach()
