"""Errors of the Python functions in the words of the command line: ``n_clean`` is ``--n-clean``."""

import re
from collections.abc import Mapping

from ..errors import IvlensError
from .verbs import Verb

WITHIN = r"(?<![\w./-])"  # not inside a path or a longer name


def in_options(error: IvlensError, verb: Verb | None) -> str:
    """An error's text, the names of Python arguments as the verb's options."""
    if verb is None:
        return str(error)
    flags = flags_of(verb)
    expected, do = (_with_flags(text, flags) for text in (f"expected {error.expected}", error.do))
    came = _assigned(error.came, flags)
    return "; ".join(text for text in (expected, came and f"got {came}", do) if text)


def flags_of(verb: Verb) -> dict[str, str]:
    """The option for each Python argument that the verb has one for."""
    own = {argument.name: argument.names[-1] for argument in verb.arguments if argument.names[-1].startswith("--")}
    read = {
        name: f"--{(each.prefix + name).replace('_', '-')}"
        for each in verb.options for name in verb.names(each.source)
    }  # fmt: skip
    return own | read


def _with_flags(text: str, flags: Mapping[str, str]) -> str:
    """Names with an underscore anywhere, other ones where they are assigned or are what is expected."""
    text = _assigned(text, flags)
    names = "|".join(sorted((name for name in flags if "_" in name), key=len, reverse=True))
    if names:
        text = re.sub(rf"{WITHIN}({names})\b(?!\()", lambda found: flags[found[1]], text)
    first = re.match(r"expected (\w+) (?=to |from |above )", text)
    return f"expected {flags[first[1]]} {text[first.end() :]}" if first and first[1] in flags else text


def _assigned(text: str, flags: Mapping[str, str]) -> str:
    """``tokenizer=`` as ``--tokenizer``, which may stand behind it in brackets already; a value follows a space."""
    for name, flag in flags.items():
        text = re.sub(rf"{WITHIN}{name}= \({flag}\)", flag, text)
        text = re.sub(rf"{WITHIN}{name}=(?=[\w'\"])", f"{flag} ", text)
        text = re.sub(rf"{WITHIN}{name}=", flag, text)
    return text
