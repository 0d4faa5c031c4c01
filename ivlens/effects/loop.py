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
    padded,
    replaced,
    strongest_wrong,
)
from ..progress import ProgressBar
from ..vocabulary import Metric, ModelPart, Part, TokenizedPrompt, all_parts
from .attribution import Groups, Means
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


@torch.no_grad()
def loop_effects(
    model: Model, piece: tuple[TokenizedPrompt, Groups], means: Means, metric: Metric, batch_size: int
) -> tuple[dict[Part, Float[Tensor, "layer ..."]], Float[Tensor, " one"]]:
    """One prompt's effects, [layer, *head, group] of each part, and its own metric, on the CPU.

    Copies of the prompt run together, each with one patch.
    """
    pair, groups = piece
    shapes = {part: (*of_part.shape[1:-1], len(groups)) for part, of_part in means.items()}  # layer *head group
    patches = [
        (each, group)
        for part, (layers, heads, *_) in shapes.items()
        for each in all_parts([part], layers, heads)
        for group in range(len(groups))
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
                own, values = activation[copy], means[part][list(groups[group].values()), layer].to(activation)
                if head is not None:
                    own, values = own[:, head], values[:, head]
                own[list(groups[group])] = values
        return activation

    points = dict.fromkeys(POINTS[each.part](each.layer) for each, _ in chunk)
    return {point: partial(edit, point) for point in points}
