"""A prompt, its accepted answers, and their tokenisation."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import count, takewhile
from typing import Any

from ..checks import checked
from ..errors import PromptError, brief, few, reason
from ..vocabulary import TokenizedPrompt
from .classed_tokens import ClassedToken, token_classes
from .examples import is_unicode
from .judging import OptionScoring, Scoring
from .parts import Part, as_parts, token_roles

LATER_FIELDS = ("options", "scoring")  # those that the first versions of kept results lack


def task_names(prompts: Iterable["Prompt"]) -> list[str]:
    """The names of the prompts' tasks, sorted."""
    return sorted({prompt.task for prompt in prompts})


@dataclass(frozen=True)
class Prompt:
    """A text and its accepted answers, each with its leading space if any; the first is canonical.

    ``answers`` may be given as one text, a list or a tuple. ``special_tokens=False`` means that the text already
    contains its special tokens, as from a chat template; a text that begins with the tokenizer's BOS gets no second one
    either way. ``labels_changed`` is the fraction of demonstrations whose label a corruption made wrong. ``parts`` are
    pairs of a role ("instruction", "query input", any name) and a text, whose concatenation is the text. ``options``
    are the answers to choose from, each with its leading space, the accepted ones among them. ``scoring`` says how
    answers are judged; None: by likelihood where there are options, else by greedy decoding.

    Raises:
        PromptError: the text is empty or differs from its parts, there is no answer or an empty one, or a text is not
            valid unicode.

    Example:
        >>> iv.Prompt("The capital of France is", " Paris").answers
        (' Paris',)
    """

    text: str
    answers: tuple[str, ...] = ()
    special_tokens: bool = True
    task: str = ""
    input: str = ""
    labels_changed: float | None = None
    parts: tuple[Part, ...] = field(default=(), repr=False)
    options: tuple[str, ...] = ()
    scoring: Scoring | None = None

    def __post_init__(self) -> None:
        _check_text("the text of a prompt", self.text)
        answers = (self.answers,) if isinstance(self.answers, str) else self.answers
        if not isinstance(answers, (list, tuple)) or not answers:
            expected = f"the prompt {brief(self.text)} to have one answer or more"
            raise PromptError(expected, brief(answers) if answers else "none", 'as in Prompt("1 + 1 =", " 2")')
        for answer in answers:
            _check_text("every answer", answer)
        object.__setattr__(self, "answers", tuple(dict.fromkeys(answers)))
        if not isinstance(self.options, (list, tuple)):
            raise PromptError("the options of a prompt to be a list of texts", brief(self.options))
        for option in self.options:
            _check_text("every option", option)
        object.__setattr__(self, "options", tuple(dict.fromkeys(self.options)))
        if self.options and not {*self.answers} < {*self.options}:
            raise PromptError(
                "the answers of a prompt to be some of its options, not all",
                f"{few(map(brief, self.answers))} of {few(map(brief, self.options))}",
            )
        if isinstance(self.scoring, OptionScoring) and not self.options:
            raise PromptError("a prompt with options, to be judged by them", f"{brief(self.text)} without")
        object.__setattr__(self, "parts", as_parts(self.parts, self.text))

    def __repr__(self) -> str:
        """As the dataclass has it, but for later fields at their defaults: keys of kept results are made of it."""
        shown = [
            each.name for each in fields(self)
            if each.repr and (each.name not in LATER_FIELDS or getattr(self, each.name) != each.default)
        ]  # fmt: skip
        return f"Prompt({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def token_ids(self, tokenizer: Any) -> list[int]:
        """The ids of the text from the tokenizer, without an appended end-of-text token.

        Args:
            tokenizer: the model's tokenizer.

        Returns:
            Token ids.

        Example:
            >>> len(prompts[0].token_ids(model.tokenizer)) > 10
            True
        """
        return _ids(tokenizer, self.text, self.special_tokens)

    @checked
    def encode(self, tokenizer: Any, answer: str | None = None) -> TokenizedPrompt:
        """Tokenise the text and an answer (by default the canonical one) together, and split where the answer begins.

        An answer may begin with a blank token, as " 7" does where digits are separate tokens; it is scored, too.

        Args:
            tokenizer: the model's tokenizer.
            answer: an accepted answer (None: the first).

        Returns:
            Ids of the prompt and of the answer.

        Raises:
            PromptError: a text without tokens, an answer without tokens or with the unknown token, or a text and an
                answer that share a token.

        Example:
            >>> encoded = prompts[0].encode(model.tokenizer)
            >>> len(encoded.answer_ids)
            1
        """
        answer = self.answers[0] if answer is None else answer
        prompt = self.token_ids(tokenizer)
        joined = _ids(tokenizer, self.text + answer, self.special_tokens)
        if not prompt:
            raise PromptError("the prompt to have tokens", f"none for the text {brief(self.text)}")
        if joined[: len(prompt)] != prompt:
            raise _seam_error(tokenizer, prompt, joined, answer)
        suffix = joined[len(prompt) :]
        if not suffix:
            raise PromptError("the answer to add tokens to the prompt", f"none for the answer {brief(answer)}")
        if self.special_tokens and answer.startswith(" ") and prompt[-1] in tokenizer.all_special_ids:
            token = token_text(tokenizer, prompt[-1])
            warnings.warn(
                f"a space stands between {token} and the answer {brief(answer)}: chat templates rarely have one there; "
                "chat_format(tokenizer, ...) follows the template",
                stacklevel=2,
            )
        unknown = getattr(tokenizer, "unk_token_id", None)
        if unknown in suffix and tokenizer.unk_token not in answer:
            raise PromptError(
                "an answer that the tokenizer can spell",
                f"{brief(answer)}, of which the vocabulary lacks a part ({tokenizer.unk_token})",
                "leave the example out",
            )
        return TokenizedPrompt(tuple(prompt), tuple(suffix))

    def token_roles(self, tokenizer: Any) -> tuple[str | None, ...]:
        """Each token's role: that of the part in which it ends, or "last" for the last token.

        Tokens that the tokenizer adds have no role.

        Args:
            tokenizer: the model's tokenizer.

        Returns:
            A role per token.

        Raises:
            PromptError: the prompt has no parts, or the tokenizer gives no offsets.

        Example:
            >>> prompts[0].token_roles(model.tokenizer)[-1]
            'last'
        """
        self._check_parts()
        return token_roles(tokenizer, self.parts, self.special_tokens, self.token_ids(tokenizer))

    def token_classes(self, tokenizer: Any) -> tuple[ClassedToken | None, ...]:
        """Each token's class and aligned position, as the code of 2310.15213 has them (``tasks.classed_tokens``).

        Tokens that the tokenizer adds have none.

        Args:
            tokenizer: the model's tokenizer.

        Returns:
            ``token_class`` and ``position`` of each token.

        Raises:
            PromptError: the prompt has no parts, or the tokenizer gives no offsets.

        Example:
            >>> prompts[0].token_classes(model.tokenizer)[-2].token_class
            'query structural'
        """
        self._check_parts()
        return token_classes(tokenizer, self.parts, self.special_tokens, self.token_ids(tokenizer))

    def _check_parts(self) -> None:
        if not self.parts:
            raise PromptError(
                "a prompt that knows its parts, as the formats 'labelled', 'plain', 'qa' and 'chat' compose it",
                f"{brief(self.text)} without",
                "pass parts=, pairs of a role and a text, to Prompt, or use by='position'",
            )

    def show(self, tokenizer: Any) -> str:
        """The tokens of the prompt and its canonical answer, one per line: position, id, text, and role.

        Args:
            tokenizer: the model's tokenizer.

        Returns:
            One line per token.

        Example:
            >>> "<- last prompt token" in prompts[0].show(model.tokenizer)
            True
        """
        encoded = self.encode(tokenizer)
        ids = encoded.prompt_ids + encoded.answer_ids
        last = len(encoded.prompt_ids) - 1
        marks = [""] * last + ["<- last prompt token"] + ["<- answer"] * len(encoded.answer_ids)
        pieces = [repr(token_text(tokenizer, token)) for token in ids]
        width = max(map(len, pieces))
        rows = enumerate(zip(ids, pieces, marks, strict=True))
        return "\n".join(f"{at:4} {token:7}  {piece:{width}}  {mark}".rstrip() for at, (token, piece, mark) in rows)


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise PromptError(f"{what} to be a text that is not empty", brief(value))
    if not is_unicode(value):
        raise PromptError(f"{what} to be valid unicode", f"{brief(value)}, which holds half of a surrogate pair")


def _ids(tokenizer: Any, text: str, special_tokens: bool) -> list[int]:
    """The ids of ``text`` with at most one BOS, unless the text itself has more, and without appended end-of-text.

    An answer follows its prompt, so nothing may come between them.
    """
    ids = _tokenised(tokenizer, text, special_tokens)
    special = set(tokenizer.all_special_ids)
    if special_tokens and ids and ids[-1] in special:
        written = _tokenised(tokenizer, text, False)
        ids = ids[: len(ids) - (_trailing(ids, special) - _trailing(written, special))]
    return ids[_repeated_bos(tokenizer, text, ids) :]


def _tokenised(tokenizer: Any, text: str, special_tokens: bool) -> list[int]:
    """The tokenizer's output for a text; its errors, and panics of its Rust code, become a PromptError."""
    try:
        return list(tokenizer(text, add_special_tokens=special_tokens)["input_ids"])
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
            raise
        raise PromptError(f"a tokenizer that takes the text {brief(text)}", reason(error, 100)) from error


def _repeated_bos(tokenizer: Any, text: str, ids: list[int]) -> int:
    """The number of BOS tokens at the start of ``ids`` beyond those that ``text`` spells out."""
    bos = getattr(tokenizer, "bos_token", None)
    if not bos or not text.startswith(bos):
        return 0
    written = next(n for n in count(1) if not text.startswith(bos * (n + 1)))
    return max(0, _leading(ids, tokenizer.bos_token_id) - written)


def _leading(ids: list[int], token: int) -> int:
    return next((at for at, each in enumerate(ids) if each != token), len(ids))


def _trailing(ids: list[int], special: set[int]) -> int:
    """The number of special tokens at the end of ``ids``."""
    return next((count for count, token in enumerate(reversed(ids)) if token not in special), len(ids))


def beginning(tokenizer: Any, answer: Sequence[int]) -> int:
    """The number of an answer's tokens up to its first token that is not blank."""
    blank = takewhile(lambda token: not token_text(tokenizer, token).strip(), answer)
    return min(sum(1 for _ in blank) + 1, len(answer))


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token, with its leading space; the tokenizer's own spelling for a part of a character."""
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
        f"the prompt ends {alone} alone but reads {together} with the answer {brief(answer)}",
        "move a space at the end of the prompt to the beginning of the answer, or end the prompt at a word's end",
    )
