"""Check the arguments, run the method, package the record."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..activations import check_means
from ..checks import Between, Count, checked
from ..errors import FallbackWarning, UnsupportedError
from ..models import Model, check_streamable, map_with_model, provenance, rows_that_fit
from ..parallel import workers
from ..records import Head, HeadEffects, HeadMeans
from ..scoring import all_ids, listed
from ..tasks import Prompt, task_names
from ..vocabulary import Method, Metric, TokenizedPrompt, all_heads
from .attribution import attributed_effects
from .checks import check_effects, check_method, check_stream_dtype
from .exact import exact_scores, warn_of_noise, within
from .loop import loop_scores
from .metric import Scores, in_metric

Run = Callable[..., list[Scores]]
Effects = tuple[Float[Tensor, "prompt layer head"], Float[Tensor, " prompt"]]


@checked
@torch.no_grad()
def indirect_effects(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    means: HeadMeans,
    *,
    method: Method = "exact",
    metric: Metric = "log-probability",
    stream_budget: Annotated[int, Between(2)] | None = None,
    stream_dtype: torch.dtype | None = None,
    steps: Count = 1,
    n_jobs: Count | None = 1,
) -> HeadEffects:
    """Indirect effect of every head on every corrupted prompt (2310.15213, eq. 4).

    With ``n_jobs`` workers the same groups of prompts run together as with one, so numbers agree up to rounding where
    workers have other devices or another number of threads.

    Args:
        model: the model whose heads are patched.
        prompts: corrupted prompts, which hide the task.
        means: mean outputs over clean prompts, [layer, head, d_head], that heads are patched to at the last token.
        method: "exact" is the last-token sweep (``ivlens.models.streams``); "loop" runs one full forward pass per head;
            "attribution" is the first-order estimate ``(zbar - z) . d metric / d z`` (``ivlens.effects.attribution``).
            A model that the sweep does not represent uses the loop, with a FallbackWarning.
        metric: "probability" of the whole answer, "log-probability" in nats, or "logit-difference", the answer's tokens
            against the strongest wrong tokens of the unpatched run. The log-probability is the default because on
            prompts that hide the task the probability is close to zero whatever is patched.
        stream_budget: rows of streams that run together, which bounds memory (None: a sixth of the weights' memory, or
            half of what is free).
        stream_dtype: with the exact method, a wider dtype for the streams; weights are widened one block at a time.
            With weights in half precision a PrecisionWarning says where effects are near its noise.
        steps: with attribution, gradients along the path; above 1 these are integrated gradients.
        n_jobs: workers that share the prompts (None: what ``joblib.parallel_config`` says).

    Returns:
        Effects, [prompt, layer, head], in the metric's unit; ``.method`` names the method that was used.

    Raises:
        ArgumentError: an option outside its values, or ``steps`` with another method than attribution.
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            effects are not finite.
        MismatchError: the means were computed on a model of another shape, architecture or weight processing.
        HookError, WorkerError: hooks are active, which streams and workers would not run; a worker died.
        UnsupportedError: attribution on a model that was made in inference mode; ``stream_dtype`` for a model that
            streams do not represent.

    Example:
        >>> corrupted = task.prompts(4, shots=0, instruction=False)
        >>> effects = iv.indirect_effects(model, corrupted, means)
        >>> effects.values.shape == (4, model.cfg.n_layers, model.cfg.n_heads)
        True
    """
    check_method(method, steps, stream_dtype)
    check_stream_dtype(model.cfg.dtype, stream_dtype)
    check_means(model, means)
    prompts = listed(prompts)
    pairs = all_ids(model, prompts)
    settings: dict[str, Any] = {"metric": metric, "prompts": len(pairs)}
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
        task=", ".join(task_names(prompts)),
        means=means,
        provenance=provenance(model, method=method, **settings),
    )


def _exact_or_loop(model: Model, stream_dtype: torch.dtype | None) -> Method:
    """The exact method for this model; a warning says why if it is not the sweep."""
    try:
        check_streamable(model)
    except UnsupportedError as error:
        if stream_dtype is not None:
            raise
        reason = f"the exact sweep does not run on this model ({error.came}): effects come from the plain loop"
        warnings.warn(f"{reason}, one forward pass per head", FallbackWarning, stacklevel=5)
        return "loop"
    return "exact"


def _attributed(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    means: Tensor,
    metric: Metric,
    steps: int,
    budget: int,
    n_jobs: int | None,
) -> Effects:
    """First-order effects at the last token.

    Autograd stores every layer's activations per token, so a batch holds budget / n_layers tokens.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    batch_size = max(1, budget // (model.cfg.n_layers * longest))
    last = [[[len(prompt) - 1]] for prompt, _ in pairs]
    effects, baseline = attributed_effects(
        model, pairs, last, means[None], metric, steps=steps, batch_size=batch_size, n_jobs=n_jobs
    )
    return effects[..., 0], baseline


def _patched(
    run: Run,
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    means: Tensor,
    metric: Metric,
    budget: int,
    n_jobs: int | None,
) -> Effects:
    """Effects from the scores under every head's patch."""
    shape = model.cfg.n_layers, model.cfg.n_heads
    heads = all_heads(*shape)
    scores = map_scores(run, model, pairs, means, heads, metric == "logit-difference", budget, n_jobs)
    columns = torch.stack([in_metric(of_prompt, metric) for of_prompt in scores])  # prompt stream, the clean one first
    return (columns[:, 1:] - columns[:, :1]).unflatten(1, shape), columns[:, 0]


def map_scores(
    run: Callable[..., list[Scores]],
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    means: Tensor,
    heads: list[Head],
    against_foil: bool,
    budget: int,
    n_jobs: int | None,
) -> list[Scores]:
    """Scores of all prompts by ``exact_scores`` or ``loop_scores``, in the same groups for any ``n_jobs``."""
    work = partial(_scores, run=run, means=means, heads=heads, against_foil=against_foil, budget=budget)
    if workers(n_jobs) == 1:
        return work(model, pairs)
    groups = [[pair] for pair in pairs] if run is loop_scores else within(pairs, len(heads) + 1, budget)
    ends = list(accumulate(map(len, groups)))
    names = [f"prompts {end - len(group) + 1} to {end}" for group, end in zip(groups, ends, strict=True)]
    with tqdm(total=len(pairs), desc="indirect effects", unit="prompt", leave=False, disable=None) as bar:
        results = map_with_model(model, work, groups, n_jobs, names, finished=lambda group, _: bar.update(len(group)))
    return [of_prompt for group in results for of_prompt in group]


@torch.no_grad()
def _scores(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    run: Callable[..., list[Scores]],
    means: Tensor,
    heads: list[Head],
    against_foil: bool,
    budget: int,
) -> list[Scores]:
    return [of_prompt.cpu() for of_prompt in run(model, pairs, means, heads, against_foil, budget)]
