"""What may follow a prompt, its *candidates*, and what of them has to be fed to the model: their *tails*."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from ..vocabulary import Ids, TokenizedPrompt

Stream = TypeVar("Stream")
Read = TypeVar("Read")


class PromptCandidates(NamedTuple):
    """The token ids of a prompt, and those of each of its candidates."""

    prompt_ids: Ids
    candidates: tuple[Ids, ...]

    @property
    def tails(self) -> list[Ids]:
        """The tails that begin no other: what has to follow the prompt for all candidates to be scored."""
        tails = sorted({candidate[:-1] for candidate in self.candidates})
        following = zip(tails, [*tails[1:], None], strict=True)
        return [tail for tail, after in following if after is None or after[: len(tail)] != tail]

    @property
    def rows(self) -> list[int]:
        """For each candidate, the number of a tail that begins with its own."""
        tails = self.tails
        wanted = [candidate[:-1] for candidate in self.candidates]
        return [next(row for row, tail in enumerate(tails) if tail[: len(own)] == own) for own in wanted]

    @property
    def pairs(self) -> list[TokenizedPrompt]:
        """The prompt with each tail and a token after it, which is not fed."""
        return [TokenizedPrompt(self.prompt_ids, (*tail, 0)) for tail in self.tails]

    @property
    def width(self) -> int:
        """Tokens of all tails, each with the prompt's last one."""
        return sum(len(tail) + 1 for tail in self.tails)

    def pieces(self, width: int) -> "list[tuple[list[int], PromptCandidates]]":
        """Some of the candidates at a time, by their numbers, so that a piece is not wider, or is one candidate."""
        pieces: list[list[int]] = []
        for number in sorted(range(len(self.candidates)), key=lambda number: self.candidates[number]):
            if not pieces or self._only([*pieces[-1], number]).width > width:
                pieces.append([])
            pieces[-1].append(number)
        return [(numbers, self._only(numbers)) for numbers in pieces]

    def _only(self, numbers: Sequence[int]) -> "PromptCandidates":
        return PromptCandidates(self.prompt_ids, tuple(self.candidates[number] for number in numbers))


def read_rows(
    asked: PromptCandidates, streams: Sequence[Stream], read: Callable[[Stream, list[Ids]], Sequence[Read]]
) -> list[Read]:
    """What ``read`` gives for each candidate, out of the final stream of a tail that begins with its own."""
    found: dict[int, Read] = {}
    for row, stream in enumerate(streams):
        numbers = [number for number, its_row in enumerate(asked.rows) if its_row == row]
        found |= zip(numbers, read(stream, [asked.candidates[number] for number in numbers]), strict=True)
    return [found[number] for number in range(len(found))]
