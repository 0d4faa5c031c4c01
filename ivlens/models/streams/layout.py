"""Which row belongs to which prompt and stream: the prompts' prefixes first, then stream after stream.

Prompts that follow each other and are the same, with different answers, share one prefix.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...vocabulary import Ids, TokenizedPrompt


@dataclass(frozen=True)
class Layout:
    """Which rows are which prompt's: ``prefixes`` among all rows, ``own`` within any one stream."""

    prefixes: list[slice]
    own: list[slice]
    last: Int[Tensor, " prompt"]  # the last prompt tokens' rows within a stream
    positions: Int[Tensor, " row"]  # of the rows of all final streams, within their prompts
    reach: int  # the largest position, plus one

    @classmethod
    def of(cls, pairs: Sequence[TokenizedPrompt], streams: int, device: torch.device | str | None) -> "Layout":
        lengths, widths = [len(prompt) - 1 for prompt, _ in pairs], [len(answer) for _, answer in pairs]
        runs = [(len(prompt) - 1, len([*same])) for prompt, same in groupby(prompt for prompt, _ in pairs)]
        before = torch.cat([torch.arange(length) for length, _ in runs])
        prefixes = zip(_slices([length for length, _ in runs]), runs, strict=True)
        own = torch.cat([torch.arange(n, n + width) for n, width in zip(lengths, widths, strict=True)])
        slices = _slices(widths)
        last, positions = torch.tensor([each.start for each in slices]), torch.cat([before, own.repeat(streams)])
        shared = [prefix for prefix, (_, count) in prefixes for _ in range(count)]
        return cls(shared, slices, last.to(device), positions.to(device), int(own.max()) + 1)

    @property
    def before(self) -> int:
        """Rows of all prefixes."""
        return self.prefixes[-1].stop

    @property
    def width(self) -> int:
        """Rows of one stream."""
        return self.own[-1].stop

    @property
    def without_prefixes(self) -> "Layout":
        return replace(self, prefixes=[slice(0, 0)] * len(self.prefixes), positions=self.positions[self.before :])

    def only(self, kept: "Layout", rows: Float[Tensor, "row ..."]) -> Float[Tensor, "kept ..."]:
        """A view of the rows that another layout keeps: all, or those after the prefixes."""
        return rows[self.before - kept.before :]

    def streams(self, rows: Float[Tensor, "row ..."]) -> Float[Tensor, "stream width ..."]:
        """A view of the rows after the prefixes, by stream."""
        return rows[self.before :].unflatten(0, (-1, self.width))

    def clean(self, rows: Float[Tensor, "row ..."]) -> Float[Tensor, "width ..."]:
        """A view of the clean stream's rows, the first after the prefixes."""
        return rows[self.before : self.before + self.width]


def prefix_tokens(pairs: Sequence[TokenizedPrompt]) -> list[int]:
    """The tokens of all prefixes."""
    prompts: list[Ids] = [prompt for prompt, _ in groupby(prompt for prompt, _ in pairs)]
    return [token for prompt in prompts for token in prompt[:-1]]


def _slices(sizes: Sequence[int]) -> list[slice]:
    """Slices of these sizes, one after another."""
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
