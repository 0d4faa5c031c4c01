"""Answers that lack the space before them that their prompt's text needs, as " Paris" has it after "France is"."""

import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

from ..errors import PromptError, brief
from ..text import plural
from .prompt import Prompt

ENDS = (":", "?", "!", "→", "->", "=>", " =")  # after which a word begins with a space, in code and JSON, too
UNSPACED = (
    "CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE",
    "BALINESE", "YI",
)  # fmt: skip


def warn_of_missing_spaces(tokenizer: Any, prompts: Sequence[Prompt]) -> None:
    """Warn once where no accepted answer of a prompt has the space that the text needs; says the right spelling.

    Args:
        tokenizer: the model's tokenizer.
        prompts: the prompts, each with its answers.

    Warns:
        UserWarning: naming the first such prompt and answer, and how many there are.
    """
    found = [prompt for prompt in prompts if lacks_space(tokenizer, prompt)]
    if found:
        text, answer = found[0].text, found[0].answers[0]
        warnings.warn(
            f"the answers of {len(found)} of {plural(len(prompts), 'prompt')} lack the space that their text needs: "
            f"after {brief(text[-20:])} the answer {brief(answer)} should be written {brief(' ' + answer)}",
            stacklevel=5,
        )


def lacks_space(tokenizer: Any, prompt: Prompt) -> bool:
    """Whether text and answer are written in a way that a space belongs between them, and the tokenizer sees it.

    False for the prompts of chat templates, after line breaks, brackets and quotation marks, within a number or a
    name with dots or colons, beside scripts without spaces, and where a tokenizer reads the answer alike with and
    without a space.
    """
    if not prompt.special_tokens or not all(_is_joined(prompt.text, answer) for answer in prompt.answers):
        return False
    answer = prompt.answers[0]
    try:
        text = prompt.token_ids(tokenizer)
        joined, spaced = (Prompt(prompt.text + gap + answer, prompt.answers).token_ids(tokenizer) for gap in ("", " "))
    except PromptError:  # reported with all others that cannot be tokenised
        return False
    ends_special = bool(text) and text[-1] in tokenizer.all_special_ids
    return not ends_special and spaced != joined and spaced[: len(text)] == text


def _is_joined(text: str, answer: str) -> bool:
    """Whether a word or number begins right after a word, a number or a mark that is followed by a space."""
    last, first = text[-1], answer[0]
    after = last.isalnum() or (text.endswith(ENDS) and not text.endswith(('":', "::")))
    within_number = first.isdigit() and text[-2:].rstrip(":")[-1:].isdigit()
    before_mark = text.rstrip(":?!")[-1:] or last
    return after and first.isalnum() and not within_number and not any(map(_unspaced, (before_mark, first)))


def _unspaced(character: str) -> bool:
    """Whether a character is of a script that writes no spaces between words."""
    name = unicodedata.name(character, "")
    wide = unicodedata.east_asian_width(character) in "WF" and not name.startswith("HANGUL")
    return wide or name.startswith(UNSPACED)
