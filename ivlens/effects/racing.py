"""Racing for the strongest heads: those that cannot be among them any more are measured on no further prompt.

Prompts, in random order, come in rounds. After each round a head drops out if, on the prompts so far, its effect is
below that of the k-th strongest head by more than chance allows (a race: Maron and Moore 1994, NeurIPS 6; differences
on the same prompts: Moore and Lee 1994, ICML). The difference of two heads on one prompt varies much less than the
effects themselves do, since prompts that are easily moved are moved by both.

The race finds what the sweep over all n prompts would find, so after m of them the difference of two means is known but
for the n - m prompts left: its variance is s^2 / m (1 - m / n), the finite population correction (Cochran 1977,
eq. 2.20). A head drops out at the one-sided level LOST / R of Student's t, where R is the number of rounds after which
heads drop out. So a head of the sweep's top k is lost with probability of at most about LOST, and at least 1 - LOST of
them are found on average. It is "about" because effects are not normal, and because the k-th strongest is itself
estimated; tests/test_racing.py measures it on made-up effects. It does not hold where the first few prompts do not show
what others do: of prompts of two kinds that need different heads, the first may all be of one kind, and the heads of
the other drop out. With heavy tails (Student's t with 2 degrees of freedom) 2 to 3% are lost.
"""

from collections.abc import Callable, Sequence
from itertools import count, pairwise, takewhile
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..activations import check_means
from ..checks import Count
from ..models import Model, PartValues, provenance
from ..records import HeadMeans, RacedEffects
from ..scoring import all_ids
from ..stats import t_quantile
from ..tasks import Prompt, task_names
from ..vocabulary import Metric, ModelPart, all_heads, check_count
from .checks import check_effects
from .exact import warn_of_noise
from .metric import effects_in
from .options import wrong_options
from .patching import Patching, patched_scores

FIRST = 5  # prompts that every head is measured on
GROWTH = 1.5  # of the number of prompts by the next round: with few rounds, one odd prompt early would cost much
LAST = 0.75  # no round ends beyond this part of the prompts: the last one should save something
LOST = 0.05  # of the k strongest heads, on average, at most

Measure = Callable[[range, list[int]], Float[Tensor, "prompt head"]]


class Race(NamedTuple):
    """Values [prompt, head], nan where not measured; how many prompts each head had; after how many rounds ended."""

    values: Float[Tensor, "prompt head"]
    n_prompts: Int[Tensor, " head"]
    rounds: tuple[int, ...]


def race(measure: Measure, n: int, n_heads: int, k: int) -> Race:
    """Race heads over ``n`` prompts for the ``k`` strongest.

    Args:
        measure: the effects [prompt, head] of these heads on these prompts.
        n: number of prompts.
        n_heads: number of heads.
        k: how many of the strongest are to be found.
    """
    rounds, left = rounds_of(n), torch.arange(n_heads)
    values, n_prompts = torch.empty(0, n_heads), torch.zeros(n_heads, dtype=torch.long)
    for begin, end in pairwise((0, *rounds)):
        found = measure(range(begin, end), left.tolist())
        of_round = found.new_full((end - begin, n_heads), torch.nan).index_copy_(1, left, found)
        values, n_prompts[left] = torch.cat([values, of_round]), end
        if end < n:
            left = left[can_reach(values[:, left], n, k, LOST / (len(rounds) - 1))]
    return Race(values, n_prompts, rounds)


def rounds_of(n: int) -> tuple[int, ...]:
    """The numbers of prompts after which rounds end; the last round takes all that are left."""
    ends = takewhile(lambda end: end <= LAST * n, (round(FIRST * GROWTH**step) for step in count()))
    return (*ends, n)


def can_reach(values: Float[Tensor, "prompt head"], n: int, k: int, chance: float) -> Bool[Tensor, " head"]:
    """Which heads may be among the ``k`` strongest on all ``n`` prompts, of which these are the first.

    Args:
        values: effects of the heads that are left, on the first two prompts or more.
        n: number of all prompts.
        k: how many of the strongest are to be found.
        chance: the probability with which a head that is as strong as the k-th may be taken for weaker.
    """
    values, drawn = values.double(), len(values)
    mean = values.mean(0)
    kth = mean.sort(descending=True, stable=True).indices[k - 1]
    error = (values[:, [kth]] - values).std(0) * ((1 - drawn / n) / drawn) ** 0.5
    return mean[kth] - mean <= t_quantile(1 - chance, drawn - 1) * error


def race_heads(
    model: Model,
    prompts: Sequence[Prompt],
    means: HeadMeans,
    k: Count,
    *,
    method: Patching,
    metric: Metric,
    stream_dtype: torch.dtype | None,
    n_jobs: int | None,
) -> RacedEffects:
    """Exact indirect effects of heads, as of ``indirect_effects``, as long as they may be among the ``k`` strongest.

    Args:
        model: the model whose heads are patched.
        prompts: corrupted prompts, in random order.
        means: mean outputs over clean prompts that heads are patched to.
        k: how many of the strongest heads are to be found.
        method: "exact" or "loop".
        metric: what effects are measured in.
        stream_dtype: a wider dtype for streams.
        n_jobs: workers that share the prompts of a round.

    Raises:
        ArgumentError, PromptError, MismatchError, HookError, WorkerError, UnsupportedError: see ``indirect_effects``.
    """
    check_means(model, means)
    heads = all_heads(model.cfg.n_layers, model.cfg.n_heads)
    check_count(k, len(heads))
    against = wrong_options(model, prompts, metric)
    answered = [all_ids(model, prompts), *([] if against is None else [against])]
    unit: Metric = metric if against is None else "log-probability"
    parts, values = [ModelPart("z", *head) for head in heads], PartValues(z=means.values[None])
    baselines: list[Tensor] = []
    own = torch.zeros(len(prompts), len(heads), dtype=torch.float64)  # effects on the answer alone

    @torch.no_grad()
    def measure(numbers: range, left: list[int]) -> Float[Tensor, "prompt head"]:
        nonlocal method
        span, found = slice(numbers.start, numbers.stop), []
        for pairs in answered:
            scores, method = patched_scores(
                model, pairs[span], values, [parts[number] for number in left], method=method,
                against_foil=unit == "logit-difference", dtype=stream_dtype, n_jobs=n_jobs,
            )  # fmt: skip
            found.append(effects_in(scores, unit))
        own[span, left] = found[0][0].double()
        effects, baseline = found[0]
        if against is not None:
            effects, baseline = effects - found[1][0], baseline - found[1][1]
        check_effects(prompts, effects, baseline, [parts[number] for number in left], first=numbers.start)
        baselines.append(baseline)
        return effects

    raced = race(measure, len(prompts), len(heads), k)
    if method == "exact" and stream_dtype is None and model.cfg.dtype.itemsize < 4:
        last = (raced.n_prompts == len(prompts)).nonzero().flatten().tolist()
        warn_of_noise(model, answered[0], values, [parts[number] for number in last], own[:, last], unit)
    settings: dict[str, Any] = {
        "metric": metric,
        "prompts": len(prompts),
        "race": {"k": k, "rounds": list(raced.rounds)},
    }
    settings |= {"stream_dtype": str(stream_dtype)} if stream_dtype else {}
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    return RacedEffects(
        raced.values.unflatten(1, shape), torch.cat(baselines), raced.n_prompts.unflatten(0, shape), k, raced.rounds,
        metric, method, ", ".join(task_names(prompts)), means,
        provenance=provenance(model, method=method, **settings),
    )  # fmt: skip
