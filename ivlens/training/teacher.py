"""The teacher: outputs of the frozen base model, computed once and cached, or at every step.

There is no second model: the base is the trained model with its initial weights restored for a forward pass. The cache
holds final residual streams at the answer's tokens (d_model numbers per token instead of the vocabulary's logits), or
at every token where a term needs them, and heads' z.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models import (
    HookedTransformer,
    Rows,
    at_answers,
    at_tokens,
    base_weights,
    batches,
    final_logits,
    final_residual,
    hooked,
    padded,
    z_name,
)
from ..models.hooks import Edit
from ..progress import ProgressBar
from ..records import Head
from ..steering import SITES
from ..text import plural
from ..vocabulary import Site, TokenizedPrompt
from .sampler import PromptSampler

BATCH_SIZE = 16  # prompts per forward pass while the cache is filled
log = logging.getLogger("ivlens")


@dataclass(frozen=True)
class VectorAddition:
    """``scale`` times the vector, added at a layer and site: at the last prompt token, or at ``every`` token."""

    layer: int
    site: Site
    scale: float
    every: bool = False

    def edits(self, rows: Rows, vector: Float[Tensor, " d_model"]) -> dict[str, Edit]:
        """The hook point and the edit that adds the vector in these rows.

        The positions are computed here, not in the hook: the backward pass may recompute blocks in another thread.
        """
        last = torch.arange(rows.tokens.shape[1], device=rows.last.device) == rows.last[:, None]
        at = rows.mask.bool() if self.every else last

        def add(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
            return stream + at[..., None] * (self.scale * vector).to(stream)

        return {SITES[self.site](self.layer): add}


@dataclass(frozen=True)
class TeacherOutputs:
    """The base model on a batch: final streams at the answer's tokens, and z of heads at the last prompt token.

    ``unembed`` computes the base's logits from the streams, only for terms that use them. ``sequence`` are the streams
    at every token of prompts and answers; none of them unless a term needs ``whole_sequences``.
    """

    residual: Float[Tensor, "token d_model"]
    z: Float[Tensor, "prompt chosen d_head"]
    unembed: Callable[[Tensor], Tensor] = field(repr=False)
    sequence: Float[Tensor, "position d_model"] = field(default_factory=lambda: torch.zeros(0, 0))

    @property
    def logits(self) -> Float[Tensor, "token vocab"]:
        """The base's next-token logits at the answer's tokens, without gradients."""
        return self.unembed(self.residual)

    @property
    def sequence_logits(self) -> Float[Tensor, "position vocab"]:
        """The base's next-token logits at every token of prompts and answers, without gradients."""
        return self.unembed(self.sequence)


@dataclass
class Teacher:
    """The base model on one sampler's prompts, with or without a vector added; records z of the ``heads``.

    ``anchors`` are the initial values of the trained parameters, restored for the teacher's forward passes. ``whole``:
    final streams are kept at every token of prompts and answers, too.
    """

    model: HookedTransformer
    anchors: Mapping[str, Tensor]
    sampler: PromptSampler
    heads: tuple[Head, ...] = ()
    addition: VectorAddition | None = None
    vector: Float[Tensor, " d_model"] | None = None
    whole: bool = False
    cache: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def fill_cache(self, steps: int) -> None:
        """Compute the outputs on every prompt drawn in ``steps`` steps, while the weights are still the base's."""
        indices = self.sampler.drawn_by(steps)
        pairs = [self.sampler.pairs[index] for index in indices]
        log.info("recording the base's outputs on %s, for the guidance", plural(len(pairs), "prompt"))
        with ProgressBar(total=len(pairs), desc="teacher", unit="prompt", leave=False) as bar:
            for found, batch in batches(pairs, BATCH_SIZE):
                for at, outputs in zip(found, self._forward(batch), strict=True):
                    self.cache[indices[at]] = tuple(each.clone() for each in outputs)
                bar.update(len(batch))

    def outputs(self, indices: Sequence[int]) -> TeacherOutputs:
        """The base's outputs on the sampler's prompts with these indices, from the cache if it is filled."""
        if self.cache:
            outputs = [self.cache[index] for index in indices]
        else:
            outputs = self._forward([self.sampler.pairs[index] for index in indices])
        residual, z, sequence = (torch.cat(each) for each in zip(*outputs, strict=True))
        return TeacherOutputs(residual, z, self._unembed, sequence)

    def _unembed(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocab"]:
        with base_weights(self.model, self.anchors):
            return final_logits(self.model, residual)

    def _forward(self, pairs: Sequence[TokenizedPrompt]) -> list[tuple[Tensor, ...]]:
        """Each prompt's final streams at the answer's tokens, z of the heads, and final streams at every token."""
        rows = padded(pairs, self.model.cfg.device, whole=self.whole)
        edits, recorded_z = record_z(rows, self.heads)
        if self.addition is not None and self.vector is not None:
            edits |= self.addition.edits(rows, self.vector)
        with base_weights(self.model, self.anchors), hooked(self.model, edits):
            residual = final_residual(self.model, rows)
        answers = at_answers(residual, rows).split([len(answer) for answer in rows.answers])
        z = recorded_z() if self.heads else residual.new_zeros(len(pairs), 0, self.model.cfg.d_head)
        lengths = rows.mask.sum(1).tolist()
        sequences = at_tokens(residual, rows).split(lengths) if self.whole else [residual[0, :0]] * len(pairs)
        return list(zip(answers, z.split(1), sequences, strict=True))


def record_z(
    rows: Rows, heads: Sequence[Head]
) -> tuple[dict[str, Edit], Callable[[], Float[Tensor, "prompt chosen d_head"]]]:
    """Edits that record the heads' z at the last prompt token, and a function that returns it afterwards."""
    by_layer: dict[int, Tensor] = {}
    row = torch.arange(len(rows.last), device=rows.last.device)

    def recorder(layer: int) -> Edit:
        def record(z: Float[Tensor, "batch pos head d_head"]) -> None:
            by_layer[layer] = z[row, rows.last]

        return record

    def recorded() -> Float[Tensor, "prompt chosen d_head"]:
        return torch.stack([by_layer[layer][:, head] for layer, head in heads], 1)

    return {z_name(layer): recorder(layer) for layer in {layer for layer, _ in heads}}, recorded


def first_tokens(rows: Rows) -> Int[Tensor, " prompt"]:
    """The index of each prompt's first answer token among the concatenated answer tokens of all rows."""
    counts = torch.tensor([0] + [len(answer) for answer in rows.answers[:-1]])
    return counts.cumsum(0).to(rows.last.device)
