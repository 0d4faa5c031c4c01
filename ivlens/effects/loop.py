"""The plain loop over patches: slow, and the oracle of the exact sweep and of attribution."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import (
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
    z_name,
)
from ..progress import ProgressBar
from ..vocabulary import Metric, ModelPart, TokenizedPrompt
from .attribution import Groups
from .metric import Measure, Scores

Patch = tuple[int, int, int]  # layer, head, group of positions


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
    means: Float[Tensor, "group layer head d_head"],
    metric: Metric,
    *,
    batch_size: int,
    n_jobs: int | None,
) -> tuple[Float[Tensor, "prompt layer head group"], Float[Tensor, " prompt"]]:
    """Effects of every head at every group of positions, and the metric of the unpatched prompts.

    Copies of a prompt run together, each with one patch. ``n_jobs`` workers share the prompts.
    """
    work = partial(_of_prompt, means=means, metric=metric, batch_size=batch_size)
    names = [f"prompt {number}" for number in range(1, len(pairs) + 1)]
    pieces = [*zip(pairs, groups, strict=True)]
    with ProgressBar(total=len(pairs), desc="position effects", unit="prompt", leave=False) as bar:
        results = map_with_model(model, work, pieces, n_jobs, names, finished=lambda *_: bar.update())
    effects, baseline = zip(*results, strict=True)
    return torch.stack(effects), torch.cat(baseline)


@torch.no_grad()
def _of_prompt(
    model: Model,
    piece: tuple[TokenizedPrompt, Groups],
    means: Float[Tensor, "group layer head d_head"],
    metric: Metric,
    batch_size: int,
) -> tuple[Float[Tensor, "layer head group"], Float[Tensor, " one"]]:
    """One prompt's effects and its own metric, on the CPU."""
    pair, groups = piece
    n_groups, layers, heads, _ = means.shape
    patches = [*product(range(layers), range(heads), range(n_groups))]
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
    return (torch.cat(patched) - baseline).view(layers, heads, n_groups).cpu(), baseline.cpu()


def _edits(
    chunk: Sequence[Patch], groups: Groups, means: Float[Tensor, "group layer head d_head"]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Edits of ``hook_z`` that give copy i its i-th patch."""

    def edit(layer: int, z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        for copy, (patched, head, group) in enumerate(chunk):
            if patched == layer:
                z[copy, list(groups[group]), head] = means[group, layer, head].to(z)
        return z

    return {z_name(layer): partial(edit, layer) for layer in {layer for layer, _, _ in chunk}}
