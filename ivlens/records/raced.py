"""Effects from a race for the strongest heads: a head that dropped out has the first few prompts only."""

from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..checks import Count, check_finite, checked
from ..errors import ArgumentError, one_of
from ..stats import check_level, t_quantile
from ..vocabulary import METRICS, Head, check_count
from .effects import HeadMap, HeadMeans, heads_by_effect


@dataclass(frozen=True, eq=False)
class RacedEffects(HeadMap):
    """Indirect effects from a race for the ``k`` strongest heads (``locate_heads(..., race=True)``).

    ``values`` is [prompt, layer, head] as in ``HeadEffects``, exact wherever a head was measured. Head h was measured
    on the first ``n_prompts[h]`` prompts, which came in random order; the rest of its values is nan, not measured.
    ``rounds``: after how many prompts heads could drop out, and the number of all prompts, which the finalists have.
    ``baseline`` [prompt] is the metric of the unpatched prompts.

    What dropped out did so because its mean was low, so the mean that it left with is too low on average, most where
    it had few prompts; ``interval`` allows for that. Effects of all heads on the same prompts come from a sweep, and
    what compares such effects, such as ``universal_effects`` and ``top_k_stability``, takes no race.

    Example:
        >>> raced = iv.locate_heads(model, task, n_clean=4, n_corrupted=4, race=True, k=3)
        >>> len(raced.top(3)), raced.n_prompts.shape
        (3, torch.Size([2, 4]))
    """

    values: Float[Tensor, "prompt layer head"]
    baseline: Float[Tensor, " prompt"]
    n_prompts: Int[Tensor, "layer head"]
    k: int
    rounds: tuple[int, ...]
    metric: str
    method: str
    task: str = ""
    means: HeadMeans | None = field(default=None, metadata={"record": HeadMeans})

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)
        check_count(self.k, self.n_prompts.numel())
        odd = set(self.n_prompts.flatten().tolist()) - set(self.rounds)
        if odd or not self.rounds or self.rounds[-1] != self.n or int(self.finalists.sum()) < self.k:
            raise ArgumentError(
                f"a round's number of prompts for every head, {self.n} in the last and for {self.k} heads or more",
                f"{sorted(set(self.n_prompts.flatten().tolist()))} prompts in rounds {self.rounds}",
            )  # fmt: skip
        if (self.values.isnan() < ~self.measured).any():
            raise ArgumentError("nan for every prompt that a head was not measured on", "other values")
        check_finite("effects that were measured", self.values[self.measured])
        check_finite("baselines [prompt]", self.baseline)

    @property
    def n(self) -> int:
        """Number of corrupted prompts, which the finalists have."""
        return self.values.shape[0]

    @property
    def measured(self) -> Bool[Tensor, "prompt layer head"]:
        """Whether a head was measured on a prompt."""
        return torch.arange(self.n)[:, None, None] < self.n_prompts

    @property
    def finalists(self) -> Bool[Tensor, "layer head"]:
        """The heads that were measured on all prompts, the ``k`` strongest among them."""
        return self.n_prompts == self.n

    @property
    def aie(self) -> Float[Tensor, "layer head"]:
        """Average indirect effect of each head over the prompts that it was measured on."""
        return self.values.where(self.measured, 0).sum(0) / self.n_prompts

    @property
    def stderr(self) -> Float[Tensor, "layer head"]:
        """Standard error of the mean over the head's prompts (not a number for a single prompt)."""
        squares = (self.values - self.aie).square().where(self.measured, 0).sum(0)
        return (squares / self.n_prompts / (self.n_prompts - 1)).sqrt()

    def ranking(self) -> list[Head]:
        """All heads: the finalists, strongest first, then what dropped out, by the mean that it left with."""
        order = heads_by_effect(self.aie)
        return sorted(order, key=lambda head: not self.finalists[head])

    @checked
    def top(self, k: Count) -> list[Head]:
        """The ``k`` heads of highest average indirect effect, highest first.

        Args:
            k: how many heads, at most as many as the race was for.

        Returns:
            Heads (layer, head), equal to plain tuples.

        Raises:
            ArgumentError: more heads than the race was for.

        Example:
            >>> raced = iv.locate_heads(model, task, n_clean=4, n_corrupted=4, race=True, k=3)
            >>> len(raced.top(2))
            2
        """
        if k > self.k:
            raise ArgumentError(
                f"k to be at most {self.k}, the heads that the race was for", f"{k}", "race for more, or do not race"
            )  # fmt: skip
        return self.ranking()[:k]

    @checked
    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
        """Interval of the average indirect effect over prompts like these, valid whenever the head dropped out.

        It is a repeated confidence interval (Jennison and Turnbull 1989): Student's t at level 1 - (1 - level) / R,
        where R is the number of rounds. The interval that a head would have after any of the rounds then contains its
        effect with probability ``level`` for all rounds at once, so whatever made it stop. Finalists' intervals are
        therefore wider than those of a sweep over as many prompts.

        Args:
            level: the interval's level, between 0 and 1.

        Returns:
            Lower and upper ends, in the metric's unit (not a number for a single prompt).

        Raises:
            ArgumentError: a level outside (0, 1).

        Example:
            >>> raced = iv.locate_heads(model, task, n_clean=4, n_corrupted=4, race=True, k=3)
            >>> low, high = raced.interval(0.9)
            >>> bool((low < high).all())
            True
        """
        check_level(level)
        tail = (1 - level) / len(self.rounds) / 2
        width = self.stderr.clone()
        for n in self.rounds:
            width[self.n_prompts == n] *= t_quantile(1 - tail, n - 1) if n > 1 else torch.nan
        return self.aie - width, self.aie + width

    def to_frame(self) -> pd.DataFrame:
        """One row per head, the finalists first: layer, head, aie, its interval (low, high), stderr, n, rank.

        ``n`` are its prompts, ``rank`` is among the ``k``: the heads that the race was not for have none.
        """
        low, high = self.interval()
        rows = [
            {
                "layer": head.layer, "head": head.head, "aie": self.aie[head].item(), "low": low[head].item(),
                "high": high[head].item(), "stderr": self.stderr[head].item(), "n": int(self.n_prompts[head]),
            }
            for head in self.ranking()
        ]  # fmt: skip
        ranks = pd.array([*range(1, self.k + 1), *[None] * (len(rows) - self.k)], dtype="Int64")
        return pd.DataFrame(rows).assign(rank=ranks)
