"""Texts that begin alike, with one row for each token that they share: a tree of tokens, and attention within it.

Prompts of one task share their instruction, and the options of a question all of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ...vocabulary import Ids

SCORES_AT_ONCE = 1 << 22  # of one head, in texts that attend together


class Together(NamedTuple):
    """Texts that attend together, padded on the right: their ``rows``, and where each ``new`` row is."""

    rows: Int[Tensor, "text pos"]
    new: Int[Tensor, " row"]
    text: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]


@dataclass(frozen=True)
class Tree:
    """Rows of a tree of tokens: their ``tokens`` and ``positions`` in their texts, and each text's rows, its path."""

    tokens: list[int]
    positions: Int[Tensor, " row"]
    paths: list[list[int]]

    @classmethod
    def of(cls, texts: Sequence[Ids], device: torch.device | str | None, ends: Sequence[int] | None = None) -> "Tree":
        """The tree of some texts' token ids.

        ``ends`` are, in each text, where its prompt ends: such a token has a row of its own beside another prompt that
        goes on, so that an edit of last prompt tokens does not reach that one.
        """
        rows: dict[tuple[int, int, bool], int] = {}
        paths, positions = [], list[int]()
        for text, end in zip(texts, ends or [-1] * len(texts), strict=True):
            row, path = -1, list[int]()
            for position, token in enumerate(text):
                row = rows.setdefault((row, token, position == end), len(rows))
                if row == len(positions):
                    positions.append(position)
                path.append(row)
            paths.append(path)
        return cls([token for _, token, _ in rows], torch.tensor(positions, dtype=torch.long, device=device), paths)

    @property
    def device(self) -> torch.device:
        """Where indices of rows are."""
        return self.positions.device

    @property
    def empty(self) -> "Tree":
        """The same texts without a token."""
        return replace(self, tokens=[], positions=self.positions[:0], paths=[[] for _ in self.paths])

    @cached_property
    def spans(self) -> list[slice | Int[Tensor, " pos"]]:
        """Each text's rows, as a slice where they follow each other."""
        return [
            slice(path[0], path[-1] + 1) if path and path[-1] - path[0] == len(path) - 1
            else torch.tensor(path, dtype=torch.long, device=self.device)
            for path in self.paths
        ]  # fmt: skip

    @cached_property
    def together(self) -> list[Together]:
        """All rows, in groups of texts of similar length."""
        longest = {path[-1]: path for path in self.paths if path}
        for path in list(longest.values()):
            for row in path[:-1]:
                longest.pop(row, None)
        return [self._together(paths) for paths in _groups(sorted(longest.values(), key=len))]

    def _together(self, paths: Sequence[Sequence[int]]) -> Together:
        """A group; rows that an earlier group has are computed again, to the same values."""
        width = len(paths[-1])
        where = {row: (text, pos) for text, path in enumerate(paths) for pos, row in enumerate(path)}
        text, pos = torch.tensor(list(where.values()), device=self.device).T
        rows = torch.tensor([[*path, *[path[-1]] * (width - len(path))] for path in paths], device=self.device)
        return Together(rows, torch.tensor(list(where), device=self.device), text, pos)


def _groups(paths: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Paths, the shortest first, in groups whose attention scores are not too many, or of one path."""
    group: list[list[int]] = []
    for path in paths:
        if group and (len(group) + 1) * len(path) ** 2 > SCORES_AT_ONCE:
            yield group
            group = []
        group.append(path)
    if group:
        yield group
