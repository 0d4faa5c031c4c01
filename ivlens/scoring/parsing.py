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

# Chinese and Japanese are written without blanks, so that a stated letter may stand beside their signs, but not in a
# WORD; their brackets, colon, and what ends a phrase, as escapes since they look like those of other scripts
SIGN = r"[\u3040-\u30ff\u4e00-\u9fff]"
WORD = r"[^\W\u3040-\u30ff\u4e00-\u9fff]"
WIDE_OPEN, WIDE_COLON = r"\uff08\u3010\u300c", r"\uff1a"
WIDE_CLOSED = r"\uff09\u3011\u300d\u3002\u3001\uff0c\uff1b\uff01"
# quantifiers take all they can and give nothing back: else a long text of blanks would be tried in all its parts
LEAD = (
    rf"(?:(?i:\b(?:answer|option|choice)\s*+(?:is|:|=)?\s*+:?\s*+(?:(?:option|choice)\s++)?)"
    # answer, choose or option, is
    rf"|(?:\u7b54\u6848|\u9009[\u9879\u62e9]?\u4e86?)\s*+(?:\u662f|\u4e3a)?\s*+[:{WIDE_COLON}]?\s*+)"
)
OPEN = rf"[\s*_(\[\"'#{WIDE_OPEN}]*+"
CLOSED = rf"(?=[*_)\].:,;\"'!{WIDE_CLOSED}{WIDE_COLON}]|\s*\Z|[ \t]*\n|[ \t]{SIGN})"
WRONG = r"(?!\s*(?:\u4e0d|\u662f?\u9519))"  # is not, is wrong
# a small letter may be a word, so that something must close it
STATED_LETTER = re.compile(rf"{LEAD}{OPEN}([A-Z](?!{WORD}|'){WRONG}|[a-z]{CLOSED})")
FIRST_LETTER = re.compile(rf"\A{OPEN}([A-Za-z]){CLOSED}")
MARKED_LETTER = re.compile(rf"[(\[{WIDE_OPEN}]([A-Za-z])[)\]{WIDE_CLOSED}]|\*\*([A-Za-z])\b")
# "I" is a word, and so is "A" in front of one
REJECTED = "".join(rf"(?<!\b(?i:{word})\s)" for word in ("not", "nor", "but", "than", "over", "unlike"))
LONE_LETTER = re.compile(rf"(?<![\w']){REJECTED}(?:([B-HJ-Z])(?![\w'])|(A)(?![\w'*+-]|[ \t]+\w))")
YES_OR_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
STATED_YES_OR_NO = re.compile(rf"{LEAD}{OPEN}(yes|no)\b", re.IGNORECASE)
FORMULA = re.compile(r"(?<![A-Za-z])(?!Rs|Rp)(?:[A-Z][a-z]?){1,2}\Z")  # one element or two, in front of a number
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
    type, the only one that stands alone ("A" only where no word follows, to which it would be the article).
    """
    if stated := STATED_LETTER.findall(text):
        return str(stated[-1]).upper()
    if found := FIRST_LETTER.match(text):
        return found.group(1).upper()
    if marked := [one or other for one, other in MARKED_LETTER.findall(text)]:
        return marked[-1].upper()
    alone = {one or other for one, other in LONE_LETTER.findall(text)}
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
    """The last number, without currency and thousands separators, as ``canonical_number`` writes it.

    One that is part of a formula, as in H2O, counts only where there is no other.
    """
    found = [*NUMBER.finditer(text)]
    free = [each for each in found if not FORMULA.search(text, max(0, each.start() - 5), each.start("digits"))]
    return _canonical((free or found)[-1]) if found else ""


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

    To an option's letter, an answer that is one of the options is also its letter, and one that begins with a letter is
    that letter, whatever its explanation says.
    """
    if parse not in EXTRACTING:
        return tuple(answers)
    letters = [chr(ord("A") + number) for number in range(len(options))]
    if parse != "option-letter" or {each.strip().upper() for each in options} == {*letters}:
        return tuple(dict.fromkeys(_accepted(parse, each) for each in answers))
    named = dict(zip(options, letters, strict=True))
    # the text of an option may hold another one's letter, as "vitamin C" does
    found = ([named[each], each] if each in named else [_accepted(parse, each)] for each in answers)
    return tuple(dict.fromkeys(chain.from_iterable(found)))


def _accepted(parse: ParserName | Callable[[str], str], answer: str) -> str:
    if parse == "option-letter" and (first := FIRST_LETTER.match(answer) or STATED_LETTER.match(answer.strip())):
        return first.group(1).upper()
    return parsed(parse, answer) or answer


def parsed_reply(parse: ParserName | Callable[[str], str], text: str, answers: Sequence[str]) -> str:
    """What counts of a generated text: what counts of an accepted answer (``answers``) where it is the same.

    Where nothing is found in any accepted answer, the first line counts.
    """
    if parse in EXTRACTING and text.strip() in {each.strip() for each in answers}:
        return _accepted(parse, text.strip())
    if parse in EXTRACTING and not any(parsed(parse, each) for each in answers):
        return first_line(text)
    return parsed(parse, text)
