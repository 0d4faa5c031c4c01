"""A prompt, the answers accepted after it, and how both become token ids."""

from dataclasses import dataclass, field
from typing import Any

from ..errors import PromptError
from .parts import Part, as_parts, token_roles


@dataclass(frozen=True)
class Encoded:
    """The ids of a prompt and of the answer that follows it, split where the answer begins."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """A text and the answers accepted after it, each with its leading space where there is one; the first is canonical.

    ``answers`` may be given as one text, a list or a tuple. ``special_tokens=False`` says that the text already holds
    its special tokens, as chat templates write them. ``labels_changed`` is the fraction of the demonstrations whose
    label a corruption made wrong. ``parts`` are pairs of a role ("instruction", "query input", any name) and a text,
    which make up the text one after another.

    Raises: PromptError where the text is empty or not that of its parts, or there is no answer, or an empty one.
    """

    text: str
    answers: tuple[str, ...]
    special_tokens: bool = True
    task: str = ""
    input: str = ""
    labels_changed: float | None = None
    parts: tuple[Part, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text:
            raise PromptError("the text of a prompt to be a text that is not empty", repr(self.text))
        answers = (self.answers,) if isinstance(self.answers, str) else self.answers
        if not isinstance(answers, (list, tuple)) or not answers:
            raise PromptError("a prompt to have one answer or more", repr(answers), f"the prompt is {self.text!r}")
        for answer in answers:
            if not isinstance(answer, str) or not answer:
                raise PromptError("every answer to be a text that is not empty", repr(answer))
        object.__setattr__(self, "answers", tuple(dict.fromkeys(answers)))
        object.__setattr__(self, "parts", as_parts(self.parts, self.text))

    def token_ids(self, tokenizer: Any) -> list[int]:
        """The ids of the text, as the tokenizer gives them, without an end-of-text token that it appends."""
        return _ids(tokenizer, self.text, self.special_tokens)

    def encode(self, tokenizer: Any, answer: str | None = None) -> Encoded:
        """Tokenise the text and an answer (by default the canonical one) together, and split where the answer begins.

        Raises: PromptError where the text has no tokens, where the answer has none or begins with a blank one, and
        where text and answer share a token.
        """
        answer = self.answers[0] if answer is None else answer
        prompt = self.token_ids(tokenizer)
        joined = _ids(tokenizer, self.text + answer, self.special_tokens)
        if not prompt:
            raise PromptError("the prompt to have tokens", f"none for the text {self.text!r}")
        if joined[: len(prompt)] != prompt:
            raise _seam_error(tokenizer, prompt, joined, answer)
        suffix = joined[len(prompt) :]
        if not suffix:
            raise PromptError("the answer to add tokens to the prompt", f"none for the answer {answer!r}")
        if answer.strip() and not token_text(tokenizer, suffix[0]).strip():
            raise PromptError(
                "the answer's first token to hold some of its text",
                f"a blank token (id {suffix[0]}) before the rest of {answer!r}",
                "the model would be judged by a space: end the prompt's text with it and begin the answer after it",
            )
        return Encoded(tuple(prompt), tuple(suffix))

    def token_roles(self, tokenizer: Any) -> tuple[str | None, ...]:
        """What each token of the text is: the role of the part in which it ends; "last" for the last token.

        Tokens that the tokenizer adds have no role.

        Raises: PromptError where the prompt has no parts, or the tokenizer does not say where tokens are.
        """
        if not self.parts:
            raise PromptError(
                "a prompt that knows its parts, as the formats 'labelled', 'plain' and 'qa' compose it",
                f"{self.text!r:.60} without",
                "pass parts=, pairs of a role and a text, to Prompt, or use by='position'",
            )
        return token_roles(tokenizer, self.parts, self.special_tokens, len(self.token_ids(tokenizer)))

    def show(self, tokenizer: Any) -> str:
        """The tokens of the prompt and its canonical answer, one a line: position, id, text, and what it is."""
        encoded = self.encode(tokenizer)
        ids = encoded.prompt_ids + encoded.answer_ids
        last = len(encoded.prompt_ids) - 1
        marks = [""] * last + ["<- last prompt token"] + ["<- answer"] * len(encoded.answer_ids)
        pieces = [repr(token_text(tokenizer, token)) for token in ids]
        width = max(map(len, pieces))
        rows = enumerate(zip(ids, pieces, marks, strict=True))
        return "\n".join(f"{at:4} {token:7}  {piece:{width}}  {mark}".rstrip() for at, (token, piece, mark) in rows)


def _ids(tokenizer: Any, text: str, special_tokens: bool) -> list[int]:
    """The ids of ``text`` without what the tokenizer appends (an end-of-text token): an answer follows its prompt."""
    ids = list(tokenizer(text, add_special_tokens=special_tokens)["input_ids"])
    special = set(tokenizer.all_special_ids)
    if special_tokens and ids and ids[-1] in special:
        written = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ids[: len(ids) - (_trailing(ids, special) - _trailing(written, special))]
    return ids


def _trailing(ids: list[int], special: set[int]) -> int:
    """How many special tokens ``ids`` end with."""
    return next((count for count, token in enumerate(reversed(ids)) if token not in special), len(ids))


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token, its leading space kept; the tokenizer's own spelling for a part of a character."""
    raw = str(tokenizer.convert_ids_to_tokens(token))
    text = raw.replace("▁", " ") if "▁" in raw else tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return raw if "\ufffd" in text else text


def _seam_error(tokenizer: Any, prompt: list[int], joined: list[int], answer: str) -> PromptError:
    """The error for a prompt whose last tokens change when the answer follows, with the tokens around the seam."""
    pairs = enumerate(zip(prompt, joined, strict=False))
    seam = next((at for at, (alone, together) in pairs if alone != together), len(joined))
    alone, together = (
        [token_text(tokenizer, token) for token in ids[max(0, seam - 1) : seam + 3]] for ids in (prompt, joined)
    )
    return PromptError(
        "the prompt's tokens to stay as they are when the answer follows",
        f"the prompt ends {alone} alone but reads {together} with the answer {answer!r}",
        "move a space at the end of the prompt to the beginning of the answer, or end the prompt at a word's end",
    )
