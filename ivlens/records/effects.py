"""Records of heads: their mean outputs, and their effects."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, Resamples, Seed, checked
from ..errors import ArgumentError, one_of
from ..vocabulary import METRICS, Head, Metric, check_count
from .finite import check_finite
from .store import Record


def heads_by_effect(values: Float[Tensor, "layer head"]) -> list[Head]:
    """All heads as (layer, head), strongest first; ties in the order of layer and head.

    Raises:
        ArgumentError: an effect is infinite or not a number.
    """
    check_finite("effects [layer, head] to rank", values)
    order = torch.sort(values.flatten(), descending=True, stable=True).indices.tolist()
    return [Head(*divmod(index, values.shape[1])) for index in order]


@dataclass(frozen=True, eq=False)
class HeadMeans(Record):
    """Mean output of each head before W_O at the last token of clean prompts (2310.15213, eq. 3).

    ``values`` is [layer, head, d_head] in the model's activation units; ``n`` counts the prompts.
    """

    values: Float[Tensor, "layer head d_head"]
    n: int
    task: str = ""

    def __post_init__(self) -> None:
        check_finite("means [layer, head, d_head]", self.values)


@dataclass(frozen=True, eq=False)
class HeadMap(Record):
    """One number a head with its standard error: ``aie`` and ``stderr``, both [layer, head]."""

    @property
    def aie(self) -> Float[Tensor, "layer head"]:
        raise NotImplementedError

    @property
    def stderr(self) -> Float[Tensor, "layer head"]:
        raise NotImplementedError

    @checked
    def top(self, k: Count) -> list[Head]:
        """The ``k`` heads of highest average indirect effect as (layer, head), highest first.

        Raises:
            ArgumentError: ``k`` beyond the number of heads.
        """
        check_count(k, self.aie.numel())
        return heads_by_effect(self.aie)[:k]

    def to_frame(self) -> pd.DataFrame:
        """One row a head, strongest first: layer, head, aie, stderr, rank (from 1)."""
        heads = heads_by_effect(self.aie)
        at = tuple(np.array(heads).T)
        columns = {"layer": at[0], "head": at[1], "aie": self.aie.numpy()[at], "stderr": self.stderr.numpy()[at]}
        return pd.DataFrame(columns | {"rank": range(1, len(heads) + 1)})


class OverPrompts:
    """What effects on several corrupted prompts share: how many there are, the mean over them, and its error."""

    values: Float[Tensor, "prompt layer head *place"]

    @property
    def n(self) -> int:
        """Number of corrupted prompts."""
        return self.values.shape[0]

    @property
    def aie(self) -> Float[Tensor, "layer head *place"]:
        """Average indirect effect of each head: the mean over prompts."""
        return self.values.mean(0)

    @property
    def stderr(self) -> Float[Tensor, "layer head *place"]:
        """Standard error of the mean over prompts (not a number for a single prompt)."""
        return (self.values.var(0, correction=0) / (self.n - 1)).sqrt()


@dataclass(frozen=True, eq=False)
class HeadEffects(OverPrompts, HeadMap):
    """Indirect effects of all heads on corrupted prompts (2310.15213, eq. 4; ``method.md`` section 2).

    ``values`` is [prompt, layer, head]: the metric with the head's output replaced by its clean mean, minus the
    metric without, in the metric's own unit (probability, nats, or logits); ``baseline`` [prompt] is the latter.
    """

    values: Float[Tensor, "prompt layer head"]
    baseline: Float[Tensor, " prompt"]
    metric: Metric
    method: str
    task: str = ""
    means: HeadMeans | None = field(default=None, metadata={"record": HeadMeans})

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)
        check_finite("effects [prompt, layer, head]", self.values)
        check_finite("baselines [prompt]", self.baseline)

    @checked
    def interval(
        self, level: float = 0.95, *, resamples: Resamples = 2000, seed: Seed = 0
    ) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
        """Lower and upper percentile-bootstrap bounds of the AIE, prompts being resampled (nan for a single prompt).

        Raises:
            ArgumentError: a level outside (0, 1), or no resamples.
        """
        if not 0 < level < 1:
            raise ArgumentError("level to be between 0 and 1", repr(level))
        check_finite("effects [prompt, layer, head]", self.values)
        if self.n < 2:
            return torch.full_like(self.aie, torch.nan), torch.full_like(self.aie, torch.nan)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(self.n, (resamples, self.n), generator=generator)
        counts = torch.zeros(resamples, self.n, dtype=self.values.dtype)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        means = torch.einsum("rp,plh->rlh", counts / self.n, self.values)
        tail = (1 - level) / 2
        low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
        return low, high


@dataclass(frozen=True, eq=False)
class UniversalEffects(HeadMap):
    """Mean over tasks of the tasks' AIEs, with the standard error that the prompts within each task give it."""

    mean: Float[Tensor, "layer head"]
    error: Float[Tensor, "layer head"]
    metric: Metric
    tasks: tuple[str, ...]
    n: int

    def __post_init__(self) -> None:
        check_finite("effects [layer, head]", self.mean)

    @property
    def aie(self) -> Float[Tensor, "layer head"]:
        """Mean over tasks of the tasks' AIEs."""
        return self.mean

    @property
    def stderr(self) -> Float[Tensor, "layer head"]:
        """Standard error over prompts, tasks held fixed."""
        return self.error


@dataclass(frozen=True, eq=False)
class Stability(Record):
    """How firmly prompts single out the ``k`` strongest heads: ``probability`` is [layer, head], over resamples.

    ``probability``: the fraction of resamples of the ``n`` prompts that have the head among their ``k`` strongest;
    ``overlap``: the mean fraction of a resample's ``k`` strongest heads that are also those of all prompts.
    """

    probability: Float[Tensor, "layer head"]
    overlap: float
    k: int
    n: int
    resamples: int
    task: str = ""

    def to_frame(self) -> pd.DataFrame:
        """One row a head, the surest first: layer, head, probability."""
        at = tuple(np.array(heads_by_effect(self.probability)).T)
        return pd.DataFrame({"layer": at[0], "head": at[1], "probability": self.probability.numpy()[at]})
