"""What is asked for is checked, and handed to the method that scores every head's patch."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Between, Count, checked
from ..errors import FallbackWarning, UnsupportedError
from ..models import HookedTransformer, check_streamable, provenance, rows_that_fit
from ..records import HeadEffects, HeadMeans
from ..scoring import all_ids, listed
from ..tasks import Prompt
from .attribution import attributed_effects
from .checks import check_asked, check_effects, check_means, check_stream_dtype
from .exact import exact_scores
from .loop import loop_scores
from .metric import Pair, Scores, in_metric
from .noise import warn_of_noise
from .workers import map_scores

METHODS = ("exact", "loop", "attribution")
Run = Callable[..., list[Scores]]
Effects = tuple[Float[Tensor, "prompt layer head"], Float[Tensor, " prompt"]]


@checked
@torch.no_grad()
def indirect_effects(
    model: HookedTransformer,
    prompts: Iterable[Prompt] | Prompt,
    means: HeadMeans,
    *,
    method: str = "exact",
    metric: str = "log-probability",
    stream_budget: Annotated[int, Between(2)] | None = None,
    stream_dtype: torch.dtype | None = None,
    steps: Count = 1,
    n_jobs: Count | None = 1,
) -> HeadEffects:
    """Indirect effect of every head on every corrupted prompt (2310.15213, eq. 4).

    ``.values`` is [prompt, layer, head], in the metric's unit: ``"probability"`` of the whole answer,
    ``"log-probability"`` in nats, or ``"logit-difference"``, the answer's tokens against the strongest wrong tokens
    of the unpatched run. ``method="exact"`` is the last-token sweep (``ivlens.models.streams``); ``"loop"`` runs one
    full forward pass a head; ``"attribution"`` is the first-order estimate ``(zbar - z) . d metric / d z`` from one
    forward and one backward pass, or with ``steps`` above 1 integrated gradients (``ivlens.effects.integrated``).
    ``stream_budget`` bounds the rows that travel together, hence memory (None: a sixth of the weights', or half of what
    is free). A model that the sweep does not represent goes through the loop, with a FallbackWarning; ``.method`` names
    what was done. With weights in half precision a PrecisionWarning says where effects are near its noise;
    ``stream_dtype=torch.float32`` computes the sweep's streams in float32, each block's weights widened on the way.

    With ``n_jobs`` workers (None: what ``joblib.parallel_config`` says) the same groups of prompts travel together as
    with one: numbers are the same, but for rounding where workers have other devices or another number of threads.

    Raises:
        ArgumentError: an option outside its values, or ``steps`` with another method than attribution.
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            effects are not finite.
        MismatchError: the means were computed on a model of another shape, architecture or weight processing.
        HookError, WorkerError: hooks are active, which streams and workers would not run; a worker died.
        UnsupportedError: attribution on a model that was made in inference mode; ``stream_dtype`` for a model that
            streams do not represent.
    """
    check_asked(method, METHODS, metric, steps)
    check_stream_dtype(model, method, stream_dtype)
    check_means(model, means)
    prompts = listed(prompts)
    pairs = all_ids(model, prompts)
    settings = {"metric": metric, "prompts": len(pairs)}
    budget = stream_budget or rows_that_fit(model, max(len(ids) + len(answer) for ids, answer in pairs), stream_dtype)
    if method == "exact":
        method = _exact_or_loop(model, stream_dtype)
    if method == "attribution":
        settings["steps"] = steps
        effects, baseline = _attributed(model, pairs, means.values, metric, steps, budget, n_jobs)
    else:
        run: Run = partial(exact_scores, dtype=stream_dtype) if method == "exact" else loop_scores
        effects, baseline = _patched(run, model, pairs, means.values, metric, budget, n_jobs)
    check_effects(prompts, effects, baseline)
    if method == "exact" and stream_dtype is None and model.cfg.dtype.itemsize < 4:
        warn_of_noise(model, pairs, means.values, effects, metric)
    settings |= {"stream_dtype": str(stream_dtype)} if stream_dtype else {}
    return HeadEffects(
        effects.cpu(),
        baseline.cpu(),
        metric,
        method,
        task=", ".join(sorted({prompt.task for prompt in prompts})),
        means=means,
        provenance=provenance(model, method=method, **settings),
    )


def _exact_or_loop(model: HookedTransformer, stream_dtype: torch.dtype | None) -> str:
    """The method that is exact for this model; a warning says why where it is not the sweep."""
    try:
        check_streamable(model)
    except UnsupportedError as error:
        if stream_dtype is not None:
            raise
        said = f"last-token streams do not represent {error.came} of this model: effects come from the plain loop"
        warnings.warn(f"{said}, one forward pass a head", FallbackWarning, stacklevel=5)
        return "loop"
    return "exact"


def _attributed(
    model: HookedTransformer,
    pairs: Sequence[Pair],
    means: Tensor,
    metric: str,
    steps: int,
    budget: int,
    n_jobs: int | None,
) -> Effects:
    """First-order effects at the last token. A token of the graph keeps every layer's activations, a stream one's."""
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    batch_size = max(1, budget // (model.cfg.n_layers * longest))
    last = [[[len(prompt) - 1]] for prompt, _ in pairs]
    effects, baseline = attributed_effects(
        model, pairs, last, means[None], metric, steps=steps, batch_size=batch_size, n_jobs=n_jobs
    )
    return effects[..., 0], baseline


def _patched(
    run: Run,
    model: HookedTransformer,
    pairs: Sequence[Pair],
    means: Tensor,
    metric: str,
    budget: int,
    n_jobs: int | None,
) -> Effects:
    """Effects from the scores of every head's patch."""
    shape = model.cfg.n_layers, model.cfg.n_heads
    heads = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    scores = map_scores(run, model, pairs, means, heads, metric == "logit-difference", budget, n_jobs)
    columns = torch.stack([in_metric(of_prompt, metric) for of_prompt in scores])  # prompt stream, the clean one first
    return (columns[:, 1:] - columns[:, :1]).unflatten(1, shape), columns[:, 0]
