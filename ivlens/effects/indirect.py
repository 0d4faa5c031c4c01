"""What is asked for is checked, and handed to the method that scores every head's patch."""

from collections.abc import Sequence

import torch

from ..errors import MismatchError, at_least, one_of
from ..models import HookedTransformer, check_fits, provenance
from ..records import METRICS, HeadEffects, HeadMeans
from ..scoring import all_ids, listed
from ..tasks import Prompt
from .exact import exact_scores
from .loop import loop_scores
from .spread import spread_scores

METHODS = ("exact", "loop")


@torch.no_grad()
def indirect_effects(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    means: HeadMeans,
    *,
    method: str = "exact",
    metric: str = "probability",
    stream_budget: int = 2048,
    jobs: int | None = 1,
) -> HeadEffects:
    """Indirect effect of every head on every corrupted prompt (2310.15213, eq. 4).

    ``.values`` is [prompt, layer, head], in the metric's unit: ``"probability"`` of the whole answer,
    ``"log-probability"`` in nats, or ``"logit-difference"``, the answer's tokens against the strongest wrong tokens
    of the unpatched run. ``method="exact"`` is the last-token sweep (``ivlens.models.streams``); ``"loop"`` runs one
    full forward pass a head. ``stream_budget`` bounds the streams that travel together, hence memory.

    With ``jobs`` workers (None: what ``joblib.parallel_config`` says) the same groups of prompts travel together as
    with one: numbers are the same, but for rounding where workers have other devices or another number of threads.

    Raises:
        PromptError: no prompts, or one that cannot be tokenised or is longer than the model's context.
        MismatchError: the means were computed on a model of another shape, architecture or weight processing.
        UnsupportedError: the model has a part that the exact sweep does not represent.
        HookError, WorkerError: hooks are active that workers would not run; a worker died.
    """
    one_of("method", method, METHODS)
    one_of("metric", metric, METRICS)
    at_least("stream_budget", stream_budget, 2)
    check_fits(model, means.provenance, "the mean activations")
    prompts = listed(prompts)
    pairs = all_ids(model, prompts)
    cfg = model.cfg
    shape = (cfg.n_layers, cfg.n_heads, cfg.d_head)
    if tuple(means.values.shape) != shape:
        raise MismatchError(f"means of shape {shape}", f"{tuple(means.values.shape)}")
    heads = [(layer, head) for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
    run = exact_scores if method == "exact" else loop_scores
    scores = spread_scores(run, model, pairs, means.values, heads, metric == "logit-difference", stream_budget, jobs)
    columns = torch.stack([of_prompt.sum(-1) for of_prompt in scores])  # prompt stream, the clean one first
    columns = columns.exp() if metric == "probability" else columns
    effects = (columns[:, 1:] - columns[:, :1]).unflatten(1, (cfg.n_layers, cfg.n_heads))
    return HeadEffects(
        effects.cpu(),
        columns[:, 0].cpu(),
        metric,
        method,
        task=", ".join(sorted({prompt.task for prompt in prompts})),
        means=means,
        provenance=provenance(model, method=method, metric=metric, prompts=len(pairs)),
    )
