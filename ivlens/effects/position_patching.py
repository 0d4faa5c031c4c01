"""Effects of parts replaced at groups of positions: by streams that fork at any position, or by the plain loop."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import Model, PartValues, map_with_model, sweep_positions
from ..progress import ProgressBar
from ..vocabulary import Metric, Part, TokenizedPrompt, all_parts
from .attribution import Effects, Groups, Means
from .loop import loop_effects
from .metric import in_metric
from .patching import Patching


def patched_effects(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    groups: Sequence[Groups],
    means: Means,
    metric: Metric,
    *,
    method: Patching,
    batch_size: int,
    n_jobs: int | None,
) -> tuple[Effects, Float[Tensor, " prompt"]]:
    """Effects of parts at every group of positions, and the metric of the unpatched prompts.

    ``n_jobs`` workers share the prompts.
    """
    of_prompt = exact_effects if method == "exact" else loop_effects
    work = partial(of_prompt, means=means, metric=metric, batch_size=batch_size)
    names = [f"prompt {number}" for number in range(1, len(pairs) + 1)]
    pieces = [*zip(pairs, groups, strict=True)]
    with ProgressBar(total=len(pairs), desc="position effects", unit="prompt", leave=False) as bar:
        results = map_with_model(model, work, pieces, n_jobs, names, finished=lambda *_: bar.update())
    effects, baseline = zip(*results, strict=True)
    return {part: torch.stack([of_prompt[part] for of_prompt in effects]) for part in means}, torch.cat(baseline)


@torch.no_grad()
def exact_effects(
    model: Model, piece: tuple[TokenizedPrompt, Groups], means: Means, metric: Metric, batch_size: int
) -> tuple[dict[Part, Float[Tensor, "layer ..."]], Float[Tensor, " one"]]:
    """One prompt's effects, [layer, *head, group] of each part, and its own metric, on the CPU.

    As many rows of streams run together as ``batch_size`` copies of the prompt have.
    """
    pair, groups = piece
    kinds: list[Part] = ["z" if part == "head" else part for part in means]
    values = PartValues(**dict(zip(kinds, means.values(), strict=True)))
    scores = sweep_positions(
        model, pair, groups, values, all_parts(kinds, model.cfg.n_layers, model.cfg.n_heads),
        rows=batch_size * sum(map(len, pair)), against_foil=metric == "logit-difference",
    )  # fmt: skip
    streams = torch.stack([in_metric(of_group, metric) for of_group in scores], -1).cpu()  # stream group
    shapes = {part: (*of_part.shape[1:-1], len(groups)) for part, of_part in means.items()}
    found = (streams[1:] - streams[:1]).split([math.prod(shape[:-1]) for shape in shapes.values()])
    effects = {part: each.view(shape) for (part, shape), each in zip(shapes.items(), found, strict=True)}
    return effects, streams[0, :1]
