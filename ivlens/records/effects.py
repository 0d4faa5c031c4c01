"""Records of heads: mean outputs, effects, their stability, and how far methods agree on them."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, check_finite, checked
from ..errors import one_of
from ..stats import check_level, t_interval
from ..vocabulary import METRICS, Head, check_count
from .store import Record


def heads_by_effect(values: Float[Tensor, "layer head"]) -> list[Head]:
    """All heads, strongest first; ties in the order of layer and head.

    Args:
        values: one effect per head.

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

    Example:
        >>> iv.mean_head_activations(model, prompts).values.shape  # layer head d_head
        torch.Size([2, 4, 8])
    """

    values: Float[Tensor, "layer head d_head"]
    n: int
    task: str = ""

    def __post_init__(self) -> None:
        check_finite("means [layer, head, d_head]", self.values)


@dataclass(frozen=True, eq=False)
class HeadMap(Record):
    """One number per head with its standard error: ``aie`` and ``stderr``, both [layer, head]."""

    @property
    def aie(self) -> Float[Tensor, "layer head"]:
        """Average indirect effect of each head, in the metric's unit."""
        raise NotImplementedError

    @property
    def stderr(self) -> Float[Tensor, "layer head"]:
        """Standard error of the average."""
        raise NotImplementedError

    @checked
    def top(self, k: Count) -> list[Head]:
        """The ``k`` heads of highest average indirect effect, highest first.

        Args:
            k: how many heads.

        Returns:
            Heads (layer, head), equal to plain tuples.

        Raises:
            ArgumentError: ``k`` beyond the number of heads.

        Example:
            >>> len(effects.top(3))
            3
        """
        check_count(k, self.aie.numel())
        return self.ranking()[:k]

    def ranking(self) -> list[Head]:
        """All heads, strongest first; ties in the order of layer and head."""
        return heads_by_effect(self.aie)

    def to_frame(self) -> pd.DataFrame:
        """One row per head, strongest first: layer, head, aie, stderr, rank (from 1)."""
        heads = self.ranking()
        index = tuple(np.array(heads).T)
        columns = {"layer": index[0], "head": index[1]}
        columns |= {"aie": self.aie.numpy()[index], "stderr": self.stderr.numpy()[index]}
        return pd.DataFrame(columns | {"rank": range(1, len(heads) + 1)})


class OverPrompts:
    """Base of effects on several corrupted prompts: their number, the mean over them, and its standard error."""

    values: Float[Tensor, "prompt layer head *position"]

    @property
    def n(self) -> int:
        """Number of corrupted prompts."""
        return self.values.shape[0]

    @property
    def aie(self) -> Float[Tensor, "layer head *position"]:
        """Average indirect effect of each head: the mean over prompts."""
        return self.values.mean(0)

    @property
    def stderr(self) -> Float[Tensor, "layer head *position"]:
        """Standard error of the mean over prompts (not a number for a single prompt)."""
        return (self.values.var(0, correction=0) / (self.n - 1)).sqrt()


@dataclass(frozen=True, eq=False)
class HeadEffects(OverPrompts, HeadMap):
    """Indirect effects of all heads on corrupted prompts (2310.15213, eq. 4).

    ``values`` is [prompt, layer, head]: the metric with the head's output replaced by its clean mean, minus the
    metric without, in the metric's own unit (probability, nats, or logits); ``baseline`` [prompt] is the latter.

    Example:
        >>> effects.aie.shape, len(effects.top(3))
        (torch.Size([2, 4]), 3)
    """

    values: Float[Tensor, "prompt layer head"]
    baseline: Float[Tensor, " prompt"]
    metric: str
    method: str
    task: str = ""
    means: HeadMeans | None = field(default=None, metadata={"record": HeadMeans})

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)
        check_finite("effects [prompt, layer, head]", self.values)
        check_finite("baselines [prompt]", self.baseline)

    @checked
    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
        """Student's t interval of the average indirect effect over prompts like these.

        Args:
            level: the interval's level, between 0 and 1.

        Returns:
            Lower and upper ends, in the metric's unit (not a number for a single prompt).

        Raises:
            ArgumentError: a level outside (0, 1).

        Example:
            >>> low, high = effects.interval(0.9)
            >>> low.shape == effects.aie.shape
            True
        """
        check_level(level)
        check_finite("effects [prompt, layer, head]", self.values)
        return t_interval(self.values, level)


@dataclass(frozen=True, eq=False)
class UniversalEffects(HeadMap):
    """Mean over tasks of the tasks' AIEs, with its standard error over the prompts within each task.

    Example:
        >>> len(iv.universal_effects([effects, effects]).top(3))
        3
    """

    mean: Float[Tensor, "layer head"]
    error: Float[Tensor, "layer head"]
    metric: str
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
    """Stability of the ``k`` strongest heads under resampling of the prompts; ``probability`` is [layer, head].

    ``probability``: the fraction of resamples of the ``n`` prompts that have the head among their ``k`` strongest;
    ``overlap``: the mean fraction of a resample's ``k`` strongest heads that are also those of all prompts.

    Example:
        >>> iv.top_k_stability(effects, 2, resamples=10).k
        2
    """

    probability: Float[Tensor, "layer head"]
    overlap: float
    k: int
    n: int
    resamples: int
    task: str = ""

    def to_frame(self) -> pd.DataFrame:
        """One row per head, the most probable first: layer, head, probability."""
        index = tuple(np.array(heads_by_effect(self.probability)).T)
        columns = {"layer": index[0], "head": index[1], "probability": self.probability.numpy()[index]}
        return pd.DataFrame(columns)


@dataclass(frozen=True, eq=False)
class MethodAgreement(Record):
    """Effects of all heads by several methods, each compared with those of the first, the reference.

    For each method and prompt, [method, prompt], ``spearman`` is the rank correlation over heads and ``overlap`` the
    fraction of the reference's ``k`` strongest heads among the method's; ``aie_spearman`` and ``aie_overlap`` [method]
    are those of the average indirect effects. Or over parts, or positions, where these were compared.

    Example:
        >>> iv.compare_methods(model, prompts, means, k=2).methods
        ('attribution',)
    """

    spearman: Float[Tensor, "method prompt"]
    overlap: Float[Tensor, "method prompt"]
    aie_spearman: Float[Tensor, " method"]
    aie_overlap: Float[Tensor, " method"]
    methods: tuple[str, ...] = field(metadata={"axis": "method"})
    reference: str
    metric: str
    k: int
    task: str = ""

    @property
    def n(self) -> int:
        """Number of corrupted prompts."""
        return self.spearman.shape[1]

    def to_frame(self) -> pd.DataFrame:
        """One row per method: method, reference, aie_spearman, aie_overlap; spearman and overlap, means over prompts;
        lowest_spearman and lowest_overlap, those of the worst prompt; k, n."""
        return pd.DataFrame({
            "method": self.methods, "reference": self.reference,
            "aie_spearman": self.aie_spearman.numpy(), "aie_overlap": self.aie_overlap.numpy(),
            "spearman": self.spearman.mean(1).numpy(), "lowest_spearman": self.spearman.amin(1).numpy(),
            "overlap": self.overlap.mean(1).numpy(), "lowest_overlap": self.overlap.amin(1).numpy(),
            "k": self.k, "n": self.n,
        })  # fmt: skip
