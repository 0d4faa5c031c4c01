"""Effects of parts at every position of a prompt: its roles, its token classes, or its tokens counted from the end."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import check_means
from ..checks import Count, checked
from ..errors import MismatchError
from ..models import Model, PartValues, check_parts, check_position_streams, check_values, provenance
from ..records import PositionEffects, PositionMeans, PositionPartEffects, PositionPartMeans
from ..scoring import all_ids, listed, prompt_ids
from ..tasks import Prompt, aligned_positions, positions_by_name, task_names, template_tokens, token_text
from ..vocabulary import EffectPart, Method, Metric, Part, all_parts
from .attribution import Effects, Groups, attributed_effects, prompts_that_fit
from .checks import check_effects, check_means_of, check_method
from .options import wrong_options
from .patching import Patching, exact_or_loop
from .position_patching import patched_effects

Run = Callable[..., tuple[Effects, Float[Tensor, " prompt"]]]


@overload
def position_effects(
    model: Model, prompts: Iterable[Prompt] | Prompt, means: PositionMeans, **options: Any
) -> PositionEffects: ...


@overload
def position_effects(
    model: Model, prompts: Iterable[Prompt] | Prompt, means: PositionPartMeans, **options: Any
) -> PositionPartEffects: ...


@checked  # type: ignore[misc]  # the options of both signatures above are those of this one
@torch.no_grad()
def position_effects(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    means: PositionMeans | PositionPartMeans,
    *,
    parts: Sequence[EffectPart] | None = None,
    method: Method = "exact",
    metric: Metric = "log-probability",
    batch_size: Count = 32,
    steps: Count = 1,
    n_jobs: Count | None = 1,
) -> PositionEffects | PositionPartEffects:
    """Indirect effect of every head at every position of corrupted prompts: by role, token class, or index.

    Or of other parts of every layer: attention blocks, MLPs, residual streams. With means by token class these are the
    effects of 2310.15213, as its code has them: every token is patched to the mean of its own aligned position. By role
    all tokens of a role are patched to one mean, which is another quantity where it has several.

    Args:
        model: the model whose heads are patched.
        prompts: corrupted prompts.
        means: mean outputs at each position (``mean_position_activations``), aligned by role or by token class,
            whatever the prompts' lengths, or by position where all prompts, clean and corrupted, are of one length.
        parts: with means of parts, which of them are patched (None: all that there are means of).
        method: "exact" runs every patch from its layer and its first position on (``ivlens.models.streams.positions``);
            "loop" runs one full forward pass per patch, in batches; "attribution" is the first-order estimate, all
            parts and positions from one forward and one backward pass. A model that streams do not represent, or a
            Bridge, uses the loop, with a FallbackWarning. Exact effects cost a part of a forward pass for each part and
            position of a prompt, the loop a whole one.
        metric: "probability", "log-probability" or "logit-difference" (``indirect_effects``).
        batch_size: copies of a prompt per forward pass, or as many rows of streams with "exact"; or prompts with
            attribution, fewer where memory is short.
        steps: gradients along the path, with attribution.
        n_jobs: workers that share the work (``indirect_effects``).

    Returns:
        Effects, [prompt, layer, head, position], in the metric's unit, at the positions of ``means`` that all prompts
        have, or their token classes; with means of parts, those of each part, without a head axis but for heads. A part
        of the prompt of several tokens is patched at all of them together. ``.by`` says how positions are aligned, and
        ``.method`` which method was used.

    Raises:
        ArgumentError: an option outside its values, ``steps`` with another method than attribution, parts without
            means, or "logit-difference" on prompts of which only some have options.
        PromptError: no prompts, one that cannot be tokenised, does not know its parts, or is of another length, or on
            which effects are not finite.
        MismatchError: the means were computed on another model, or on prompts of another length, or template.
        UnsupportedError: attribution on a model that was made in inference mode; a layer without one of the parts.
        HookError, WorkerError: hooks are active, which streams and workers would not run; a worker died.

    Example:
        >>> means = iv.mean_position_activations(model, prompts)
        >>> effects = iv.position_effects(model, prompts, means, method="attribution")
        >>> effects.values.shape[:3] == (4, model.cfg.n_layers, model.cfg.n_heads)
        True
    """
    check_method(method, steps)
    check_means(model, means)
    chosen: Sequence[EffectPart] = _parts(means) if parts is None else parts
    check_means_of(means, chosen, "mean_position_activations(model, clean, parts={})")
    prompts = listed(prompts)
    pairs = all_ids(model, prompts)
    positions, groups = _aligned(model, prompts, means)
    values = _values(model, means, chosen)
    settings: dict[str, Any] = {"batch_size": batch_size}
    run: Run
    if method == "attribution":
        settings["steps"] = steps
        run = partial(attributed_effects, steps=steps, batch_size=min(batch_size, prompts_that_fit(model, pairs)))
    else:
        method = _exact_or_loop(model, chosen) if method == "exact" else "loop"
        run = partial(patched_effects, method=method, batch_size=batch_size)
    against = wrong_options(model, prompts, metric)
    if against is None:
        effects, baseline = run(model, pairs, groups, values, metric, n_jobs=n_jobs)
    else:
        (effects, baseline), (wrong, other) = (
            run(model, each, groups, values, "log-probability", n_jobs=n_jobs) for each in (pairs, against)
        )
        effects, baseline = {part: effects[part] - wrong[part] for part in effects}, baseline - other
    _check(prompts, effects, baseline)
    facts: dict[str, Any] = {
        "baseline": baseline, "metric": metric, "method": method, "positions": tuple(positions), "by": means.by,
        "task": ", ".join(task_names(prompts)),
        "provenance": provenance(model, method=method, metric=metric, prompts=len(pairs), by=means.by, **settings),
    }  # fmt: skip
    if isinstance(means, PositionMeans):
        return PositionEffects(effects["head"], **facts)
    return PositionPartEffects(
        effects.get("head"), effects.get("attention"), effects.get("mlp"), effects.get("residual"), **facts
    )  # fmt: skip


def _parts(means: PositionMeans | PositionPartMeans) -> Sequence[EffectPart]:
    """All parts that there are means of."""
    return ("head",) if isinstance(means, PositionMeans) else means.parts


def _values(
    model: Model, means: PositionMeans | PositionPartMeans, parts: Sequence[EffectPart]
) -> dict[Part, Float[Tensor, "position layer ..."]]:
    """The means of these parts, whose shapes fit the model."""
    if isinstance(means, PositionMeans):
        return {"head": means.values}
    chosen = all_parts(["z" if part == "head" else part for part in parts], model.cfg.n_layers, model.cfg.n_heads)
    check_parts(model, chosen)
    given = PartValues(z=means.head, attention=means.attention, mlp=means.mlp, residual=means.residual)
    check_values(model, given, chosen, len(means.positions))
    return {part: means.of(part) for part in parts}


def _exact_or_loop(model: Model, parts: Sequence[EffectPart]) -> Patching:
    """The exact method for this model, or the loop."""
    return exact_or_loop(partial(check_position_streams, model, parts))


def _aligned(
    model: Model, prompts: Sequence[Prompt], means: PositionMeans | PositionPartMeans
) -> tuple[list[str], list[Groups]]:
    """What all prompts have means of, and each prompt's tokens there, with the number of the mean of each."""
    tokens = positions_by_name(model.tokenizer, prompts, means.by)
    if means.by == "position" and len(tokens[0]) != len(means.positions):
        raise MismatchError(
            f"corrupted prompts of {len(means.positions)} tokens, as the clean ones have",
            f"{len(tokens[0])}",
            "align them by what their tokens are: mean_position_activations(..., by='role')",
        )
    aligned = aligned_positions(model.tokenizer, prompts, means.by)
    if means.by == "token-class":
        _check_template(model, prompts, aligned, means)
    groups = [_with_means(*each, means.positions) for each in zip(tokens, aligned, strict=True)]
    names = [name for name in groups[0] if all(name in each for each in groups)]
    names.sort(key=lambda name: min(groups[0][name].values()))
    return names, [[each[name] for name in names] for each in groups]


def _check_template(
    model: Model,
    prompts: Sequence[Prompt],
    aligned: Sequence[Mapping[str, Sequence[int]]],
    means: PositionMeans | PositionPartMeans,
) -> None:
    """Raise MismatchError where the prompts have other tokens in their template than those of the means."""
    settings = means.provenance.get("settings")
    template = settings.get("template", {}) if isinstance(settings, Mapping) else {}
    own = template_tokens(prompt_ids(model, prompts), aligned)
    if other := [name for name, token in own.items() if template.get(name, token) != token]:
        texts = [token_text(model.tokenizer, each[other[0]]) for each in (template, own)]
        raise MismatchError(
            f"prompts of the template that the means are of, with {texts[0]!r} at {other[0]!r}", f"{texts[1]!r}",
            "write clean and corrupted prompts in one format, such as format='plain', or use by='role'",
        )  # fmt: skip


def _with_means(
    tokens: Mapping[str, Sequence[int]], aligned: Mapping[str, Sequence[int]], positions: Sequence[str]
) -> dict[str, Mapping[int, int]]:
    """A prompt's tokens of each name that there are means of, with the number of each token's mean."""
    numbers = {name: number for number, name in enumerate(positions)}
    of_token = {at: name for name, own in aligned.items() for at in own}
    found: dict[str, Mapping[int, int]] = {}
    for name, own in tokens.items():
        missing = [of_token[at] for at in own if of_token[at] not in numbers]
        if not missing:
            found[name] = {at: numbers[of_token[at]] for at in own}
        elif len(missing) < len(own):
            raise MismatchError(
                f"a mean for each token of {name!r}", f"none for {missing[0]!r}",
                "write clean and corrupted prompts in one format, such as format='plain', with as many demonstrations, "
                "or use by='role'",
            )  # fmt: skip
    return found


def _check(prompts: Sequence[Prompt], effects: Effects, baseline: Float[Tensor, " prompt"]) -> None:
    """Raise PromptError naming prompts and parts whose effects at some position are not finite."""
    flat = torch.cat([each.flatten(1, -2) for each in effects.values()], 1)
    parts = [one for part, each in effects.items() for one in all_parts([part], each.shape[1], each.shape[2])]
    check_effects(prompts, flat, baseline, parts)
