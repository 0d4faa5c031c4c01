"""The exact sweep: last-token streams (``ivlens.models.streams``) on groups of prompts of bounded size."""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import PrecisionWarning, UnsupportedError
from ..models import Model, PartValues, sweep_parts
from ..progress import ProgressBar
from ..vocabulary import Metric, ModelPart, TokenizedPrompt
from .loop import loop_scores
from .metric import Scores, in_metric

STRONGEST = 10  # parts whose effects are compared with the noise of half precision
ABOVE = 3  # an effect should be this many times the noise


def exact_scores(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    values: PartValues,
    parts: Sequence[ModelPart],
    against_foil: bool,
    budget: int,
    dtype: torch.dtype | None = None,
) -> list[Scores]:
    """Sweep groups of prompts, or one prompt's parts in pieces, with at most ``budget`` rows of streams at once."""
    scores: list[Scores] = []
    with ProgressBar(total=len(pairs), desc="exact sweep", unit="prompt", leave=False) as bar:
        for group in within(pairs, len(parts) + 1, budget):
            theirs = values.only(range(len(scores), len(scores) + len(group)))
            size = max(1, budget // len(group[0][1]) - 1) if len(group) == 1 else len(parts)
            pieces = [
                sweep_parts(model, group, theirs, parts[at : at + size], against_foil=against_foil, dtype=dtype)
                for at in range(0, len(parts), size)
            ]
            for first, *rest in zip(*pieces, strict=True):  # each piece begins with the clean stream
                scores.append(torch.cat([first, *(piece[1:] for piece in rest)]))
            bar.update(len(group))
    return scores


def within(pairs: Sequence[TokenizedPrompt], streams: int, budget: int) -> list[list[TokenizedPrompt]]:
    """Consecutive groups of prompts whose rows, of prefixes and streams, fit the budget, or of one prompt."""
    groups: list[list[TokenizedPrompt]] = []
    rows = 0
    for pair in pairs:
        own = len(pair[0]) - 1 + streams * len(pair[1])
        rows += own
        if not groups or rows > budget:
            groups.append([])
            rows = own
        groups[-1].append(pair)
    return groups


def warn_of_noise(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    values: PartValues,
    parts: Sequence[ModelPart],
    effects: Float[Tensor, "prompt part"],
    metric: Metric,
) -> None:
    """Warn where the strongest average effects are less than three times the noise of half precision.

    The noise is measured by computing the same parts' effects on the first prompt with float32 streams, too, or by the
    plain loop, which rounds otherwise, where streams compute in the model's dtype only.
    """
    aie = effects.double().mean(0)
    top = aie.topk(min(STRONGEST, aie.numel())).indices.sort().values.tolist()
    strongest, first = [parts[index] for index in top], values.only([0])
    against = metric == "logit-difference"
    do = "pass stream_dtype=torch.float32, which keeps the model as it is"
    try:
        (scores,) = sweep_parts(model, pairs[:1], first, strongest, against_foil=against, dtype=torch.float32)
    except UnsupportedError:
        (scores,) = loop_scores(model, pairs[:1], first, strongest, against, budget=1)
        do = "load the model in float32"
    exact = in_metric(scores, metric).double()
    half = effects[0, top].double()
    noise = (exact[1:] - exact[0] - half.to(exact)).pow(2).mean().sqrt().item()
    size = aie[top].abs().mean().item()
    if size < ABOVE * noise:
        warning = f"the {len(top)} strongest effects, {size:.2g} on average, are near the noise of {model.cfg.dtype}"
        warnings.warn(f"{warning}, {noise:.2g} on the first prompt; {do}", PrecisionWarning, stacklevel=5)
