"""The plain loop over patches: slow, and the oracle of the exact sweep and of attribution."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import (
    POINTS,
    Model,
    PartValues,
    answer_logits,
    answer_scores,
    check_parts,
    check_values,
    hooked,
    map_with_model,
    padded,
    replaced,
    strongest_wrong,
)
from ..progress import ProgressBar
from ..vocabulary import Metric, ModelPart, Part, TokenizedPrompt, all_parts
from .attribution import Effects, Groups, Means
from .metric import Measure, Scores

Patch = tuple[ModelPart, int]  # what is patched, at which group of positions


def loop_scores(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    values: PartValues,
    parts: Sequence[ModelPart],
    against_foil: bool,
    budget: int,
) -> list[Scores]:
    """The published algorithm: one full forward pass per part, replaced at the last prompt token by its value."""
    check_parts(model, parts)
    check_values(model, values, parts, len(pairs))
    scores: list[Scores] = []
    with ProgressBar(total=len(pairs) * len(parts), desc="plain loop", unit="forward", leave=False) as bar:
        for number, pair in enumerate(pairs):
            rows = padded([pair], model.cfg.device)
            logits = answer_logits(model, rows)[0]
            foils = strongest_wrong(logits, pair[1]) if against_foil else None
            streams = [answer_scores(logits[None], pair[1], foils)]
            for part in parts:
                with replaced(model, part, values.value(number, part)):
                    streams.append(answer_scores(answer_logits(model, rows)[0][None], pair[1], foils))
                bar.update()
            scores.append(torch.cat(streams))
    return scores


def patched_effects(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    groups: Sequence[Groups],
    means: Means,
    metric: Metric,
    *,
    batch_size: int,
    n_jobs: int | None,
) -> tuple[Effects, Float[Tensor, " prompt"]]:
    """Effects of parts at every group of positions, and the metric of the unpatched prompts.

    Copies of a prompt run together, each with one patch. ``n_jobs`` workers share the prompts.
    """
    work = partial(_of_prompt, means=means, metric=metric, batch_size=batch_size)
    names = [f"prompt {number}" for number in range(1, len(pairs) + 1)]
    pieces = [*zip(pairs, groups, strict=True)]
    with ProgressBar(total=len(pairs), desc="position effects", unit="prompt", leave=False) as bar:
        results = map_with_model(model, work, pieces, n_jobs, names, finished=lambda *_: bar.update())
    effects, baseline = zip(*results, strict=True)
    return {part: torch.stack([of_prompt[part] for of_prompt in effects]) for part in means}, torch.cat(baseline)


@torch.no_grad()
def _of_prompt(
    model: Model, piece: tuple[TokenizedPrompt, Groups], means: Means, metric: Metric, batch_size: int
) -> tuple[dict[Part, Float[Tensor, "layer ..."]], Float[Tensor, " one"]]:
    """One prompt's effects, [layer, *head, group] of each part, and its own metric, on the CPU."""
    pair, groups = piece
    shapes = {part: (*of_part.shape[1:-1], len(of_part)) for part, of_part in means.items()}  # layer *head group
    patches = [
        (each, group)
        for part, (layers, heads, *_) in shapes.items()
        for each in all_parts([part], layers, heads)
        for group in range(shapes[part][-1])
    ]
    measure = Measure(metric, pair[1:])
    baseline = measure(answer_logits(model, padded([pair], model.cfg.device)))
    patched = []
    with ProgressBar(total=len(patches), desc="loop", unit="patch", leave=False) as bar:
        for start in range(0, len(patches), batch_size):
            chunk = patches[start : start + batch_size]
            with hooked(model, _edits(chunk, groups, means)):
                logits = answer_logits(model, padded([pair] * len(chunk), model.cfg.device))
            patched.append(measure.copies(0, len(chunk))(logits))
            bar.update(len(chunk))
    found = (torch.cat(patched) - baseline).cpu().split([math.prod(shape) for shape in shapes.values()])
    effects = {part: each.view(shape) for (part, shape), each in zip(shapes.items(), found, strict=True)}
    return effects, baseline.cpu()


def _edits(chunk: Sequence[Patch], groups: Groups, means: Means) -> dict[str, Callable[[Tensor], Tensor]]:
    """Edits of hook points that give copy i its i-th patch."""

    def edit(point: str, activation: Float[Tensor, "batch pos ..."]) -> Tensor:
        activation = activation.clone()
        for copy, ((part, layer, head), group) in enumerate(chunk):
            if POINTS[part](layer) == point:
                own, value = activation[copy], means[part][group, layer].to(activation)
                if head is not None:
                    own, value = own[:, head], value[head]
                own[list(groups[group])] = value
        return activation

    points = dict.fromkeys(POINTS[each.part](each.layer) for each, _ in chunk)
    return {point: partial(edit, point) for point in points}
