"""Prompts that are too long are cut on request, and only in their inputs."""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from ..errors import PromptError, brief
from .turns import Turns

CutSide = Literal["left", "right", "middle"]
PIECE = re.compile(r"\s*(?:\w{1,16}|\S)")  # a word, or a part of a long one


def shortened(turns: Turns, length: Callable[[Turns], int], max_tokens: int, cut: CutSide) -> Turns:
    """The turns with inputs cut so that ``length`` gives at most ``max_tokens`` tokens.

    Inputs of demonstrations and of the query keep as many words as fit, the same number in all that are longer.
    Instruction, history, options, answers and names of fields stay as they are.

    Raises: PromptError where these alone are too long.
    """
    if length(turns) <= max_tokens:
        return turns
    inputs = [*(shot.input for shot in turns.demonstrations), turns.query]
    pieces = [PIECE.findall(text) for text in inputs]

    def kept(n: int) -> Turns:
        *shots, query = ("".join(_keep(each, n, cut)).strip() for each in pieces)
        pairs = zip(turns.demonstrations, shots, strict=True)
        return replace(turns, demonstrations=tuple(replace(shot, input=text) for shot, text in pairs), query=query)

    n = bisect_right(range(1, max(map(len, pieces))), max_tokens, key=lambda n: length(kept(n)))
    if not n:
        expected = f"prompts of at most {max_tokens} tokens, beside their inputs"
        raise PromptError(expected, f"more for {brief(turns.query)}", "pass fewer shots, or a larger max_tokens")
    return kept(n)


def _keep(pieces: list[str], n: int, cut: CutSide) -> list[str]:
    """At most ``n`` of the pieces, without those on the side that is cut."""
    if n >= len(pieces):
        return pieces
    first = {"left": 0, "right": n, "middle": (n + 1) // 2}[cut]
    return pieces[:first] + pieces[len(pieces) - (n - first) :]
