"""What counts of a generated text: its first line, the letter of an option, yes or no, its last number.

What is looked for may stand alone ("B", "(B)", "B.", "**B**") or in a sentence ("The answer is B", "Answer: B"), as in
the benchmarks' own harnesses. What is not found is "", which scores 0.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import chain

from ..errors import ArgumentError, brief
from ..tasks.judging import ParserName

LEAD = r"(?i:\b(?:answer|option|choice)\s*(?:is|:|=)?\s*:?\s*(?:(?:option|choice)\s+)?)"
OPEN, CLOSED = r"[\s*_(\[\"'#]*", r"(?=[*_)\].:,;\"'!]|\s*\Z|[ \t]*\n)"
# a small letter may be a word, so that something must close it
STATED_LETTER = re.compile(rf"{LEAD}{OPEN}([A-Z](?![\w'])|[a-z]{CLOSED})")
FIRST_LETTER = re.compile(rf"\A{OPEN}([A-Za-z]){CLOSED}")
MARKED_LETTER = re.compile(r"[(\[]([A-Za-z])[)\]]|\*\*([A-Za-z])\b")
LONE_LETTER = re.compile(r"(?<![\w'])([B-HJ-Z])(?![\w'])")  # "A" and "I" are words
YES_OR_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
STATED_YES_OR_NO = re.compile(rf"{LEAD}{OPEN}(yes|no)\b", re.IGNORECASE)
NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)])[-−+])?(?:[$€£]\s?)?(?P<minus>(?<=[$€£])[-−])?"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
)


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return text.strip().partition("\n")[0].strip()


def option_letter(text: str) -> str:
    """The letter of an option, as a capital.

    In this order: the last one that is stated as the answer, one at the beginning, the last one in brackets or in bold
    type, the only one that stands alone.
    """
    if stated := STATED_LETTER.findall(text):
        return str(stated[-1]).upper()
    if found := FIRST_LETTER.match(text):
        return found.group(1).upper()
    if marked := [one or other for one, other in MARKED_LETTER.findall(text)]:
        return marked[-1].upper()
    alone = {*LONE_LETTER.findall(text)}
    return alone.pop() if len(alone) == 1 else ""


def yes_no(text: str) -> str:
    """ "yes" or "no": the last one that is stated as the answer, or else the only one of the first line, or text."""
    if stated := STATED_YES_OR_NO.findall(text):
        return str(stated[-1]).lower()
    if found := re.match(r"\W*(yes|no)\b", text, re.IGNORECASE):
        return found.group(1).lower()
    kinds = {each.lower() for each in YES_OR_NO.findall(text)}
    return kinds.pop() if len(kinds) == 1 else ""


def last_number(text: str) -> str:
    """The last number, without currency and thousands separators, as ``canonical_number`` writes it."""
    found = [*NUMBER.finditer(text)]
    return _canonical(found[-1]) if found else ""


def canonical_number(text: str) -> str | None:
    """A number alone, with nothing but a currency and an ending period around it: "1,234.50" is "1234.5"."""
    found = NUMBER.fullmatch(text.strip().rstrip("."))
    return _canonical(found) if found else None


def _canonical(found: re.Match[str]) -> str:
    number = Decimal(found["digits"].replace(",", ""))
    signs = (found["sign"] or "") + (found["minus"] or "")
    number = -number if number and ("-" in signs or "−" in signs) else number
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text or "0"


PARSERS: dict[ParserName, Callable[[str], str]] = {
    "text": str.strip, "first-line": first_line, "option-letter": option_letter, "yes-no": yes_no,
    "last-number": last_number,
}  # fmt: skip
EXTRACTING = ("option-letter", "yes-no", "last-number")


def parsed(parse: ParserName | Callable[[str], str], text: str) -> str:
    """What counts of a text.

    Raises:
        ArgumentError: a function of the user's that gives no text.
    """
    if isinstance(parse, str):
        return PARSERS[parse](text)
    found = parse(text)
    if not isinstance(found, str):
        raise ArgumentError("parse to give a text", brief(found))
    return found


def parsed_answers(
    parse: ParserName | Callable[[str], str], answers: Sequence[str], options: Sequence[str]
) -> tuple[str, ...]:
    """Accepted answers as a parser would find them in a text, as far as it finds something.

    To an option's letter, an answer that is one of the options is also its letter.
    """
    if parse not in EXTRACTING:
        return tuple(answers)
    letters = [chr(ord("A") + number) for number in range(len(options))]
    if parse != "option-letter" or {each.strip().upper() for each in options} == {*letters}:
        return tuple(dict.fromkeys(parsed(parse, each) or each for each in answers))
    named = dict(zip(options, letters, strict=True))
    # the text of an option may hold another one's letter, as "vitamin C" does
    found = ([named[each], each] if each in named else [parsed(parse, each) or each] for each in answers)
    return tuple(dict.fromkeys(chain.from_iterable(found)))
