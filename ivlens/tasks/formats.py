"""How a prompt is written: a format is any callable from ``Turns`` to the text of a prompt.

A ``Composed`` text also gives the prompt's parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..errors import ArgumentError, PromptError, brief, few, one_of, reason
from ..vocabulary import FormatName
from .parts import (
    DEMONSTRATION,
    DEMONSTRATION_OPTIONS,
    HISTORY,
    INSTRUCTION,
    QUERY,
    QUERY_OPTIONS,
    SEPARATOR,
    Composed,
    Part,
)
from .turns import NEUTRAL, Turns

ANSWER = "<ivlens answer>"  # stands for the answer while a chat template is rendered

Format = Callable[[Turns], str]


def labelled(turns: Turns) -> str:
    """The instruction, then every demonstration and the query under the task's own labels ("Verb:", "Past tense:")."""
    return _fields(turns, turns.labels)


def plain(turns: Turns) -> str:
    """The instruction, then every demonstration and the query under "Input:" and "Output:"."""
    return _fields(turns, NEUTRAL)


def qa(turns: Turns) -> str:
    """The instruction, then every demonstration and the query under "Q:" and "A:"."""
    return _fields(turns, ("Q", "A"))


FORMATS: dict[str, Format] = {"labelled": labelled, "plain": plain, "qa": qa}


def write(format: Format, turns: Turns) -> str:
    """The text of a format.

    Raises: PromptError where it is no text, or lacks the options that are to be shown.
    """
    text = format(turns)
    if not isinstance(text, str):
        raise PromptError("a format that gives a text", brief(text))
    missing = [line for line in turns.options if line not in text]
    if missing:
        came = f"a text without {few(map(brief, missing))}"
        raise PromptError("a format that writes the options of Turns.options", came, "or pass scoring= without shown=")
    return text


def _fields(turns: Turns, labels: tuple[str, str]) -> Composed:
    """Paragraphs: an instruction where it changes, the turns of a history, and a question with its options."""
    input_label, output_label = (f"{label}:" for label in labels)
    paragraphs: list[list[Part]] = []
    instruction = None
    for question in turns.questions:
        if question.instruction not in (None, instruction):
            paragraphs.append([(INSTRUCTION, str(question.instruction))])
        instruction = question.instruction
        paragraphs += _history(question.history, labels)
        asked = question.answer is None
        texts = input_label, f" {question.input}", f"\n{output_label}", f" {question.answer}"
        parts = [*zip(QUERY if asked else DEMONSTRATION, texts, strict=False)]
        if question.options:
            lines = "".join(f"\n{line}" for line in question.options)
            parts.insert(2, (QUERY_OPTIONS if asked else DEMONSTRATION_OPTIONS, lines))
        paragraphs.append(parts)
    return Composed([part for each in paragraphs for part in [(SEPARATOR, "\n\n"), *each]][1:])


def _history(turns: Sequence[tuple[str, str]], labels: tuple[str, str]) -> list[list[Part]]:
    """A conversation before a question, as demonstrations are written; a system's text stands by itself."""
    names = {"system": "", "user": f"{labels[0]}: ", "assistant": f"{labels[1]}: "}
    paragraphs: list[list[Part]] = []
    for before, (role, text) in zip([None, *turns], turns, strict=False):
        if role == "assistant" and before is not None and before[0] == "user":
            paragraphs[-1].append((HISTORY, f"\n{names[role]}{text}"))
        else:
            paragraphs.append([(HISTORY, f"{names[role]}{text}")])
    return paragraphs


class ChatText(str):
    """What a chat template writes before an answer, including special tokens, and the ``space`` between the two."""

    space: str

    def __new__(cls, text: str, space: str) -> Self:
        made = super().__new__(cls, text)
        made.space = space
        return made


@dataclass(frozen=True)
class _Chat:
    """The format of a chat model: what its template writes before the assistant's answer.

    Templates differ: some write a space before the answer, some an empty thought.
    """

    tokenizer: Any
    system: str | None
    assistant_prefix: str
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, turns: Turns) -> ChatText:
        messages = [*self._messages(turns), {"role": "assistant", "content": ANSWER}]
        try:
            whole: str = self.tokenizer.apply_chat_template(messages, tokenize=False, **dict(self.options))
        except Exception as error:  # a template is the model publisher's code and may raise anything
            raise self._refused(reason(error, 200)) from error
        text, marker, _ = whole.rpartition(ANSWER)
        if not marker:
            raise self._refused("a text without the assistant's turn")
        if self.system is not None and self.system.strip() not in text:
            raise self._refused("a text without it")
        begun = text + self.assistant_prefix
        stripped = begun.rstrip(" ")
        apart = " " if self.assistant_prefix and not begun[-1].isspace() else ""
        return ChatText(stripped, begun[len(stripped) :] or apart)

    def _messages(self, turns: Turns) -> list[dict[str, str]]:
        questions = [*(shot.input for shot in turns.demonstrations), turns.query]
        if turns.instruction is not None:
            questions[0] = f"{turns.instruction}\n\n{questions[0]}"
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for question, shot in zip(questions, turns.demonstrations, strict=False):
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": shot.answers[0]})
        return [*messages, {"role": "user", "content": questions[-1]}]

    def _refused(self, came: str) -> PromptError:
        if self.system is None:
            return PromptError(
                "a chat template that takes turns of user and assistant", came, f"use {_alternatives()} instead"
            )
        return PromptError(
            "a chat template that writes a system message",
            came,
            "pass system=None, and say it in the instruction instead",
        )


def chat_format(
    tokenizer: Any, system: str | None = None, assistant_prefix: str = "", **template_options: Any
) -> Format:
    """The format of the tokenizer's chat template: every demonstration a user and an assistant turn, then the query.

    The first user turn begins with the instruction and a blank line; ``assistant_prefix`` begins the model's answer.
    The prompt is everything that the template writes before the answer, so the answer follows a space only where the
    template has one, or after a prefix. ``template_options`` go to the template (``enable_thinking=False``).

    Raises: PromptError where the tokenizer has no chat template; the format itself, where the template refuses.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise PromptError(
            "a tokenizer with a chat template",
            f"{type(tokenizer).__name__} without one",
            f"use {_alternatives()} instead, or load the instruction-tuned variant of the model",
        )
    return _Chat(tokenizer, system, assistant_prefix, tuple(template_options.items()))


def find_format(format: FormatName | Format, tokenizer: Any, system: str | None, assistant_prefix: str) -> Format:
    """The format of that name, or the callable as it is.

    Raises: ArgumentError for an unknown name, for "chat" without a tokenizer, and for options of "chat" without it.
    """
    if format == "chat":
        if tokenizer is None:
            raise ArgumentError("tokenizer= with format='chat'", "none", "pass tokenizer=model.tokenizer")
        return chat_format(tokenizer, system, assistant_prefix)
    if system is not None or assistant_prefix:
        raise ArgumentError("system= and assistant_prefix= only with format='chat'", f"format={format!r}")
    if callable(format):
        return format
    one_of("format", format, (*FORMATS, "chat"))
    return FORMATS[format]


def _alternatives() -> str:
    return " or ".join(f"format={name!r}" for name in FORMATS)
