"""How tasks are asked: a format by name, a chat, or a callable; and how records hold that."""

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ArgumentError, one_of
from ..vocabulary import FormatName
from .chat import Chat, bound
from .formats import FORMATS, Format

AnyFormat = FormatName | Chat | Callable[..., str]


def find_format(format: AnyFormat, tokenizer: Any) -> Format:
    """The format of that name, the chat with the tokenizer's template, or the callable as it is.

    Raises: ArgumentError for an unknown name, and for a chat without a tokenizer.
    """
    if format == "chat" or isinstance(format, Chat):
        if tokenizer is None:
            raise ArgumentError("tokenizer= with format='chat'", "none", "pass tokenizer=model.tokenizer")
        return bound(format if isinstance(format, Chat) else Chat(), tokenizer)
    if callable(format):
        return format
    one_of("format", format, (*FORMATS, "chat"))
    return FORMATS[format]


def with_chat(
    format: AnyFormat, system: str | None, assistant_prefix: str, template_options: Mapping[str, Any]
) -> AnyFormat:
    """The format "chat" with these settings.

    Raises: ArgumentError for settings of a chat with another format.
    """
    if system is None and not assistant_prefix and not template_options:
        return format
    if format != "chat":
        expected = "system=, assistant_prefix= and template_options= only with format='chat'"
        raise ArgumentError(expected, f"format={format!r}")
    return Chat(system, assistant_prefix, template_options=template_options)


def is_chat(format: AnyFormat) -> bool:
    """Whether prompts are written by the tokenizer's chat template."""
    return format == "chat" or isinstance(format, Chat)


def format_facts(format: AnyFormat) -> dict[str, Any]:
    """The format as settings of a record: by name, and a chat's own settings where they are not the defaults."""
    if isinstance(format, Chat):
        return {"format": "chat", **({"chat": format.settings} if format.settings else {})}
    return {"format": format if isinstance(format, str) else getattr(format, "__name__", "own")}


def format_of(settings: Mapping[str, Any]) -> Any:
    """The format that a record's settings name; a callable's name stays a name."""
    return Chat(**settings["chat"]) if settings.get("chat") else settings.get("format")
