"""The terms of the objective as plain functions (method: 2406.12227 and 2502.11019); each gives a value a row or token.

The loop weighs their means and adds them up; which of them count is said by ``Guidance``.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SCHEDULES = ("none", "linear", "cosine", "constant")
DIRECTIONS = ("forward", "reverse")


def cross_entropy(logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Supervised term: -log P of each answer token, teacher forced, in nats."""
    return F.cross_entropy(logits, targets, reduction="none")


def divergence(
    teacher: Float[Tensor, "token vocab"],
    student: Float[Tensor, "token vocab"],
    *,
    direction: str = "forward",
    temperature: float = 1.0,
    temperature_squared: bool = False,
) -> Float[Tensor, " token"]:
    """KL divergence of next-token distributions, in nats, at each place.

    ``"forward"`` is KL(teacher || student), as in Hinton et al. (arXiv 1503.02531), whose factor of the temperature
    squared keeps the gradient's size; ``"reverse"`` is KL(student || teacher), as the code of 2502.11019 computes.
    """
    ours, theirs = (F.log_softmax(logits / temperature, -1) for logits in (student, teacher))
    true, other = (theirs, ours) if direction == "forward" else (ours, theirs)
    value = F.kl_div(other, true, reduction="none", log_target=True).sum(-1)
    return value * temperature**2 if temperature_squared else value


def consistency(
    z: Float[Tensor, "row chosen d_head"], base_z: Float[Tensor, "row chosen d_head"], reduction: str = "sum"
) -> Float[Tensor, " row"]:
    """Head consistency: squared distance of the chosen heads' outputs to the base's (2502.11019).

    The paper sums over heads and their dimensions; its code takes the ``"mean"``.
    """
    squares = (z - base_z).square().flatten(1)
    return squares.sum(1) if reduction == "sum" else squares.mean(1)


def floored(value: Float[Tensor, ""], floor: float) -> Float[Tensor, ""]:
    """The value, or zero without a gradient while it is below the floor (the code of 2502.11019)."""
    return torch.zeros_like(value) if value.item() < floor else value


def remaining(schedule: str, step: int, steps: float) -> float:
    """How much is left at a step of what falls from 1 to 0 over so many steps (2406.12227: of the vector)."""
    done = min(step / steps, 1.0)
    return {
        "none": 0.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "constant": 1.0,
    }[schedule]


@torch.no_grad()
def pull_back(parameters: Iterable[Tensor], anchors: Iterable[Tensor], strength: float) -> None:
    """L2 to the initial weights, decoupled from Adam as in AdamW: w <- w + strength * (w0 - w)."""
    torch._foreach_lerp_(list(parameters), list(anchors), min(strength, 1.0))
