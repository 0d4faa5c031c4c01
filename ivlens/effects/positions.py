"""Effects of heads at every position of a prompt: its parts by role, or its tokens counted from the end."""

from collections.abc import Iterable

import torch

from ..activations import check_means
from ..checks import Count, checked
from ..errors import MismatchError
from ..models import Model, provenance
from ..records import PositionEffects, PositionMeans
from ..scoring import all_ids, listed
from ..tasks import Prompt, positions_by_name, task_names
from ..vocabulary import Metric, PositionMethod, all_heads
from .attribution import attributed_effects
from .checks import check_effects, check_method
from .loop import patched_effects
from .options import wrong_options


@checked
@torch.no_grad()
def position_effects(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    means: PositionMeans,
    *,
    method: PositionMethod = "loop",
    metric: Metric = "log-probability",
    batch_size: Count = 32,
    steps: Count = 1,
    n_jobs: Count | None = 1,
) -> PositionEffects:
    """Indirect effect of every head at every position of corrupted prompts, by role (2310.15213's token classes).

    Args:
        model: the model whose heads are patched.
        prompts: corrupted prompts.
        means: mean outputs at each position (``mean_position_activations``), aligned by role, whatever the prompts'
            lengths, or by position where all prompts, clean and corrupted, are of one length.
        method: "loop" runs every patch, "attribution" is the first-order estimate, all heads and positions from one
            forward and one backward pass.
        metric: "probability", "log-probability" or "logit-difference" (``indirect_effects``).
        batch_size: copies of a prompt per forward pass.
        steps: gradients along the path, with attribution.
        n_jobs: workers that share the work (``indirect_effects``).

    Returns:
        Effects, [prompt, layer, head, position], in the metric's unit, at the positions of ``means`` that all prompts
        have. A part of several tokens is patched at all of them together.

    Raises:
        ArgumentError: an option outside its values, ``steps`` with another method than attribution, or
            "logit-difference" on prompts of which only some have options.
        PromptError: no prompts, one that cannot be tokenised, does not know its parts, or is of another length, or on
            which effects are not finite.
        MismatchError: the means were computed on another model, or on prompts of another length.
        UnsupportedError: attribution on a model that was made in inference mode.
        HookError, WorkerError: hooks are active that workers would not run; a worker died.

    Example:
        >>> means = iv.mean_position_activations(model, prompts)
        >>> effects = iv.position_effects(model, prompts, means, method="attribution")
        >>> effects.values.shape[:3] == (4, model.cfg.n_layers, model.cfg.n_heads)
        True
    """
    check_method(method, steps)
    check_means(model, means)
    prompts = listed(prompts)
    pairs = all_ids(model, prompts)
    tokens = positions_by_name(model.tokenizer, prompts, means.by)
    if means.by == "position" and len(tokens[0]) != len(means.positions):
        raise MismatchError(
            f"corrupted prompts of {len(means.positions)} tokens, as the clean ones have",
            f"{len(tokens[0])}",
            "align them by what their tokens are: mean_position_activations(..., by='role')",
        )
    positions = [name for name in means.positions if all(name in each for each in tokens)]
    values = means.values[[means.positions.index(name) for name in positions]]
    groups = [[each[name] for name in positions] for each in tokens]
    options = {"batch_size": batch_size} | ({"steps": steps} if method == "attribution" else {})
    run = attributed_effects if method == "attribution" else patched_effects
    against = wrong_options(model, prompts, metric)
    if against is None:
        effects, baseline = run(model, pairs, groups, values, metric, **options, n_jobs=n_jobs)
    else:
        found = [
            run(model, each, groups, values, "log-probability", **options, n_jobs=n_jobs) for each in (pairs, against)
        ]
        effects, baseline = (one - other for one, other in zip(*found, strict=True))
    check_effects(prompts, effects.flatten(1, 2), baseline, all_heads(*effects.shape[1:3]))
    return PositionEffects(
        effects,
        baseline,
        metric,
        method,
        tuple(positions),
        task=", ".join(task_names(prompts)),
        provenance=provenance(model, method=method, metric=metric, prompts=len(pairs), by=means.by, **options),
    )
