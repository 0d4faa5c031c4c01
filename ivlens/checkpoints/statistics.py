"""Numbers with intervals from paired measurements: the same prompts asked of the base and of a checkpoint."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .verdict import Interval

RESAMPLES = 2000
NOTHING: Interval = (float("nan"), float("nan"), float("nan"))


def paired_drop(base: Bool[Tensor, " prompt"], now: Bool[Tensor, " prompt"]) -> Interval:
    """Drop of accuracy with Agresti and Min's (2005) 95% interval for matched pairs: half a prompt in each cell."""
    n = len(base)
    lost, won = int((base & ~now).sum()), int((now & ~base).sum())
    middle = (lost - won) / (n + 2)
    half = 1.96 * max((lost + won + 1) - (lost - won) ** 2 / (n + 2), 0) ** 0.5 / (n + 2)
    return (lost - won) / n, middle - half, middle + half


def recovered_fraction(
    base_bare: Bool[Tensor, " prompt"], base_steered: Bool[Tensor, " prompt"],
    bare: Bool[Tensor, " prompt"], steered: Bool[Tensor, " prompt"],
) -> Interval:  # fmt: skip
    """What a vector adds on a checkpoint's bare prompts, as a fraction of what it adds on the base's."""
    rows = torch.stack([base_bare, base_steered, bare, steered]).double()
    return _ratio(rows[3] - rows[2], rows[1] - rows[0])


def remembered_fraction(base: Float[Tensor, " prompt"], now: Float[Tensor, " prompt"]) -> Interval:
    """Mean knowledge probability as a fraction of the base's."""
    return _ratio(now.double(), base.double())


def _ratio(above: Float[Tensor, " prompt"], below: Float[Tensor, " prompt"]) -> Interval:
    """Ratio of means with its 95% percentile bootstrap over prompts; nothing where the lower mean is not positive."""
    if below.mean() <= 0:
        return NOTHING
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(above), (RESAMPLES, len(above)), generator=generator)
    tops, bottoms = above[drawn].mean(1), below[drawn].mean(1)
    ratios = (tops / bottoms)[bottoms > 0]
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
    return (above.mean() / below.mean()).item(), low, high


def jackknife(
    base: Float[Tensor, "group *shape"],
    now: Float[Tensor, "group *shape"],
    statistic: Callable[[Tensor, Tensor], Tensor],
) -> Interval:
    """A statistic of two means over the same groups of prompts, two delete-a-group standard errors to each side."""
    groups = len(base)
    whole = statistic(base.mean(0), now.mean(0))
    left = [[*range(at), *range(at + 1, groups)] for at in range(groups)]
    values = torch.stack([statistic(base[rest].mean(0), now[rest].mean(0)) for rest in left])
    error = ((groups - 1) / groups * (values - values.mean()).square().sum()).sqrt()
    return whole.item(), (whole - 2 * error).item(), (whole + 2 * error).item()


def cosine(one: Float[Tensor, "*#rows d_model"], two: Float[Tensor, "*#rows d_model"]) -> Float[Tensor, "*rows"]:
    """Cosine of two vectors, in float64; not a number where one is zero and has no direction."""
    one, two = one.double(), two.double()
    return (one * two).sum(-1) / (one.norm(dim=-1) * two.norm(dim=-1))


def linear_cka(one: Float[Tensor, "prompt d_model"], two: Float[Tensor, "prompt d_model"]) -> float:
    """Linear CKA of two sets of hidden states of the same prompts (Kornblith et al., arXiv 1905.00414, eq. 3)."""
    first, second = (each.double() - each.double().mean(0) for each in (one, two))
    grams = [each @ each.T for each in (first, second)]
    norms = grams[0].norm() * grams[1].norm()
    return ((grams[0] * grams[1]).sum() / norms).item() if norms > 0 else float("nan")
