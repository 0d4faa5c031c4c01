"""The format of a chat model: its template, rendered up to an answer, which is exactly what the template writes next.

A template is rendered with a mark in place of every text, which shows what it writes around them: a prompt is that with
the texts filled in. Rendered with the texts themselves, and with each accepted answer, it must write the same, up to
the answer's end; a template that drops or changes a text is refused by name. A template that writes today's date is
given a fixed one, so that prompts do not change from day to day.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, NamedTuple, Self

from ..checks import checked
from ..errors import ArgumentError, PromptError, brief, few, reason
from .formats import FORMATS
from .parts import DEMONSTRATION, HISTORY, INSTRUCTION, QUERY, SEPARATOR, Composed, Part
from .turns import Question, Turns

DATE = "2024-07-26"  # the one in Llama 3's templates, where they are given no other
OURS = {
    "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize", "return_dict",
    "return_tensors", "return_assistant_tokens_mask", "sanitize_control_tokens", "tokenizer_kwargs",
}  # fmt: skip
OPTIONS = {QUERY[1]: "query options", DEMONSTRATION[1]: "demonstration options"}
MARK = "<ivlens turn {}>"
MARKED = re.compile(MARK.format(r"(\d+)"))
PADDED, UNPADDED = "aAbBcdHIjmMpSUwWxXyYZz", "dmHIMSjy"  # directives of strftime, and those that have a form without 0


@checked
@dataclass(frozen=True)
class Chat:
    """How a chat model is asked: ``format=Chat(...)`` wherever a format is taken; ``format="chat"`` is ``Chat()``.

    Args:
        system: a system message; it stays in corrupted prompts, so it should not reveal the task.
        assistant_prefix: the beginning of every answer, which the prompt ends with.
        date: the day, as YYYY-MM-DD, for a template that writes today's date.
        template_options: options of the template itself, as ``{"enable_thinking": False}``.

    Raises:
        ArgumentError: a date of another form, or an option that is not the template's or cannot be written as JSON.

    Example:
        >>> iv.Chat(system="Be brief.", template_options={"enable_thinking": False}).settings["system"]
        'Be brief.'
    """

    system: str | None = None
    assistant_prefix: str = ""
    date: str = DATE
    template_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.day.strftime("%d")
        except ValueError:
            raise ArgumentError("date to be a day, YYYY-MM-DD", brief(self.date)) from None
        if own := sorted(OURS & {*self.template_options}):
            raise ArgumentError("template_options that a chat template reads", own[0], "leave it out")
        try:
            json.dumps(self.template_options)
        except (TypeError, ValueError) as error:
            raise ArgumentError("template_options that can be written as JSON", reason(error, 100)) from None

    def __hash__(self) -> int:
        return hash(json.dumps(self.settings, sort_keys=True))

    @property
    def day(self) -> datetime:
        """The date, at midnight."""
        return datetime.strptime(self.date, "%Y-%m-%d")

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that are not the defaults, as records hold them."""
        default: dict[str, Any] = {"system": None, "assistant_prefix": "", "date": DATE, "template_options": {}}
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value != default[name]}


class ChatText(Composed):
    """What a chat template writes before an answer, including special tokens, and the ``space`` between the two.

    ``check`` raises for an answer that the template writes otherwise.
    """

    space: str
    check: Callable[[str], None]

    def __new__(cls, parts: Sequence[Part], space: str, check: Callable[[str], None]) -> Self:
        made = super().__new__(cls, parts)
        made.space, made.check = space, check
        return made


class Message(NamedTuple):
    """A turn of a conversation: who speaks, and the parts of the text."""

    speaker: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(text for _, text in self.parts)


@dataclass(frozen=True)
class ChatFormat:
    """The format of one tokenizer's chat template, which ``chat_format`` makes; ``template`` has a fixed date."""

    tokenizer: Any
    chat: Chat
    template: str
    pieces: dict[tuple[str, ...], list[str]] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, turns: Turns) -> ChatText:
        """The prompt of these turns.

        Raises: PromptError where the template refuses, drops or changes one of them.
        """
        messages = conversation(turns, self.chat.system)
        before = self._before_answer(messages)
        lead = self.chat.assistant_prefix
        if lead and not lead[-1].isspace():
            lead += " "
        parts = [*before, (QUERY[-1], lead)]
        begun = "".join(text for _, text in parts)
        text = begun.rstrip(" ")

        def check(answer: str) -> None:
            written = self._rendered([*messages, _said(lead + answer)])
            if not written.startswith(begun + answer):
                raise self._changed(begun + answer, written, f"the answer {brief(answer)}")

        mark = MARK.format(len(messages))
        written = self._rendered([*messages, _said(lead + mark)])
        if not written.startswith(begun + mark):
            raise self._changed(begun + mark, written, "every turn")
        return ChatText(_begin(parts, len(text)), begun[len(text) :], check)

    def _before_answer(self, messages: Sequence[Message]) -> list[Part]:
        """The template's texts and those of the messages in turn, up to the answer."""
        answer, pieces = len(messages), self._around([*messages, _said("")])
        numbers = [int(number) for number in pieces[1::2]]
        if answer not in numbers:
            raise self._refused("a text without the assistant's turn", system=False)
        end = len(numbers) - 1 - numbers[::-1].index(answer)
        if left := [message for at, message in enumerate(messages) if at not in numbers[:end]]:
            came = f"a text without the {left[0].speaker}'s turn {brief(left[0].text)}"
            raise self._refused(came, system=left[0].speaker == "system")
        parts: list[Part] = []
        for text, number in zip(pieces[0 : 2 * end : 2], numbers, strict=False):
            message = messages[number]
            name = DEMONSTRATION[-2] if message.parts[0][0] == DEMONSTRATION[-1] else SEPARATOR
            parts += [(name, text), *message.parts]
        return [*parts, (QUERY[-1], pieces[2 * end])]

    def _around(self, messages: Sequence[Message]) -> list[str]:
        """What the template writes around the texts of turns of these speakers, and the turns' numbers, in turn."""
        speakers = tuple(message.speaker for message in messages)
        if speakers not in self.pieces:
            marked = [Message(speaker, (("", MARK.format(at)),)) for at, speaker in enumerate(speakers)]
            self.pieces[speakers] = MARKED.split(self._rendered(marked))
        return self.pieces[speakers]

    def _rendered(self, messages: Sequence[Message]) -> str:
        turns = [{"role": message.speaker, "content": message.text} for message in messages]
        options = {"tokenize": False, "chat_template": self.template, **self.chat.template_options}
        try:
            written: str = self.tokenizer.apply_chat_template(turns, **options)
        except Exception as error:  # a template is the model publisher's code and may raise anything
            raise self._refused(reason(error, 200), system=messages[0].speaker == "system") from error
        return written

    def _changed(self, expected: str, written: str, what: str) -> PromptError:
        same = next((at for at, (one, other) in enumerate(zip(expected, written, strict=False)) if one != other), 0)
        start = max(0, same - 10)
        return PromptError(
            f"a chat template that writes {what} as it is",
            f"{brief(written[start : start + 60])} in place of {brief(expected[start : start + 60])}",
            f"use {alternatives()} instead",
        )

    def _refused(self, came: str, *, system: bool) -> PromptError:
        if not system:
            return PromptError(
                "a chat template that takes turns of user and assistant", came, f"use {alternatives()} instead"
            )
        return PromptError(
            "a chat template that writes a system message",
            came,
            "pass system=None and leave system turns out of the history, and say it in the instruction instead",
        )


def conversation(turns: Turns, system: str | None = None) -> list[Message]:
    """The turns before the answer: a system message, demonstrations, each an exchange, earlier turns, and the query.

    An instruction begins the question from which it holds, followed by a blank line. Shown options follow a question,
    one a line. A system message may be given as ``system``, or be the first of the earlier turns.

    Raises: PromptError for two system messages, or turns that are not a conversation.
    """
    own = _system_of(turns.history)
    if system is not None and own is not None and system.strip() != own:
        do = "leave system= out, or the system turns out of the examples' history"
        raise PromptError("one system message", f"system={brief(system)} and {brief(own)} in the history", do)
    system = own if system is None else system.strip()
    messages = [Message("system", (("system", system),))] if system else []
    instruction = None
    for question in turns.questions:
        if _system_of(question.history) not in (None, system):
            came = f"{brief(_system_of(question.history))} in that of the demonstration {brief(question.input)}"
            raise PromptError("the query's system message in all demonstrations", came, "use shots=0")
        messages += _earlier(question.history)
        messages.append(_asked(question, None if question.instruction == instruction else question.instruction))
        if question.answer is not None:
            messages.append(Message("assistant", ((DEMONSTRATION[-1], question.answer),)))
        instruction = question.instruction
    return messages


def _asked(question: Question, instruction: str | None) -> Message:
    role = QUERY[1] if question.answer is None else DEMONSTRATION[1]
    parts: list[Part] = [] if instruction is None else [(INSTRUCTION, instruction), (SEPARATOR, "\n\n")]
    lines = "".join(f"\n{line}" for line in question.options)
    return Message("user", (*parts, (role, question.input), (OPTIONS[role], lines)))


def _earlier(history: Sequence[tuple[str, str]]) -> list[Message]:
    """The turns of a history without its system message."""
    rest = history[1:] if _system_of(history) is not None else history
    for speaker, text in rest:
        if speaker not in ("user", "assistant") or not text.strip():
            expected = "a history of user and assistant turns, with one system turn at most, the first"
            raise PromptError(expected, f"{speaker!r}: {brief(text)}")
    return [Message(speaker, ((HISTORY, text.strip()),)) for speaker, text in rest]


def _system_of(history: Sequence[tuple[str, str]]) -> str | None:
    """The system message that a history begins with."""
    return history[0][1].strip() if history and history[0][0] == "system" else None


def _said(text: str) -> Message:
    return Message("assistant", (("", text),))


def _begin(parts: Sequence[Part], length: int) -> list[Part]:
    """The parts of the first ``length`` characters."""
    found: list[Part] = []
    for role, text in parts:
        kept = text[:length]
        length -= len(kept)
        if kept:
            found.append((role, kept))
    return found


def chat_format(
    tokenizer: Any, system: str | None = None, assistant_prefix: str = "", *, date: str = DATE, **template_options: Any
) -> ChatFormat:
    """The format of the tokenizer's chat template: every demonstration a user and an assistant turn, then the query.

    The prompt is everything that the template writes before the answer, so the answer follows a space only where the
    template has one, or after ``assistant_prefix``. ``template_options`` go to the template
    (``enable_thinking=False``).

    Raises: PromptError where the tokenizer has no chat template; the format itself, where the template refuses.
    """
    return bound(Chat(system, assistant_prefix, date, template_options), tokenizer)


def bound(chat: Chat, tokenizer: Any) -> ChatFormat:
    """The format of a chat with this tokenizer's template.

    Raises:
        PromptError: the tokenizer has no chat template.
        ArgumentError: the template does not mention one of the options.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise PromptError(
            "a tokenizer with a chat template",
            f"{type(tokenizer).__name__} without one",
            f"use {alternatives()} instead, or load the instruction-tuned variant of the model",
        )
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several templates, none of them the default
        raise PromptError("a tokenizer with a default chat template", reason(error, 100)) from error
    known = {*re.findall(r"\w+", template), "tools", "documents"}
    if unknown := [name for name in chat.template_options if name not in known]:
        raise ArgumentError("template_options that the model's chat template mentions", few(map(repr, unknown)))
    clock = _clock(chat.day) if "strftime_now" in known else ""
    return ChatFormat(tokenizer, chat, clock + template)


def _clock(day: datetime) -> str:
    """A macro that replaces the clock in the template that follows: ``strftime_now`` of this day."""
    texts = {f"%-{one}": day.strftime(f"%{one}").lstrip("0") or "0" for one in UNPADDED}
    texts |= {f"%{one}": day.strftime(f"%{one}") for one in PADDED}
    replaced = "".join(f"|replace('{directive}', '{text}')" for directive, text in texts.items())
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro %}}\n"


def alternatives() -> str:
    """The formats that need no chat template."""
    return " or ".join(f"format={name!r}" for name in FORMATS)
