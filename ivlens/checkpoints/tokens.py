"""Two tokenizers in one comparison: whether the prompts asked are the same tokens to both."""

import warnings
from collections.abc import Iterable
from typing import Any

from ..errors import MismatchError, SourceWarning
from ..tasks import Prompt

REMEDY = "give both one tokenizer with tokenizer= (--tokenizer)"


def check_same_tokens(name: str, base: Any, now: Any, prompts: Iterable[Prompt]) -> None:
    """Raise unless a checkpoint's tokenizer says the prompts as the base's does; warn of what else is different.

    Tokens that only one of them has, and a BOS that only one of them adds, are no hindrance.

    Raises:
        MismatchError: a token or a prompt has other ids.
        PromptError: a prompt cannot be tokenised.
    """
    ours, theirs = base.get_vocab(), now.get_vocab()
    moved = [token for token in ours.keys() & theirs.keys() if ours[token] != theirs[token]]
    if moved:
        came = f"another vocabulary: {len(moved)} tokens have other ids, like {min(moved)!r:.40}"
        raise MismatchError("a checkpoint with the base's tokenizer", came, REMEDY)
    for prompt in prompts:
        if _ids(base, prompt) != _ids(now, prompt):
            came = f"other ids for {prompt.text!r:.80}"
            raise MismatchError("a checkpoint whose tokenizer gives the prompts the base's ids", came, REMEDY)
    differences = [f"{len(ours.keys() ^ theirs.keys())} tokens that only one of them has"] * (ours != theirs)
    if _adds_bos(base) != _adds_bos(now):
        differences.append("a BOS that only one of them adds")
    if differences:
        message = f"{name}: its tokenizer and the base's differ in {' and '.join(differences)}"
        warnings.warn(message, SourceWarning, stacklevel=2)


def _ids(tokenizer: Any, prompt: Prompt) -> tuple[int, ...]:
    """The ids of a prompt and its answer, without a BOS."""
    encoded = prompt.encode(tokenizer)
    ids = (*encoded.prompt_ids, *encoded.answer_ids)
    return ids[1:] if ids[0] == tokenizer.bos_token_id else ids


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
