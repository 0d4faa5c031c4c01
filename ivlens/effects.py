"""Indirect effects of heads: the exact sweep, the plain loop that is its oracle, and ``locate_heads`` over both.

A head's indirect effect on a corrupted prompt is the change of the answer's metric when the head's output at the last
prompt token is replaced by its mean over clean prompts (2310.15213, eq. 4; 2406.12227, eq. 3).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from .activations import mean_head_activations
from .errors import MismatchError, at_least, one_of
from .models import (
    HookedTransformer,
    answer_logits,
    answer_scores,
    check_fits,
    hooked,
    last_token,
    padded,
    provenance,
    strongest_wrong,
    sweep_heads,
    z_name,
)
from .records import METRICS, Head, HeadEffects, HeadMeans, Record
from .scoring import Ids, all_ids, listed
from .tasks import Prompt, Task, load_task

METHODS = ("exact", "loop")
R = TypeVar("R", bound=Record)
Pair = tuple[Ids, Ids]
Scores = Float[Tensor, "stream answer"]


@torch.no_grad()
def indirect_effects(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    means: HeadMeans,
    *,
    method: str = "exact",
    metric: str = "probability",
    stream_budget: int = 2048,
) -> HeadEffects:
    """Indirect effect of every head on every corrupted prompt (2310.15213, eq. 4).

    ``.values`` is [prompt, layer, head], in the metric's unit: ``"probability"`` of the whole answer,
    ``"log-probability"`` in nats, or ``"logit-difference"``, the answer's tokens against the strongest wrong tokens
    of the unpatched run. ``method="exact"`` is the last-token sweep (``ivlens.models.streams``); ``"loop"`` runs one
    full forward pass a head. ``stream_budget`` bounds the streams that travel together, hence memory.

    Raises:
        PromptError: no prompts, or one that cannot be tokenised or is longer than the model's context.
        MismatchError: the means were computed on a model of another shape, architecture or weight processing.
        UnsupportedError: the model has a part that the exact sweep does not represent.
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
    run = _exact if method == "exact" else _loop
    scores = run(model, pairs, means.values, heads, metric == "logit-difference", stream_budget)
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


def locate_heads(
    model: HookedTransformer,
    task: Task | str,
    *,
    clean: int = 50,
    corrupted: int = 25,
    shots: int = 2,
    format: str | Callable[..., str] = "labelled",
    corruption: str = "no-instruction",
    metric: str = "log-probability",
    method: str = "exact",
    split: str = "train",
    seed: int = 0,
) -> HeadEffects:
    """Find the heads that carry a task's instruction: mean activations, corrupted prompts and effects in one call.

    Means are taken over ``clean`` prompts (instruction, field labels and ``shots`` demonstrations), effects over
    ``corrupted`` ones, both from the task's ``split``. The log-probability is the default because on bare prompts the
    probability lies at its floor.

    Raises:
        ArgumentError: an option outside its values, or more prompts than the split has.
        PromptError, UnsupportedError: see ``indirect_effects``.
    """
    task = load_task(task) if isinstance(task, str) else task
    draw = partial(task.prompts, shots=shots, format=format, split=split, seed=seed, tokenizer=model.tokenizer)
    template = {
        "task": task.name,
        "format": format if isinstance(format, str) else getattr(format, "__name__", "own"),
        "shots": shots,
    }
    template |= {"split": split, "seed": seed}
    means = _noted(mean_head_activations(model, draw(clean)), **template)
    broken = draw(corrupted, corruption=corruption)
    effects = indirect_effects(model, broken, means, method=method, metric=metric)
    return _noted(effects, **template, corruption=corruption, clean=clean)


def _noted(record: R, **settings: Any) -> R:
    """The record with further settings in its provenance."""
    origin = dict(record.provenance)
    return replace(record, provenance=origin | {"settings": {**origin["settings"], **settings}})


def _exact(
    model: HookedTransformer, pairs: Sequence[Pair], means: Tensor, heads: list[Head], against_foil: bool, budget: int
) -> list[Scores]:
    """Sweep prompts in groups, or one prompt's heads in parts, so that at most ``budget`` rows of streams travel."""
    scores: list[Scores] = []
    with tqdm(total=len(pairs), desc="exact sweep", unit="prompt", leave=False, disable=None) as bar:
        for group in _within(pairs, len(heads) + 1, budget):
            size = max(1, budget // len(group[0][1]) - 1) if len(group) == 1 else len(heads)
            parts = [
                sweep_heads(model, group, means, heads[at : at + size], against_foil=against_foil)
                for at in range(0, len(heads), size)
            ]
            for first, *rest in zip(*parts, strict=True):  # each part begins with the clean stream
                scores.append(torch.cat([first, *(part[1:] for part in rest)]))
            bar.update(len(group))
    return scores


def _within(pairs: Sequence[Pair], streams: int, budget: int) -> list[list[Pair]]:
    """Consecutive groups of prompts whose streams' rows fit the budget, or of one prompt."""
    groups: list[list[Pair]] = []
    rows = 0
    for pair in pairs:
        rows += streams * len(pair[1])
        if not groups or rows > budget:
            groups.append([])
            rows = streams * len(pair[1])
        groups[-1].append(pair)
    return groups


def _loop(
    model: HookedTransformer, pairs: Sequence[Pair], means: Tensor, heads: list[Head], against_foil: bool, budget: int
) -> list[Scores]:
    """The published algorithm: one full forward pass a head, its output patched at the last prompt token."""
    scores: list[Scores] = []
    with tqdm(total=len(pairs) * len(heads), desc="plain loop", unit="forward", leave=False, disable=None) as bar:
        for pair in pairs:
            rows = padded([pair], model.cfg.device)
            logits = answer_logits(model, rows)[0]
            foils = strongest_wrong(logits, pair[1]) if against_foil else None
            streams = [answer_scores(logits[None], pair[1], foils)]
            for layer, head in heads:
                with hooked(model, {z_name(layer): _patch(head, means[layer, head])}):
                    streams.append(answer_scores(answer_logits(model, rows)[0][None], pair[1], foils))
                bar.update()
            scores.append(torch.cat(streams))
    return scores


def _patch(head: int, value: Float[Tensor, " d_head"]) -> Callable[[Tensor], Tensor]:
    def edit(z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        row, position = last_token(z)
        z[row, position, head] = value.to(z)
        return z

    return edit
