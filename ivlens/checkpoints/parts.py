"""The parts of one model: their activations at the last token of prompts, and what another model's do in their place."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..activations import capture
from ..effects.exact import within
from ..errors import refuse_odd
from ..models import (
    Model,
    PartValues,
    attention_weights,
    attn_out_name,
    check_heads_alike,
    mlp_out_name,
    provenance,
    resid_pre_name,
    rows_that_fit,
    sweep_parts,
    z_name,
)
from ..records import PartActivations, PatchedParts
from ..records.patching import OF_HEADS
from ..scoring import all_ids
from ..tasks import Prompt
from ..vocabulary import PARTS, all_parts

ACTIVATIONS = ("z", "written", "attention", "mlp", "residual")
POINTS: dict[str, Callable[[int], str]] = {
    "z": z_name, "attention": attn_out_name, "mlp": mlp_out_name, "residual": resid_pre_name,
}  # fmt: skip


@torch.no_grad()
def read_parts(model: Model, prompts: Sequence[Prompt]) -> PartActivations:
    """The activations of all parts of a model at the last token of prompts.

    Raises:
        UnsupportedError: a layer that has no heads, or whose parts are not seen to be added to the stream.
    """
    check_heads_alike(model)
    layers = range(model.cfg.n_layers)
    points = [name(layer) for name in POINTS.values() for layer in layers]
    captured = capture(model, prompts, points, reduce="none", what="activations of parts")
    values = {part: torch.stack([captured[name(layer)] for layer in layers], 1) for part, name in POINTS.items()}
    written = torch.stack([_written(model, layer, values["z"][:, layer]) for layer in layers], 1)
    return PartActivations(**values, written=written, provenance=provenance(model, prompts=len(prompts)))


def _written(model: Model, layer: int, z: Float[Tensor, "prompt head d_head"]) -> Float[Tensor, "prompt head d_model"]:
    """What a layer's heads write, before any norm of their sum."""
    w_o = attention_weights(model, layer)["W_O"].to("cpu", z.dtype)
    return torch.einsum("phe,hed->phd", z, w_o)


def of_prompts(activations: PartActivations, numbers: Sequence[int]) -> PartActivations:
    """The activations on some of the prompts, in this order."""
    return replace(activations, **{name: getattr(activations, name)[list(numbers)] for name in ACTIVATIONS})


@torch.no_grad()
def effects_of_parts(
    model: Model, prompts: Sequence[Prompt], activations: PartActivations, dtype: torch.dtype | None
) -> PatchedParts:
    """Change of log P(answer) with each part of the model in turn replaced by another model's activation.

    Raises:
        PromptError: prompts on which log P(answer) is not finite.
    """
    shape = model.cfg.n_layers, model.cfg.n_heads
    log_p = _log_p(model, prompts, activations, dtype)
    odd = (~log_p.isfinite().all(1)).nonzero().flatten().tolist()
    refuse_odd("log-probabilities with parts patched", [prompt.text for prompt in prompts], odd)
    sizes = [len(all_parts([part], *shape)) for part in PARTS]
    changes = dict(zip(PARTS, (log_p[:, 1:] - log_p[:, :1]).split(sizes, 1), strict=True))
    for part in OF_HEADS:
        changes[part] = changes[part].unflatten(1, shape)
    return PatchedParts(log_p[:, 0], **changes, provenance=provenance(model, prompts=len(prompts)))


def _log_p(
    model: Model, prompts: Sequence[Prompt], activations: PartActivations, dtype: torch.dtype | None
) -> Float[Tensor, "prompt stream"]:
    """log P(answer) without a patch, and with each part patched, in groups of prompts and parts that fit memory."""
    pairs, parts = all_ids(model, prompts), all_parts(PARTS, model.cfg.n_layers, model.cfg.n_heads)
    values = PartValues(**{name: getattr(activations, name) for name in ACTIVATIONS})
    budget = rows_that_fit(model, max(len(ids) + len(answer) for ids, answer in pairs), dtype)
    scores: list[Tensor] = []
    with tqdm(total=len(pairs), desc="patching", unit="prompt", leave=False, disable=None) as bar:
        for group in within(pairs, len(parts) + 1, budget):
            own = values.only(range(len(scores), len(scores) + len(group)))
            size = max(1, budget // len(group[0][1]) - 1) if len(group) == 1 else len(parts)
            found = [
                sweep_parts(model, group, own, parts[at : at + size], dtype=dtype) for at in range(0, len(parts), size)
            ]
            for first, *rest in zip(*found, strict=True):  # each begins with the clean stream
                scores.append(torch.cat([first, *(part[1:] for part in rest)]).double().sum(-1).cpu())
            bar.update(len(group))
    return torch.stack(scores)
