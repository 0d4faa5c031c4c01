"""The mathematics of the objective as pure functions, each with shapes, unit, paper, and where its code differs.

A term of ``terms.py`` takes the mean of one of these over tokens or prompts; a step adds up the weighted means.
The methods are those of arXiv 2406.12227 (instruction vectors) and arXiv 2502.11019 (function vector guided training);
their rivals are elastic weight consolidation (arXiv 1612.00796) and O-LoRA (arXiv 2310.14152).
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Schedule = Literal["linear", "cosine", "constant"]
KLDirection = Literal["forward", "reverse"]
Reduction = Literal["sum", "mean"]


def cross_entropy(logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Negative log-probability of each target token, in nats: ``-log softmax(logits)[target]``.

    Args:
        logits: next-token logits, [token, vocab].
        targets: ids of the tokens that follow, [token].

    Returns:
        One value per token, [token].

    Example:
        >>> import torch
        >>> from ivlens.training.objective import cross_entropy
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
        tensor([4., 4.])
    """
    return F.cross_entropy(logits, targets, reduction="none")


def divergence(
    teacher: Float[Tensor, "token vocab"],
    student: Float[Tensor, "token vocab"],
    *,
    direction: KLDirection = "forward",
    temperature: float = 1.0,
    temperature_squared: bool = False,
) -> Float[Tensor, " token"]:
    """KL divergence of the next-token distributions, in nats.

    With P = softmax(teacher / T) and Q = softmax(student / T), ``"forward"`` is KL(P || Q) = sum P log(P / Q), as in
    Hinton et al. (arXiv 1503.02531), whose factor T^2 keeps the size of the gradient; ``"reverse"`` is KL(Q || P),
    which the code of arXiv 2502.11019 computes (at T = 2, without T^2).

    Args:
        teacher: logits of the frozen model, [token, vocab].
        student: logits of the trained model, [token, vocab].
        direction: which distribution the expectation is taken under.
        temperature: T, which both logits are divided by.
        temperature_squared: multiply by T^2.

    Returns:
        One value per token, [token].

    Example:
        >>> import torch
        >>> from ivlens.training.objective import divergence
        >>> divergence(torch.zeros(2, 4), torch.zeros(2, 4), temperature=2.0)
        tensor([0., 0.])
    """
    ours, theirs = (F.log_softmax(logits / temperature, -1) for logits in (student, teacher))
    true, other = (theirs, ours) if direction == "forward" else (ours, theirs)
    value = F.kl_div(other, true, reduction="none", log_target=True).sum(-1)
    return value * temperature**2 if temperature_squared else value


def consistency(
    z: Float[Tensor, "prompt chosen d_head"],
    base_z: Float[Tensor, "prompt chosen d_head"],
    reduction: Reduction = "sum",
) -> Float[Tensor, " prompt"]:
    """Head consistency: squared distance of the chosen heads' outputs to the base model's (arXiv 2502.11019).

    The paper sums over heads and their dimensions, ``sum_h ||z_h - z_h^base||^2``. Its code takes each head alone: the
    ``"mean"`` of its dimensions and prompts, zero below a floor, and then the sum over heads
    (``HeadConsistency(reduction="mean", per_head=True)``), k times the mean of k heads.

    Args:
        z: outputs of the heads before W_O, [prompt, chosen head, d_head].
        base_z: the same in the base model.
        reduction: over heads and dimensions.

    Returns:
        One value per prompt, [prompt], in the squared unit of the activations.

    Example:
        >>> import torch
        >>> from ivlens.training.objective import consistency
        >>> consistency(torch.ones(1, 2, 3), torch.zeros(1, 2, 3))
        tensor([6.])
    """
    squares = (z - base_z).square().flatten(1)
    return squares.sum(1) if reduction == "sum" else squares.mean(1)


def floored(value: Float[Tensor, ""], floor: float) -> Float[Tensor, ""]:
    """The value, or zero without a gradient while it is below the floor (the code of arXiv 2502.11019).

    Args:
        value: a mean loss, a scalar.
        floor: the least value that counts, in the same unit.

    Returns:
        A scalar; a value that is not a number stays so.

    Example:
        >>> import torch
        >>> from ivlens.training.objective import floored
        >>> floored(torch.tensor(0.05), 0.1), floored(torch.tensor(0.5), 0.1)
        (tensor(0.), tensor(0.5000))
    """
    return torch.zeros_like(value) if value.item() < floor else value


def remaining(schedule: Schedule, step: int, steps: float) -> float:
    """A factor that falls from 1 to 0 over ``steps`` steps (arXiv 2406.12227: the vector's).

    Args:
        schedule: ``"linear"``, ``"cosine"`` (half a period), or ``"constant"``, which stays at 1.
        step: the number of the step, from 0.
        steps: the number of steps after which the factor is 0.

    Returns:
        A number from 0 to 1.

    Example:
        >>> from ivlens.training.objective import remaining
        >>> [remaining("linear", step, 4) for step in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    done = min(step / steps, 1.0)
    return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[schedule]


@torch.no_grad()
def elastic(
    change: Float[Tensor, "..."], fisher: Float[Tensor, "..."]
) -> tuple[Float[Tensor, ""], Float[Tensor, "..."]]:
    """Elastic weight consolidation of one weight: ``1/2 sum_i F_i (w_i - w0_i)^2`` (arXiv 1612.00796, eq. 3).

    Args:
        change: how far the weight is from its initial value, ``w - w0``, of any shape.
        fisher: the diagonal of the Fisher information at the initial weights, of the same shape, in squared nats per
            squared unit of the weight.

    Returns:
        The penalty, a scalar, and its gradient by the weight, ``F (w - w0)``, of the weight's shape.

    Example:
        >>> import torch
        >>> from ivlens.training.objective import elastic
        >>> elastic(torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.5]))
        (tensor(3.), tensor([ 4., -1.]))
    """
    gradient = fisher * change
    return (gradient * change).sum() / 2, gradient


@torch.no_grad()
def overlap(
    factor: Float[Tensor, "rank in"], earlier: Float[Tensor, "earlier in"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "rank in"]]:
    """Overlap of an adapter's inputs with earlier adapters': ``sum_i ||A_i A^T||_F^2`` (arXiv 2310.14152, eq. 8).

    The paper's columns of A are the rows here, as in LoRA's own code. The authors' code sums absolute values instead of
    squares, whose gradient does not fade as the overlap does.

    Args:
        factor: the trained factor A, [rank, in].
        earlier: the factors A of all earlier adapters, one below the other, [all their ranks, in].

    Returns:
        The overlap, a scalar, and its gradient by A, ``2 A E^T E`` for the earlier factors E, [rank, in].

    Example:
        >>> import torch
        >>> from ivlens.training.objective import overlap
        >>> overlap(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0]]))
        (tensor(36.), tensor([[ 0., 36.]]))
    """
    products = factor @ earlier.T
    return products.square().sum(), 2 * products @ earlier


@torch.no_grad()
def pull_back(parameters: Iterable[Tensor], anchors: Iterable[Tensor], strength: float) -> None:
    """Pull parameters towards their initial values in place: ``w <- w + strength * (w0 - w)``.

    This is L2 regularisation to the initial weights, decoupled from Adam as weight decay is in AdamW
    (arXiv 1711.05101).

    Args:
        parameters: the parameters to change.
        anchors: the initial values, in the same order.
        strength: fraction of the distance to the initial values, at most 1.

    Example:
        >>> import torch
        >>> from ivlens.training.objective import pull_back
        >>> weight = torch.tensor([4.0])
        >>> pull_back([weight], [torch.zeros(1)], 0.25)
        >>> weight
        tensor([3.])
    """
    torch._foreach_lerp_(list(parameters), list(anchors), min(strength, 1.0))
