"""From rows to examples: which columns are read, and what becomes of the others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan
from numbers import Integral, Real
from typing import Any
from unicodedata import normalize

from ..errors import TaskError, brief, few
from .examples import Example, as_text

Columns = tuple[str, str]
Rows = Iterable[tuple[str, Any]]  # where a row stands, and the row

TRACE = ("prompt", "answer")
COLUMNS: tuple[Columns, ...] = (("input", "output"), TRACE, ("question", "answer"))
INSTRUCTION = "instruction"
# Columns that an answer depends on: without them the rows would be another task.
PART_OF_THE_PROMPT = frozenset(
    [
        *("instruction", "instructions", "system", "system_prompt", "history", "input", "prompt", "question", "query"),
        *("context", "passage", "paragraph", "article", "document", "background", "support", "facts", "story"),
        *("premise", "hypothesis", "choices", "options", "answer_choices", "endings", "candidates"),
    ]
)


@dataclass
class RowReader:
    """What rows hold, read one after another: answers by input, instructions that rows give, columns left unread.

    ``several`` are inputs that come in more than one row, with different answers; ``alike`` those that differ from an
    earlier one in whitespace or in the unicode form of a character only.
    """

    origin: str
    columns: Columns | None
    answers: dict[str, dict[str, None]] = field(default_factory=dict)
    instructions: dict[str | None, None] = field(default_factory=dict)
    unread: dict[str, None] = field(default_factory=dict)
    several: dict[str, None] = field(default_factory=dict)
    alike: dict[str, None] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)
    unanswered: int = 0

    @classmethod
    def of(cls, rows: Rows, fields: Columns | None, origin: str) -> "RowReader":
        """Rows read from the columns ``fields``, or from those of a known format that they have.

        Raises: TaskError that names the row and the field; for rows that have more to a prompt than an input, unless
        ``fields`` says what to read.
        """
        reader = cls(origin, fields)
        for where, row in rows:
            reader._add(where, row, explicit=fields is not None)
        if not reader.answers:
            raise TaskError(f"{origin} to hold one example or more", f"{reader.unanswered} rows, none with an answer")
        if fields is None:
            reader._check_whole()
        return reader

    @property
    def instruction(self) -> str | None:
        """The instruction that all rows give."""
        return next(iter(self.instructions), None)

    @property
    def examples(self) -> tuple[Example, ...]:
        """One example per input, in the order of the rows."""
        return tuple(Example(asked, tuple(answers)) for asked, answers in self.answers.items())

    def notes(self) -> list[str]:
        """What a user should know of how the rows were read."""
        notes = []
        if self.unread:
            notes.append(f"fields of {self.origin} were not read: {few(map(brief, self.unread), 12)}")
        if self.unanswered:
            notes.append(f"{self.unanswered} rows of {self.origin} have no answer and were left out")
        if self.several:
            names = few(map(brief, self.several))
            notes.append(f"inputs of {self.origin} have several rows, whose answers are all accepted: {names}")
        if self.alike:
            names = few(map(brief, self.alike))
            notes.append(f"inputs of {self.origin} read the same as others, which may be in another split: {names}")
        return notes

    def _add(self, where: str, row: Any, explicit: bool) -> None:
        self.columns = self.columns or _columns(row, where)
        asked, answered = (_cell(row, column, where) for column in self.columns)
        if self.columns == TRACE and isinstance(answered, str) and not answered.strip():
            self.unanswered += 1
            return
        if isinstance(row, Mapping):
            others = [name for name in row if name not in self.columns and not _missing(row[name])]
            if not explicit:
                given = row[INSTRUCTION] if INSTRUCTION in others else None
                self.instructions[given and _text(given, INSTRUCTION, where)] = None
                others = [name for name in others if name != INSTRUCTION]
            self.unread.update(dict.fromkeys(others))
        listed = answered if isinstance(answered, (list, tuple)) else [answered]
        if not listed:
            raise TaskError(f"field {self.columns[1]!r} in {where} to have one answer or more", "an empty list")
        answers = dict.fromkeys(_text(answer, self.columns[1], where) for answer in listed)
        asked = _text(asked, self.columns[0], where)
        if self.forms.setdefault(" ".join(normalize("NFC", asked).split()), asked) != asked:
            self.alike[asked] = None
        known = self.answers.setdefault(asked, {})
        if known and known.keys() != answers.keys():
            self.several[asked] = None
        known.update(answers)

    def _check_whole(self) -> None:
        """Raise TaskError where rows are asked for in more than an input: by their own instruction, in a context."""
        assert self.columns is not None
        advice = f"write all of it into one column, or say with fields={self.columns} that these two are enough"
        if len(self.instructions) > 1:
            came = few(map(brief, self.instructions), 3)
            raise TaskError(f"one instruction in all rows of {self.origin}", came, f"make a task of each, {advice}")
        parts = [name for name in self.unread if str(name).strip().casefold() in PART_OF_THE_PROMPT]
        if parts:
            whole = f"the column {self.columns[0]!r} of {self.origin} to be all that an answer depends on"
            raise TaskError(whole, f"{few(map(brief, parts))} beside it", advice)


def _columns(row: Any, where: str) -> Columns:
    """The columns of the input and the answers, as the first row shows them."""
    if not isinstance(row, Mapping):
        return COLUMNS[0]
    found = known_columns(row)
    if found is None:
        raise TaskError(
            f"{where} to have the fields " + " or ".join(f"{asked}/{answered}" for asked, answered in COLUMNS),
            f"the fields {few(map(brief, row))}",
            "name the fields of the input and the answer with fields=(..., ...)",
        )
    return found


def known_columns(row: Mapping[Any, Any]) -> Columns | None:
    """The columns of a known format that a row has."""
    return next((columns for columns in COLUMNS if all(column in row for column in columns)), None)


def _cell(row: Any, column: str, where: str) -> Any:
    """The value of a column in a row, which is a mapping, or a pair of an input and its answers."""
    if isinstance(row, (list, tuple)) and len(row) == 2 and column in COLUMNS[0]:
        return row[COLUMNS[0].index(column)]
    if not isinstance(row, Mapping):
        raise TaskError(f"{where} to be an object with fields, or a pair of an input and its answers", brief(row))
    if column not in row:
        raise TaskError(f"{where} to have the field {column!r}", f"the fields {few(map(brief, row))}")
    return row[column]


def _text(value: Any, column: str, where: str) -> str:
    """A text, or a finite number as one, or a TaskError."""
    what = f"field {column!r} in {where}"
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            value = str(value) if isinstance(value, Integral) or isfinite(value) else value
        except (ValueError, OverflowError) as error:  # Python writes out so many digits only
            raise TaskError(f"{what} to be a text or a number", f"a number too long to write out: {error}") from error
    return as_text(what, value)


def _missing(value: Any) -> bool:
    """Whether a cell holds nothing that could be lost: None, NaN, blank text, or an empty list."""
    if isinstance(value, float):
        return isnan(value)
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not (value and str(value).strip()))
