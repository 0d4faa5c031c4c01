"""What the frozen base model says on a lesson: asked once and remembered, or asked anew at every step."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..models import HookedTransformer, Rows, answer_residual, batches, final_logits, hooked, padded, z_name
from ..models.hooks import Edit
from ..records import Head
from ..steering import SITES
from .lesson import Lesson

Said = tuple[Float[Tensor, "token d_model"], Float[Tensor, "row chosen d_head"]]


@dataclass(frozen=True)
class Addition:
    """A vector that is added to the last prompt token at a layer's site."""

    vector: Float[Tensor, " d_model"]
    layer: int
    site: str

    def edit(self, rows: Rows, scale: float) -> dict[str, Edit]:
        """Hook point and edit that add ``scale`` times the vector in these rows.

        The positions are the rows' own, not looked up: the backward pass may recompute blocks in another thread.
        """
        at = torch.arange(rows.tokens.shape[1], device=rows.last.device) == rows.last[:, None]

        def add(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
            return stream + at[..., None] * (scale * self.vector).to(stream)

        return {SITES[self.site](self.layer): add}


def reading(
    rows: Rows, heads: Sequence[Head]
) -> tuple[dict[str, Edit], Callable[[], Float[Tensor, "row chosen d_head"]]]:
    """Hook points and edits that take the heads' outputs at the last prompt token, and a call that gives them."""
    taken: dict[int, Tensor] = {}
    row = torch.arange(len(rows.last), device=rows.last.device)

    def take(layer: int) -> Edit:
        def keep(z: Float[Tensor, "batch pos head d_head"]) -> None:
            taken[layer] = z[row, rows.last]

        return keep

    def outputs() -> Float[Tensor, "row chosen d_head"]:
        return torch.stack([taken[layer][:, head] for layer, head in heads], 1)

    return {z_name(layer): take(layer) for layer in {layer for layer, _ in heads}}, outputs


@dataclass
class Teacher:
    """The base model on one lesson, with the addition's vector (``scale`` not 0) or without, and its heads' outputs.

    ``base`` is the context in which ``model`` computes with its base weights.
    """

    model: HookedTransformer
    base: Callable[[], AbstractContextManager[None]]
    lesson: Lesson
    addition: Addition | None = None
    scale: float = 0.0
    heads: tuple[Head, ...] = ()
    remembered: dict[int, Said] = field(default_factory=dict)

    def remember(self, steps: int, batch_size: int) -> None:
        """Ask for every prompt that so many steps show, and keep the answers: final residual streams, no logits."""
        places = self.lesson.drawn_by(steps)
        pairs = [self.lesson.pairs[place] for place in places]
        with tqdm(total=len(pairs), desc="teacher", unit="prompt", leave=False, disable=None) as bar:
            for found, batch in batches(pairs, batch_size):
                residual, z = self._ask(batch)
                counts = [len(answer) for _, answer in batch]
                for at, tokens, outputs in zip(found, residual.split(counts), z, strict=True):
                    self.remembered[places[at]] = tokens.clone(), outputs[None].clone()
                bar.update(len(batch))

    def answers(self, places: Sequence[int]) -> Said:
        """Final residual streams at the answer tokens of the prompts at these places, and the heads' outputs."""
        if not self.remembered:
            return self._ask([self.lesson.pairs[place] for place in places])
        residuals, outputs = zip(*(self.remembered[place] for place in places), strict=True)
        return torch.cat(residuals), torch.cat(outputs)

    def logits(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocab"]:
        """The base's next-token logits of its final residual streams."""
        with self.base():
            return final_logits(self.model, residual)

    def _ask(self, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Said:
        rows = padded(pairs, self.model.cfg.device)
        edits, outputs = reading(rows, self.heads)
        if self.addition is not None and self.scale:
            edits |= self.addition.edit(rows, self.scale)
        with self.base(), hooked(self.model, edits):
            residual = answer_residual(self.model, rows)
        cfg = self.model.cfg
        return residual, outputs() if self.heads else residual.new_zeros(len(pairs), 0, cfg.d_head)


def first_tokens(rows: Rows) -> Int[Tensor, " row"]:
    """Where in the rows' answer tokens, laid one after the other, each row's first one stands."""
    counts = torch.tensor([0] + [len(answer) for answer in rows.answers[:-1]])
    return counts.cumsum(0).to(rows.last.device)
