"""The parts of a prompt: each has a role, which its tokens share (the token classes of 2310.15213)."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Self

from ..errors import PromptError, brief

Part = tuple[str, str]

INSTRUCTION, HISTORY, SEPARATOR, LAST = "instruction", "history", "separator", "last"
QUERY = ("query input name", "query input", "query options", "query output name")
DEMONSTRATION = (
    "demonstration input name",
    "demonstration input",
    "demonstration options",
    "demonstration output name",
    "demonstration output",
)


class Composed(str):
    """A text that knows its ``parts``: pairs of a role and a text, one after another."""

    parts: tuple[Part, ...]

    def __new__(cls, parts: Sequence[Part]) -> Self:
        text = super().__new__(cls, "".join(text for _, text in parts))
        text.parts = tuple(parts)
        return text


def as_parts(value: object, text: str) -> tuple[Part, ...]:
    """``value`` as the parts of ``text``, possibly none, or a PromptError."""
    items = value if isinstance(value, (list, tuple)) else [value]
    pairs = [tuple(each) if isinstance(each, (list, tuple)) else (each,) for each in items]
    if not all(len(pair) == 2 and all(isinstance(each, str) for each in pair) for pair in pairs):
        raise PromptError("the parts of a prompt to be pairs of a role and a text", brief(value))
    if pairs and "".join(pair[1] for pair in pairs) != text:
        raise PromptError("the parts of a prompt to make up its text", f"{brief(text)} and {brief(value)}")
    return tuple(pairs)


def token_roles(
    tokenizer: Any, parts: Sequence[Part], special_tokens: bool, ids: Sequence[int]
) -> tuple[str | None, ...]:
    """The roles of the tokens ``ids`` of the text made up of ``parts``; the last token's role is "last".

    The tokenizer may add tokens around them: a second BOS before, an end-of-text token after.

    A token has the role of the part in which it ends, by the tokenizer's offsets; added tokens have none.

    Raises: PromptError where the tokenizer gives no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError("a fast tokenizer, which says where in the text its tokens are", type(tokenizer).__name__)
    encoded = tokenizer(
        "".join(text for _, text in parts),
        add_special_tokens=special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    ends = list(accumulate(len(text) for _, text in parts))
    marked = zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
    roles = [None if special else parts[bisect_left(ends, end)][0] for (_, end), special in marked]
    whole = list(encoded["input_ids"])
    start = next(at for at in range(len(whole)) if whole[at : at + len(ids)] == list(ids))
    return (*roles[start : start + len(ids) - 1], LAST)


def positions_by_name(tokenizer: Any, prompts: Sequence[Any], by: str) -> list[dict[str, tuple[int, ...]]]:
    """For each prompt, the positions of its tokens by name: a role, or an index counted from the end.

    ``by="role"`` takes prompts that know their parts, of any lengths. ``by="position"``, "-1" being the last token,
    takes any prompts of one length: in prompts of other lengths the same index would mean another token.

    Raises: PromptError where a prompt has no parts, or where lengths differ with ``by="position"``.
    """
    if by == "role":
        return [_gathered(prompt.token_roles(tokenizer)) for prompt in prompts]
    lengths = [len(prompt.token_ids(tokenizer)) for prompt in prompts]
    if len(set(lengths)) > 1:
        raise PromptError(
            "prompts of one length, so that a position means the same in all of them",
            f"from {min(lengths)} to {max(lengths)} tokens",
            "use by='role', which aligns prompts by what their tokens are",
        )
    return [{str(at - length): (at,) for at in range(length)} for length in lengths]


def _gathered(roles: Sequence[str | None]) -> dict[str, tuple[int, ...]]:
    named = dict.fromkeys(role for role in roles if role is not None)
    return {name: tuple(at for at, role in enumerate(roles) if role == name) for name in named}
