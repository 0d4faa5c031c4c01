"""What a checkpoint keeps of what the base has, as fractions with intervals over the same prompts."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..stats import NOTHING as NOTHING
from ..stats import Interval, ratio_of_means
from ..stats import cosine as cosine
from ..stats import jackknife as jackknife
from ..stats import linear_cka as linear_cka
from ..stats import paired_drop as paired_drop


def recovered_fraction(
    base_bare: Bool[Tensor, " prompt"], base_steered: Bool[Tensor, " prompt"],
    bare: Bool[Tensor, " prompt"], steered: Bool[Tensor, " prompt"],
) -> Interval:  # fmt: skip
    """What a vector adds on a checkpoint's bare prompts, as a fraction of what it adds on the base's."""
    rows = torch.stack([base_bare, base_steered, bare, steered]).double()
    return ratio_of_means(rows[3] - rows[2], rows[1] - rows[0])


def remembered_fraction(base: Float[Tensor, " prompt"], now: Float[Tensor, " prompt"]) -> Interval:
    """Mean knowledge probability as a fraction of the base's."""
    return ratio_of_means(now.double(), base.double())
