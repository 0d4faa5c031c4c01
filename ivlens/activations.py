"""Recording activations at hook points over prompts, and what is computed from them.

``capture`` is the one way to record. It runs batch by batch, keeps only the requested tokens at the requested hook
points, and sums means over prompts in float64.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import Count, check_finite, checked
from .errors import ArgumentError, MismatchError, PromptError, refuse_odd
from .models import (
    HookedTransformer,
    Model,
    at_least_float32,
    check_fits,
    check_heads_alike,
    final_residual,
    hooked,
    last_token,
    map_batches,
    padded,
    part_points,
    pattern_name,
    provenance,
    recorded_points,
    run_once,
    runs_once,
    z_name,
)
from .records import HeadMeans, PartMeans, PositionMeans, PositionPartMeans
from .scoring import listed, prompt_ids
from .tasks import Prompt, aligned_positions, task_names, template_tokens, token_text
from .vocabulary import EffectPart, Head, PositionsBy, TokenizedPrompt, check_heads

PositionGroups = Mapping[str, Sequence[int]]
BETWEEN_POSITIONS = ("hook_pattern", "hook_attn_scores")  # [batch, head, query, key]


class _Batch(NamedTuple):
    """One batch's activations by hook point, and the numbers of prompts with infinities or not-a-numbers."""

    values: dict[str, Tensor]
    odd: set[int]

    def add(self, point: str, numbers: Sequence[int], activation: Tensor, wide: torch.dtype, *, total: bool) -> None:
        """Add one activation of each prompt: their sum in the wider dtype, or each prompt's own."""
        self.odd.update(_odd(numbers, activation))
        values = activation.to(wide).cpu()
        self.values[point] = values.sum(0) if total else values


@checked
@torch.no_grad()
def capture(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    points: Sequence[str],
    *,
    at: Literal["last", "all"] | Sequence[PositionGroups] = "last",
    reduce: Literal["mean", "none"] = "mean",
    batch_size: Count = 32,
    n_jobs: Count | None = 1,
    what: str = "activations",
) -> dict[str, Tensor]:
    """Record activations at hook points: the mean over prompts, or each prompt's own.

    Args:
        model: the model, with whatever edits are active on it.
        prompts: one prompt or several, of any lengths.
        points: TransformerLens' names of hook points, such as ``"blocks.3.hook_resid_pre"`` (``model.hook_dict``).
        at: ``"last"``, the prompt's last token; ``"all"``, all tokens of prompts of one length; or, for each prompt,
            named groups of positions, with the same names for all, whose tokens are averaged.
        reduce: ``"mean"`` over prompts, or ``"none"``.
        batch_size: prompts in one forward pass.
        n_jobs: workers that share the batches (``indirect_effects``).
        what: what is recorded, as an error calls it.

    Returns:
        For each hook point, in the model's activation units, ``[*activation]`` in float64 for the mean, or
        ``[prompt, *activation]`` in float32 or wider, on the CPU. An activation has no position axis with
        ``at="last"``, all positions with ``"all"``, and the groups as its first axis with groups.

    Raises:
        ArgumentError: ``"all"`` of prompts of several lengths, groups that do not fit the prompts, or positions chosen
            of attention patterns, which are [batch, head, query, key].
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            activations are not finite.
        HookError, WorkerError: no such hook point, hooks that workers would not run, a worker that died.

    Example:
        >>> residual = iv.capture(model, prompts, ["blocks.1.hook_resid_pre"], reduce="none")
        >>> residual["blocks.1.hook_resid_pre"].shape == (len(prompts), model.cfg.d_model)
        True
    """
    prompts = listed(prompts)
    pairs = [TokenizedPrompt(ids) for ids in prompt_ids(model, prompts)]
    _check_positions(at, pairs)
    once = at == "last" and runs_once(model) and {*points} <= recorded_points(model)
    record = partial(_record, points=points, at=at, total=reduce == "mean", once=once)
    found: list[tuple[list[int], _Batch]] = map_batches(
        model, record, pairs, batch_size, n_jobs, alike=once, kind="clean", doing=f"recording {what}"
    )
    refuse_odd(what, [prompt.text for prompt in prompts], (number for _, batch in found for number in batch.odd))
    if reduce == "mean":
        return {point: _total([batch.values[point] for _, batch in found]) / len(pairs) for point in points}
    order = torch.tensor([number for numbers, _ in found for number in numbers]).argsort()
    return {point: torch.cat([batch.values[point] for _, batch in found])[order] for point in points}


def _check_positions(at: str | Sequence[PositionGroups], pairs: Sequence[TokenizedPrompt]) -> None:
    """Raise ArgumentError unless the prompts have these positions."""
    lengths = {len(ids) for ids, _ in pairs}
    if at == "all" and len(lengths) > 1:
        raise ArgumentError("prompts of one length for at='all'", f"{len(lengths)} lengths", "record them one by one")
    if isinstance(at, str):
        return
    if len(at) != len(pairs) or len({tuple(groups) for groups in at}) > 1:
        raise ArgumentError(
            f"at with the same names for each of {len(pairs)} prompts", f"{len(at)} groups of positions"
        )
    for groups, (ids, _) in zip(at, pairs, strict=True):
        for name, positions in groups.items():
            if not positions or not all(0 <= position < len(ids) for position in positions):
                raise ArgumentError(f"positions from 0 to {len(ids) - 1} for {name!r}", repr(list(positions))[:60])
            if len(set(positions)) < len(positions):
                raise ArgumentError(f"different positions for {name!r}, to average", repr(list(positions))[:60])


def _record(
    model: Model,
    numbered: tuple[list[int], Sequence[TokenizedPrompt]],
    points: Sequence[str],
    at: str | Sequence[PositionGroups],
    total: bool,
    once: bool,
) -> _Batch:
    """One batch's activations: their sum over its prompts in float64, or each prompt's own.

    With ``once``, what the prompts share at their beginning runs once.
    """
    numbers, batch = numbered
    if once:
        assert isinstance(model, HookedTransformer)  # runs_once
        found = _record_once(model, numbers, batch, points, total)
        if not found.odd:
            return found  # else a prompt's reach others that share its beginning
    rows = padded(batch, model.cfg.device)
    shares = None if isinstance(at, str) else _shares([at[number] for number in numbers], rows.tokens)
    wide = torch.float64 if total else at_least_float32(model.cfg.dtype)
    found = _Batch({}, set())

    def keep(point: str, activation: Float[Tensor, "batch ..."]) -> None:
        if at != "all":
            _check_axis(point, activation, rows.tokens)
        if at == "last":
            activation = activation[last_token(activation)]
        if shares is None:
            found.add(point, numbers, activation, wide, total=total)
            return
        found.odd.update(_odd(numbers, activation))
        if total:
            found.values[point] = torch.einsum("bpg,bp...->g...", shares, activation.double()).cpu()
        else:
            found.values[point] = torch.einsum("bpg,bp...->bg...", shares, activation.double()).to(wide).cpu()

    with hooked(model, {point: partial(keep, point) for point in points}):
        final_residual(model, rows)
    return found


def _record_once(
    model: HookedTransformer,
    numbers: Sequence[int],
    batch: Sequence[TokenizedPrompt],
    points: Sequence[str],
    total: bool,
) -> _Batch:
    """One batch's activations at the last token of its prompts, which share the rows of their beginning."""
    found, wide = _Batch({}, set()), torch.float64 if total else at_least_float32(model.cfg.dtype)

    def keep(point: str, activation: Float[Tensor, "batch ..."]) -> None:
        if point in points:
            found.add(point, numbers, activation, wide, total=total)

    run_once(model, batch, keep)
    return found


def _odd(numbers: Sequence[int], activation: Float[Tensor, "batch ..."]) -> list[int]:
    """The numbers of prompts with infinities or not-a-numbers."""
    finite = activation.isfinite().flatten(1).all(1)
    return [numbers[row] for row in (~finite).nonzero().flatten().tolist()]


def _check_axis(point: str, activation: Tensor, tokens: Tensor) -> None:
    """Raise ArgumentError where an activation is not [batch, pos, ...], so that positions cannot be chosen in it."""
    if point.endswith(BETWEEN_POSITIONS) or activation.shape[:2] != tokens.shape:
        raise ArgumentError(
            f"at='all' for {point}, whose second axis is not the position", "a choice of positions",
            "attention_patterns reads patterns of one prompt",
        )  # fmt: skip


def _total(sums: Sequence[Tensor]) -> Tensor:
    """The sum of the batches' sums, in their order, so that the bits do not depend on which worker computed what."""
    total = torch.zeros_like(sums[0])
    for of_batch in sums:
        total += of_batch
    return total


def _shares(groups: Sequence[PositionGroups], tokens: Tensor) -> Float[Tensor, "batch pos group"]:
    """The share of each token in the mean of each group of positions."""
    shares = torch.zeros(*tokens.shape, len(groups[0]), dtype=torch.float64)
    for row, positions_of in enumerate(groups):
        for group, positions in enumerate(positions_of.values()):
            shares[row, list(positions), group] = 1 / len(positions)
    return shares.to(tokens.device)


@checked
def mean_head_activations(
    model: Model, prompts: Iterable[Prompt] | Prompt, *, batch_size: Count = 32, n_jobs: Count | None = 1
) -> HeadMeans:
    """Mean over clean prompts of each head's output before W_O at the last token (2310.15213, eq. 3).

    Args:
        model: the model.
        prompts: clean prompts, which show the task.
        batch_size: prompts in one forward pass.
        n_jobs: workers that share the batches (``indirect_effects``).

    Returns:
        ``.values`` is [layer, head, d_head], in the model's activation units, in float32 or wider.

    Raises:
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            activations are not finite.
        HookError, WorkerError: hooks are active that workers would not run; a worker died.

    Example:
        >>> means = iv.mean_head_activations(model, prompts)
        >>> means.values.shape == (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head)
        True
    """
    prompts = listed(prompts)
    check_heads_alike(model)
    points = [z_name(layer) for layer in range(model.cfg.n_layers)]
    means = capture(model, prompts, points, batch_size=batch_size, n_jobs=n_jobs)
    return HeadMeans(
        torch.stack([means[point] for point in points]).to(at_least_float32(model.cfg.dtype)),
        len(prompts),
        task=", ".join(task_names(prompts)),
        provenance=provenance(model, prompts=len(prompts)),
    )


@overload
def mean_position_activations(
    model: Model, prompts: Iterable[Prompt] | Prompt, *, by: PositionsBy = "role", parts: None = None,
    batch_size: Count = 32,
) -> PositionMeans: ...  # fmt: skip


@overload
def mean_position_activations(
    model: Model, prompts: Iterable[Prompt] | Prompt, *, by: PositionsBy = "role", parts: Sequence[EffectPart],
    batch_size: Count = 32,
) -> PositionPartMeans: ...  # fmt: skip


@checked
def mean_position_activations(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    *,
    by: PositionsBy = "role",
    parts: Sequence[EffectPart] | None = None,
    batch_size: Count = 32,
) -> PositionMeans | PositionPartMeans:
    """Mean over clean prompts of each head's output before W_O at each position: the means for ``position_effects``.

    Args:
        model: the model.
        prompts: clean prompts, which show the task.
        by: ``"role"``, one mean for each of the parts that all prompts are composed of (instruction, query input ...)
            and "last", whatever their lengths, over all its tokens; ``"token-class"``, as the code of 2310.15213 has it
            (``ivlens.tasks.classed_tokens``): one for each word of the prompts, and for each token of their template,
            which must be alike; or ``"position"``, every position, counted from the end, of prompts of one length.
        parts: not heads alone but these parts: "head", "attention", "mlp", "residual" (``mean_part_activations``).
        batch_size: prompts in one forward pass.

    Returns:
        ``.values`` is [position, layer, head, d_head], in the model's activation units, in float32 or wider; a part, or
        a word, of several tokens is represented by their mean. ``.by`` says how positions are aligned. With ``parts``,
        each part's means, [position, layer, d_model] of those that are not heads.

    Raises:
        ArgumentError: another ``by``, or no parts.
        UnsupportedError: a layer has no such part.
        PromptError: no prompts, one that cannot be tokenised or does not know its parts, or on which activations are
            not finite, prompts of several lengths by position, or of several templates by token class.

    Example:
        >>> means = iv.mean_position_activations(model, prompts)
        >>> means.positions[-1]
        'last'
    """
    prompts = listed(prompts)
    ids = prompt_ids(model, prompts)  # report unusable prompts before looking at their parts
    tokens = aligned_positions(model.tokenizer, prompts, by)
    positions = [name for name in tokens[0] if all(name in each for each in tokens)]
    settings: dict[str, Any] = {"prompts": len(prompts), "by": by}
    if by == "token-class":
        _check_one_template(tokens)
        settings["template"] = template_tokens(ids, tokens)
    at = [{name: tuple(each[name]) for name in positions} for each in tokens]
    kinds: Sequence[EffectPart] = ("head",) if parts is None else parts
    names = part_points(model, kinds)
    found = capture(model, prompts, [name for each in names.values() for name in each], at=at, batch_size=batch_size)
    wide = at_least_float32(model.cfg.dtype)
    means = {part: torch.stack([found[name] for name in each], 1).to(wide) for part, each in names.items()}
    facts: dict[str, Any] = {
        "n": len(prompts), "positions": tuple(positions), "by": by, "task": ", ".join(task_names(prompts)),
        "provenance": provenance(model, **settings),
    }  # fmt: skip
    if parts is None:
        return PositionMeans(means["head"], **facts)
    return PositionPartMeans(
        means.get("head"), means.get("attention"), means.get("mlp"), means.get("residual"), **facts
    )  # fmt: skip


def _check_one_template(tokens: Sequence[PositionGroups]) -> None:
    """Raise PromptError unless all prompts have the same aligned positions."""
    for number, each in enumerate(tokens, 1):
        if odd := [*{*each} ^ {*tokens[0]}]:
            raise PromptError(
                "prompts of one template, with the same aligned tokens, for by='token-class'",
                f"{min(odd)!r} in one of prompts 1 and {number} only",
                "write them in one format with one number of demonstrations, or use by='role'",
            )


def check_means(model: Model, means: HeadMeans | PositionMeans | PartMeans | PositionPartMeans) -> None:
    """Raise unless ``means`` are finite and fit the model; shapes of parts are checked where they are patched.

    Raises:
        ArgumentError: means that are not finite.
        MismatchError: means of a model of another shape, architecture or weight processing.
    """
    check_fits(model, means.provenance, "the mean activations")
    if isinstance(means, PartMeans | PositionPartMeans):
        return
    shape: tuple[int, ...] = (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head)
    if isinstance(means, PositionMeans):
        shape = (len(means.positions), *shape)
    if tuple(means.values.shape) != shape:
        raise MismatchError(f"means of shape {shape}", f"{tuple(means.values.shape)}")
    check_finite("mean activations", means.values)


@checked
def attention_patterns(
    model: Model, prompt: Prompt, heads: Sequence[Head]
) -> tuple[list[str], Float[Tensor, "chosen query key"]]:
    """The prompt's tokens as text, and the attention pattern of each of ``heads`` on it.

    Args:
        model: the model.
        prompt: one prompt.
        heads: the heads to look at, as (layer, head).

    Returns:
        The tokens, and for each head its attention [query, key], from 0 to 1, each query's row summing to 1.

    Raises:
        ArgumentError: no heads, or one that the model does not have.
        PromptError: the prompt cannot be tokenised, or its patterns are not finite.

    Example:
        >>> tokens, patterns = iv.attention_patterns(model, prompts[0], [(0, 1)])
        >>> patterns.shape == (1, len(tokens), len(tokens))
        True
    """
    check_heads((model.cfg.n_layers, model.cfg.n_heads), heads)
    (tokens,) = prompt_ids(model, [prompt])
    points = list(dict.fromkeys(pattern_name(head.layer) for head in heads))
    found = capture(model, prompt, points, at="all", reduce="none", what="attention patterns")
    chosen = torch.stack([found[pattern_name(layer)][0, head] for layer, head in heads])
    if not (chosen.sum(-1) > 0).all():  # TransformerLens turns not-a-numbers of a query into zeros; NaN > 0 is false
        refuse_odd("attention patterns", [prompt.text], [0])
    return [token_text(model.tokenizer, token) for token in tokens], chosen
