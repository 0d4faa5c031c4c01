"""Check the arguments, run the method, package the record."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import check_means
from ..checks import Between, Count, checked
from ..models import Model, PartValues, check_parts, check_values, provenance
from ..records import HeadEffects, HeadMeans, PartEffects, PartMeans
from ..scoring import all_ids, listed
from ..tasks import Prompt, task_names
from ..vocabulary import EffectPart, Method, Metric, ModelPart, TokenizedPrompt, all_parts
from .attribution import attributed_effects, prompts_that_fit
from .checks import check_effects, check_means_of, check_method, check_stream_dtype
from .exact import warn_of_noise
from .metric import effects_in
from .options import wrong_options
from .patching import patched_scores

Effects = tuple[Float[Tensor, "prompt part"], Float[Tensor, " prompt"]]


@overload
def indirect_effects(
    model: Model, prompts: Iterable[Prompt] | Prompt, means: HeadMeans, **options: Any
) -> HeadEffects: ...


@overload
def indirect_effects(
    model: Model, prompts: Iterable[Prompt] | Prompt, means: PartMeans, **options: Any
) -> PartEffects: ...


@checked  # type: ignore[misc]  # the options of both signatures above are those of this one
@torch.no_grad()
def indirect_effects(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    means: HeadMeans | PartMeans,
    *,
    parts: Sequence[EffectPart] = ("head",),
    method: Method = "exact",
    metric: Metric = "log-probability",
    stream_budget: Annotated[int, Between(2)] | None = None,
    stream_dtype: torch.dtype | None = None,
    steps: Count = 1,
    n_jobs: Count | None = 1,
) -> HeadEffects | PartEffects:
    """Indirect effect of every head on every corrupted prompt (2310.15213, eq. 4), or of other parts of every layer.

    With ``n_jobs`` workers the same groups of prompts run together as with one, so numbers agree up to rounding where
    workers have other devices or another number of threads.

    Args:
        model: the model whose heads are patched.
        prompts: corrupted prompts, which hide the task.
        means: mean outputs over clean prompts, [layer, head, d_head], that heads are patched to at the last token; or
            the means of several parts (``mean_part_activations``).
        parts: with means of parts, what is patched in every layer: "head", every head; "attention" or "mlp", what
            these add to the residual stream; "residual", the stream that enters the block.
        method: "exact" is the last-token sweep (``ivlens.models.streams``); "loop" runs one full forward pass per head;
            "attribution" is the first-order estimate ``(zbar - z) . d metric / d z`` (``ivlens.effects.attribution``).
            A model that the sweep does not represent uses the loop, with a FallbackWarning.
        metric: "probability" of the whole answer, "log-probability" in nats, or "logit-difference", the answer's tokens
            against the strongest wrong tokens of the unpatched run; on prompts with options, the whole answer against
            the likeliest wrong option of that run, for twice the time. The log-probability is the default because on
            prompts that hide the task the probability is close to zero whatever is patched.
        stream_budget: rows of streams that run together, which bounds memory (None: a sixth of the weights' memory,
            64 MiB where that is more, or half of what is free).
        stream_dtype: with the exact method, a wider dtype for the streams; weights are widened one block at a time.
            With weights in half precision a PrecisionWarning says where effects are near its noise.
        steps: with attribution, gradients along the path; above 1 these are integrated gradients.
        n_jobs: workers that share the prompts (None: what ``joblib.parallel_config`` says).

    Returns:
        Effects, [prompt, layer, head], in the metric's unit; ``.method`` names the method that was used. With means of
        parts, those of each part, [prompt, layer, head] of heads and [prompt, layer] of the others.

    Raises:
        ArgumentError: an option outside its values, ``steps`` with another method than attribution, parts without
            means, or "logit-difference" on prompts of which only some have options.
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            effects are not finite.
        MismatchError: the means were computed on a model of another shape, architecture or weight processing.
        HookError, WorkerError: hooks are active, which streams and workers would not run; a worker died.
        UnsupportedError: attribution on a model that was made in inference mode; ``stream_dtype`` for a model that
            streams do not represent; a layer without one of the parts.

    Example:
        >>> corrupted = task.prompts(4, shots=0, instruction=False)
        >>> effects = iv.indirect_effects(model, corrupted, means)
        >>> effects.values.shape == (4, model.cfg.n_layers, model.cfg.n_heads)
        True
        >>> part_means = iv.mean_part_activations(model, prompts, ("attention", "mlp"))
        >>> iv.indirect_effects(model, corrupted, part_means, parts=("attention", "mlp")).mlp.shape
        torch.Size([4, 2])
    """
    check_method(method, steps, stream_dtype)
    check_stream_dtype(model.cfg.dtype, stream_dtype)
    check_means(model, means)
    check_means_of(means, parts, "mean_part_activations(model, clean, {})")
    prompts = listed(prompts)
    pairs = all_ids(model, prompts)
    settings: dict[str, Any] = {"metric": metric, "prompts": len(pairs)}
    values = _values(means)
    chosen = all_parts(["z" if part == "head" else part for part in parts], model.cfg.n_layers, model.cfg.n_heads)
    against = wrong_options(model, prompts, metric)
    unit: Metric = metric if against is None else "log-probability"
    if method == "attribution":
        settings["steps"] = steps
    found: list[Effects] = []
    for answered in [pairs] if against is None else [pairs, against]:
        if method == "attribution":
            found.append(_attributed(model, answered, values, chosen, unit, steps, stream_budget, n_jobs))
            continue
        scores, method = patched_scores(
            model, answered, values, chosen, method=method, against_foil=unit == "logit-difference",
            budget=stream_budget, dtype=stream_dtype, n_jobs=n_jobs,
        )  # fmt: skip
        found.append(effects_in(scores, unit))
    effects, baseline = found[0]
    if against is not None:
        effects, baseline = effects - found[1][0], baseline - found[1][1]
    check_effects(prompts, effects, baseline, chosen)
    if method == "exact" and stream_dtype is None and model.cfg.dtype.itemsize < 4:
        warn_of_noise(model, pairs, values, chosen, found[0][0], unit)
    settings |= {"stream_dtype": str(stream_dtype)} if stream_dtype else {}
    return _record(
        effects.cpu(), baseline.cpu(), chosen, means,
        metric=metric, method=method, task=", ".join(task_names(prompts)),
        provenance=provenance(model, method=method, **settings),
    )  # fmt: skip


def _values(means: HeadMeans | PartMeans) -> PartValues:
    """The means as what replaces parts, the same on all prompts."""
    if isinstance(means, HeadMeans):
        return PartValues(z=means.values[None])
    named = {"z": means.head, "attention": means.attention, "mlp": means.mlp, "residual": means.residual}
    return PartValues(**{name: None if values is None else values[None] for name, values in named.items()})


def _record(
    effects: Float[Tensor, "prompt part"],
    baseline: Float[Tensor, " prompt"],
    parts: Sequence[ModelPart],
    means: HeadMeans | PartMeans,
    **facts: Any,
) -> HeadEffects | PartEffects:
    """The record of effects, which has the kind of the means."""
    n_layers, found = parts[-1].layer + 1, dict[str, Tensor]()
    for kind in dict.fromkeys(each.part for each in parts):
        of_kind = effects[:, [number for number, each in enumerate(parts) if each.part == kind]]
        found["head" if kind == "z" else kind] = of_kind.unflatten(1, (n_layers, -1)) if kind == "z" else of_kind
    if isinstance(means, HeadMeans):
        return HeadEffects(found["head"], baseline, means=means, **facts)
    return PartEffects(
        found.get("head"), found.get("attention"), found.get("mlp"), found.get("residual"), baseline,
        means=means, **facts,
    )  # fmt: skip


def _attributed(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    values: PartValues,
    parts: Sequence[ModelPart],
    metric: Metric,
    steps: int,
    budget: int | None,
    n_jobs: int | None,
) -> Effects:
    """First-order effects at the last token."""
    check_parts(model, parts)
    check_values(model, values, parts, len(pairs))
    found = {kind: values.of(kind) for kind in dict.fromkeys(each.part for each in parts)}
    means = {kind: of_kind for kind, of_kind in found.items() if of_kind is not None}
    last = [[{len(prompt) - 1: 0}] for prompt, _ in pairs]
    effects, baseline = attributed_effects(
        model, pairs, last, means, metric,
        steps=steps, batch_size=prompts_that_fit(model, pairs, budget), n_jobs=n_jobs,
    )  # fmt: skip
    return torch.cat([of_part.flatten(1) for of_part in effects.values()], 1), baseline
