"""The token classes of function vectors (2310.15213, appendix), as their code aligns and patches them.

Prompts of one template are aligned token by token, whatever their words: an input or an answer is one *aligned
position*, whose tokens are averaged, and every token of the template is one of its own (``get_mean_head_activations``
and ``compute_duplicated_labels`` there). A class is patched at all its tokens together, each with the mean of its own
aligned position (``activation_replacement_per_class_intervention``).

| class | theirs | tokens |
|---|---|---|
| demonstration input, demonstration output, query input | demonstration, label, query_demonstration | words |
| structural, query structural | the same | the names of fields |
| predictive | the same | the last token before a demonstration's output |
| separator, query separator | the same | what is blank between an input and a name, and between examples |
| end of example | end_of_example | the first token after a demonstration's output |
| last | query_predictive | the last token |

Other parts, which their prompts do not have (an instruction, a history, options), are classes of their own, aligned as
words are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .parts import DEMONSTRATION, LAST, QUERY, SEPARATOR, Part, token_parts

TEMPLATE_TOKEN = ", token "  # in the names of aligned positions that are one token each
TEMPLATE = (SEPARATOR, *DEMONSTRATION[::2], *QUERY[::2])  # the roles whose tokens are each a position


class ClassedToken(NamedTuple):
    """A token's class, and its aligned position, such as "demonstration input 2"."""

    token_class: str
    position: str


def token_classes(
    tokenizer: Any, parts: Sequence[Part], special_tokens: bool, ids: Sequence[int]
) -> tuple[ClassedToken | None, ...]:
    """The classes and aligned positions of the tokens ``ids`` of the text made up of ``parts``.

    Parts of a role are numbered from the beginning, separators by the role that they follow; a token of a template's
    part is numbered among that part's tokens, so that parts of other numbers of tokens are not aligned. Added tokens
    have no class.

    Raises: PromptError where the tokenizer gives no offsets.
    """
    of_parts = token_parts(tokenizer, parts, special_tokens, ids)
    found: list[ClassedToken | None] = [None] * len(ids)
    seen, before = Counter[str](), ""
    for number, (role, _) in enumerate(parts):
        name = f"{role} after {before}" if role == SEPARATOR and before else role
        seen[name] += 1
        own = {at: each.text for at, each in enumerate(of_parts[:-1]) if each is not None and each.part == number}
        classes = _classes(role, before, [not text.strip() for text in own.values()])
        for nth, (at, token_class) in enumerate(zip(own, classes, strict=True), 1):
            token = f"{TEMPLATE_TOKEN}{nth} of {len(own)}" if role in TEMPLATE else ""
            found[at] = ClassedToken(token_class, f"{name} {seen[name]}{token}")
        before = role
    return (*found[:-1], ClassedToken(LAST, LAST))


def template_tokens(ids: Sequence[Sequence[int]], aligned: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, int]:
    """The token ids at the aligned positions of a template's parts, as far as all prompts have the same there."""
    found = [
        {name: own[at[0]] for name, at in positions.items() if TEMPLATE_TOKEN in name}
        for own, positions in zip(ids, aligned, strict=True)
    ]
    return {name: token for name, token in found[0].items() if all(each.get(name) == token for each in found)}


def _classes(role: str, before: str, blank: Sequence[bool]) -> list[str]:
    """The class of each token of a part, of which ``blank`` says whether they are."""
    if role not in TEMPLATE:
        return [role] * len(blank)
    if role == SEPARATOR:
        first = "end of example" if before == DEMONSTRATION[-1] else SEPARATOR
        return [first, *[SEPARATOR] * (len(blank) - 1)][: len(blank)]
    query = "query " if role in QUERY else ""
    gap = [*blank, False].index(False)  # what is blank before the name
    classes = [f"{query}{SEPARATOR}"] * gap + [f"{query}structural"] * (len(blank) - gap)
    return [*classes[:-1], "predictive"] if role == DEMONSTRATION[2] and classes else classes
