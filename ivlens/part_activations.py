"""Activations of the parts of every layer at the last prompt token: means to patch to, and values to put elsewhere."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .activations import capture
from .checks import Count, checked
from .models import Model, PartValues, at_least_float32, attention_weights, part_points, provenance
from .records import PartMeans
from .scoring import listed
from .tasks import Prompt, task_names
from .vocabulary import EffectPart, Part


@checked
def mean_part_activations(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    parts: Sequence[EffectPart] = ("head", "attention", "mlp"),
    *,
    batch_size: Count = 32,
    n_jobs: Count | None = 1,
) -> PartMeans:
    """Mean over clean prompts of the parts of every layer at the last token: the means for effects of parts.

    Args:
        model: the model.
        prompts: clean prompts, which show the task.
        parts: "head", each head's output before W_O; "attention" and "mlp", what these add to the residual stream;
            "residual", the stream that enters a block.
        batch_size: prompts in one forward pass.
        n_jobs: workers that share the batches (``indirect_effects``).

    Returns:
        Means of each part, [layer, head, d_head] of heads and [layer, d_model] of the others, in the model's
        activation units, in float32 or wider.

    Raises:
        ArgumentError: no parts, or one twice.
        UnsupportedError: a layer has no such part.
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            activations are not finite.
        HookError, WorkerError: hooks are active that workers would not run; a worker died.

    Example:
        >>> means = iv.mean_part_activations(model, prompts)
        >>> means.attention.shape == (model.cfg.n_layers, model.cfg.d_model)
        True
    """
    prompts = listed(prompts)
    kinds: list[Part] = ["z" if part == "head" else part for part in parts]
    found = _captured(model, prompts, kinds, "mean", batch_size, n_jobs)
    return PartMeans(
        found.get("z"), found.get("attention"), found.get("mlp"), found.get("residual"),
        len(prompts),
        task=", ".join(task_names(prompts)),
        provenance=provenance(model, prompts=len(prompts)),
    )  # fmt: skip


def part_values(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    parts: Sequence[Part],
    *,
    batch_size: int = 32,
    n_jobs: int | None = 1,
) -> PartValues:
    """Each prompt's own activations of the parts of every layer at the last token, to be put into another model.

    What a head writes is its z under the W_O of this model.

    Args:
        model: the model that the values come from.
        prompts: the prompts.
        parts: which parts.
        batch_size: prompts in one forward pass.
        n_jobs: workers that share the batches (``indirect_effects``).

    Raises:
        UnsupportedError, PromptError, HookError, WorkerError: see ``mean_part_activations``.
    """
    kinds: list[Part] = list(dict.fromkeys("z" if part == "head" else part for part in parts))
    found = _captured(model, listed(prompts), kinds, "none", batch_size, n_jobs)
    written = _written(model, found["z"]) if "head" in parts else None
    return PartValues(
        found.get("z") if "z" in parts else None, written, found.get("attention"), found.get("mlp"),
        found.get("residual"),
    )  # fmt: skip


def _captured(
    model: Model,
    prompts: Sequence[Prompt],
    kinds: Sequence[Part],
    reduce: Literal["mean", "none"],
    batch_size: int,
    n_jobs: int | None,
) -> dict[Part, Float[Tensor, "..."]]:
    """By part, the activations of all layers, the mean over prompts or each prompt's."""
    names = part_points(model, kinds)
    points = [name for of_kind in names.values() for name in of_kind]
    found = capture(model, prompts, points, reduce=reduce, batch_size=batch_size, n_jobs=n_jobs)
    wide = at_least_float32(model.cfg.dtype)
    axis = 0 if reduce == "mean" else 1
    return {kind: torch.stack([found[name] for name in of_kind], axis).to(wide) for kind, of_kind in names.items()}


@torch.no_grad()
def _written(model: Model, z: Float[Tensor, "prompt layer head d_head"]) -> Float[Tensor, "prompt layer head d_model"]:
    """What the heads write: z under the model's own W_O, without bias."""
    layers = []
    for layer in range(z.shape[1]):
        w_o = attention_weights(model, layer)["W_O"].to(z)
        layers.append(torch.einsum("phd,hdm->phm", z[:, layer], w_o))
    return torch.stack(layers, 1)
