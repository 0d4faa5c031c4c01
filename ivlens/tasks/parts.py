"""The parts of a prompt: each has a role, which its tokens share."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Self

from ..errors import PromptError, brief

Part = tuple[str, str]

INSTRUCTION, HISTORY, SEPARATOR, LAST = "instruction", "history", "separator", "last"
QUERY = ("query input name", "query input", "query output name")
QUERY_OPTIONS, DEMONSTRATION_OPTIONS = "query options", "demonstration options"
DEMONSTRATION = (
    "demonstration input name",
    "demonstration input",
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


class TokenPart(NamedTuple):
    """The number of the part in which a token ends, and the token's own text."""

    part: int
    text: str


def token_parts(
    tokenizer: Any, parts: Sequence[Part], special_tokens: bool, ids: Sequence[int]
) -> tuple[TokenPart | None, ...]:
    """The parts of the tokens ``ids`` of the text made up of ``parts``; added tokens are of none.

    The tokenizer may add tokens around them: a second BOS before, an end-of-text token after.

    A token is of the part in which it ends, by the tokenizer's offsets.

    Raises: PromptError where the tokenizer gives no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError("a fast tokenizer, which says where in the text its tokens are", type(tokenizer).__name__)
    text = "".join(text for _, text in parts)
    encoded = tokenizer(
        text,
        add_special_tokens=special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    ends = list(accumulate(len(text) for _, text in parts))
    marked = zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
    found = [
        None if special else TokenPart(bisect_left(ends, end), text[start:end]) for (start, end), special in marked
    ]
    whole = list(encoded["input_ids"])
    start = next(at for at in range(len(whole)) if whole[at : at + len(ids)] == list(ids))
    return tuple(found[start : start + len(ids)])


def token_roles(
    tokenizer: Any, parts: Sequence[Part], special_tokens: bool, ids: Sequence[int]
) -> tuple[str | None, ...]:
    """The roles of the tokens ``ids``, those of their parts (``token_parts``); the last token's role is "last"."""
    found = token_parts(tokenizer, parts, special_tokens, ids)
    return (*(None if each is None else parts[each.part][0] for each in found[:-1]), LAST)


def positions_by_name(tokenizer: Any, prompts: Sequence[Any], by: str) -> list[dict[str, tuple[int, ...]]]:
    """For each prompt, the positions that are patched together, by name: a role, a token class, or an index.

    ``by="role"`` and ``by="token-class"`` take prompts that know their parts, of any lengths. ``by="position"`` counts
    from the end, "-1" being the last token, and takes any prompts of one length: in prompts of other lengths the same
    index would mean another token.

    Raises: PromptError where a prompt has no parts, or where lengths differ with ``by="position"``.
    """
    if by == "role":
        return [_gathered(prompt.token_roles(tokenizer)) for prompt in prompts]
    if by == "token-class":
        classes = (prompt.token_classes(tokenizer) for prompt in prompts)
        return [_gathered([None if each is None else each.token_class for each in tokens]) for tokens in classes]
    lengths = [len(prompt.token_ids(tokenizer)) for prompt in prompts]
    if len(set(lengths)) > 1:
        raise PromptError(
            "prompts of one length, so that a position means the same in all of them",
            f"from {min(lengths)} to {max(lengths)} tokens",
            "use by='role', which aligns prompts by what their tokens are",
        )
    return [{str(at - length): (at,) for at in range(length)} for length in lengths]


def aligned_positions(tokenizer: Any, prompts: Sequence[Any], by: str) -> list[dict[str, tuple[int, ...]]]:
    """For each prompt, the positions that have one mean, by name: as ``positions_by_name``, but for token classes.

    Raises: PromptError, see ``positions_by_name``.
    """
    if by != "token-class":
        return positions_by_name(tokenizer, prompts, by)
    classes = (prompt.token_classes(tokenizer) for prompt in prompts)
    return [_gathered([None if each is None else each.position for each in tokens]) for tokens in classes]


def _gathered(names: Sequence[str | None]) -> dict[str, tuple[int, ...]]:
    """The positions of each name."""
    named = dict.fromkeys(name for name in names if name is not None)
    return {name: tuple(at for at, each in enumerate(names) if each == name) for name in named}
