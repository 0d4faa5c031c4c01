"""One forward and one backward pass: heads' outputs at some tokens, and the metric's gradient there."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models import HookedTransformer, Rows, answer_logits, hooked, z_name

Cells = tuple[Int[Tensor, " cell"], Int[Tensor, " cell"]]  # row and position of some tokens of a batch
Outputs = dict[int, Float[Tensor, "cell head d_head"]]  # by layer, at its cells


def slopes(
    model: HookedTransformer,
    rows: Rows,
    cells: Mapping[int, Cells],
    moved: Mapping[int, Float[Tensor, "cell head d_head"]],
    measure: Callable[[Sequence[Tensor]], Float[Tensor, " row"]],
) -> tuple[Outputs, Outputs, Float[Tensor, " row"]]:
    """For each layer at its cells, the heads' outputs and each row's gradient; and what ``measure`` reads of the rows.

    Outputs are those before they are ``moved`` by what is added to them, gradients are taken after it. No other
    activation is kept than the graph needs, and no parameter gets a gradient (see ``differentiable``).
    """
    outputs: Outputs = {}
    added = {layer: by.detach().clone().requires_grad_() for layer, by in moved.items()}

    def edit(layer: int, z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        outputs[layer] = z[cells[layer]].detach()
        return z.index_put(cells[layer], added[layer].to(z), accumulate=True)

    with hooked(model, {z_name(layer): partial(edit, layer) for layer in cells}):
        metric = measure(answer_logits(model, rows))
    gradients = torch.autograd.grad(metric.sum(), [*added.values()])
    return outputs, dict(zip(added, gradients, strict=True)), metric.detach()
