"""The parts of a model: their activations at the last token of prompts, and what another model's instead of them do."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..effects import patched_scores
from ..errors import refuse_odd
from ..models import Model, PartValues, provenance
from ..part_activations import part_values
from ..records import PartActivations, PatchedParts
from ..records.patching import OF_HEADS
from ..scoring import all_ids
from ..tasks import Prompt
from ..vocabulary import PARTS, all_parts

ACTIVATIONS = ("z", "written", "attention", "mlp", "residual")


def read_parts(model: Model, prompts: Sequence[Prompt], n_jobs: int | None = 1) -> PartActivations:
    """The activations of all parts of a model at the last token of prompts.

    Raises:
        UnsupportedError: a layer that has no heads, or whose parts are not seen to be added to the stream.
    """
    values = part_values(model, prompts, PARTS, n_jobs=n_jobs)
    activations = {name: getattr(values, name) for name in ACTIVATIONS}
    return PartActivations(**activations, provenance=provenance(model, prompts=len(prompts)))


def of_prompts(activations: PartActivations, numbers: Sequence[int]) -> PartActivations:
    """The activations on some of the prompts, in this order."""
    return replace(activations, **{name: getattr(activations, name)[list(numbers)] for name in ACTIVATIONS})


@torch.no_grad()
def patch_parts(
    model: Model,
    prompts: Sequence[Prompt],
    activations: PartActivations,
    dtype: torch.dtype | None = None,
    n_jobs: int | None = 1,
) -> PatchedParts:
    """Change of log P(answer) with each part of the model in turn replaced by another model's activation.

    Raises:
        PromptError: prompts on which log P(answer) is not finite.
    """
    shape = model.cfg.n_layers, model.cfg.n_heads
    values = PartValues(**{name: getattr(activations, name) for name in ACTIVATIONS})
    scores, method = patched_scores(
        model, all_ids(model, prompts), values, all_parts(PARTS, *shape), dtype=dtype, n_jobs=n_jobs
    )
    log_p = torch.stack([of_prompt.double().sum(-1) for of_prompt in scores])  # prompt stream, the clean one first
    odd = (~log_p.isfinite().all(1)).nonzero().flatten().tolist()
    refuse_odd("log-probabilities with parts patched", [prompt.text for prompt in prompts], odd)
    sizes = [len(all_parts([part], *shape)) for part in PARTS]
    changes = dict(zip(PARTS, (log_p[:, 1:] - log_p[:, :1]).split(sizes, 1), strict=True))
    for part in OF_HEADS:
        changes[part] = changes[part].unflatten(1, shape)
    facts = provenance(model, prompts=len(prompts), method=method)
    return PatchedParts(log_p[:, 0], **changes, provenance=facts)
