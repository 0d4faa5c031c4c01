"""Which row belongs to which prompt and stream: the prompts' prefixes first, then stream after stream.

Prompts share the rows of a common beginning, or of a whole prefix where they differ in their answers only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...vocabulary import TokenizedPrompt
from .tree import Tree


@dataclass(frozen=True)
class Layout:
    """Which rows are which prompt's: ``prefixes`` among all rows, ``own`` within any one stream."""

    prefixes: Tree
    own: list[slice]
    last: Int[Tensor, " prompt"]  # the rows within a stream at which it forks: the last prompt tokens'
    positions: Int[Tensor, " row"]  # of the rows of all final streams, within their prompts
    reach: int  # the largest position, plus one

    @classmethod
    def of(cls, pairs: Sequence[TokenizedPrompt], streams: int, device: torch.device | str | None) -> "Layout":
        prefixes = Tree.of([prompt[:-1] for prompt, _ in pairs], device)
        own = torch.cat([torch.arange(len(prompt) - 1, len(prompt) - 1 + len(answer)) for prompt, answer in pairs])
        slices = _slices([len(answer) for _, answer in pairs])
        last = torch.tensor([each.start for each in slices])
        positions = torch.cat([prefixes.positions, own.repeat(streams).to(prefixes.positions)])
        return cls(prefixes, slices, last.to(device), positions, int(own.max()) + 1)

    @classmethod
    def within(
        cls, pair: TokenizedPrompt, positions: Sequence[int], streams: int, device: torch.device | str | None
    ) -> "Layout":
        """Of one prompt whose streams begin at the first of ``positions``, at all of which they fork."""
        prompt, answer = pair
        start, length = positions[0], len(prompt) + len(answer) - 1
        prefixes = Tree.of([prompt[:start]], device)
        own = torch.arange(start, length, device=device)
        last = torch.tensor(positions, device=device) - start
        every = torch.cat([prefixes.positions, own.repeat(streams)])
        return cls(prefixes, [slice(length - start)], last, every, length)

    @property
    def before(self) -> int:
        """Rows of all prefixes."""
        return len(self.prefixes.tokens)

    @property
    def width(self) -> int:
        """Rows of one stream."""
        return self.own[-1].stop

    @property
    def without_prefixes(self) -> "Layout":
        return replace(self, prefixes=self.prefixes.empty, positions=self.positions[self.before :])

    def only(self, kept: "Layout", rows: Float[Tensor, "row ..."]) -> Float[Tensor, "kept ..."]:
        """A view of the rows that another layout keeps: all, or those after the prefixes."""
        return rows[self.before - kept.before :]

    def streams(self, rows: Float[Tensor, "row ..."]) -> Float[Tensor, "stream width ..."]:
        """A view of the rows after the prefixes, by stream."""
        return rows[self.before :].unflatten(0, (-1, self.width))

    def clean(self, rows: Float[Tensor, "row ..."]) -> Float[Tensor, "width ..."]:
        """A view of the clean stream's rows, the first after the prefixes."""
        return rows[self.before : self.before + self.width]


def _slices(sizes: Sequence[int]) -> list[slice]:
    """Slices of these sizes, one after another."""
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
