"""From rows to examples: which columns are read, and what happens to the others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan
from numbers import Integral, Real
from typing import Any
from unicodedata import normalize

from ..errors import TaskError, brief, few
from .examples import Example, as_text

Columns = tuple[str, str]
Rows = Iterable[tuple[str, Any]]  # location and row

TRACE = ("prompt", "answer")
COLUMNS: tuple[Columns, ...] = (("input", "output"), TRACE, ("question", "answer"))
INSTRUCTION = "instruction"
# Columns that an answer depends on, so that ignoring them would give another task.
PART_OF_THE_PROMPT = frozenset(
    [
        *("instruction", "instructions", "system", "system_prompt", "history", "input", "prompt", "question", "query"),
        *("context", "passage", "paragraph", "article", "document", "background", "support", "facts", "story"),
        *("premise", "hypothesis", "choices", "options", "answer_choices", "endings", "candidates"),
    ]
)


@dataclass
class RowReader:
    """Reads rows, one after another, from the columns ``fields``, or from those of the known format that they have.

    ``classes`` are class names, for columns with class numbers. It collects answers by input, the rows' instructions,
    and unread columns; ``several`` are inputs that occur in several rows with different answers, and ``alike`` those
    that differ from an earlier one only in whitespace or unicode form.
    """

    origin: str
    fields: Columns | None
    classes: Mapping[str, list[str]]
    answers: dict[str, dict[str, None]] = field(default_factory=dict)
    instructions: dict[str | None, None] = field(default_factory=dict)
    unread: dict[str, None] = field(default_factory=dict)
    several: dict[str, None] = field(default_factory=dict)
    alike: dict[str, None] = field(default_factory=dict)
    unanswered: int = 0

    def read(self, rows: Rows) -> None:
        """Read all rows.

        Raises: TaskError naming the row and the field, also for rows whose answer depends on more than an input, unless
            ``fields`` is given.
        """
        columns = self.fields
        forms: dict[str, str] = {}
        for where, row in rows:
            columns = columns or _columns(row, where)
            input, answer = (_cell(row, column, where, self.classes.get(column)) for column in columns)
            if columns == TRACE and isinstance(answer, str) and not answer.strip():
                self.unanswered += 1
                continue
            input = _text(input, columns[0], where)
            self._add(input, _texts(answer, columns[1], where))
            if forms.setdefault(" ".join(normalize("NFC", input).split()), input) != input:
                self.alike[input] = None
            if isinstance(row, Mapping):
                self._note_others(row, columns, where)
        if columns is None or not self.answers:
            came = f"{self.unanswered} rows, none with an answer"
            raise TaskError(f"{self.origin} to hold one example or more", came)
        if self.fields is None:
            self._check_whole(columns)

    @property
    def examples(self) -> tuple[Example, ...]:
        """One example per input, in the order of the rows."""
        return tuple(Example(input, tuple(answers)) for input, answers in self.answers.items())

    @property
    def instruction(self) -> str | None:
        """The instruction that all rows share."""
        return next(iter(self.instructions), None)

    def notes(self) -> list[str]:
        """Notes for the user on how the rows were read."""
        notices = {
            f"fields of {self.origin} were not read": self.unread,
            f"inputs of {self.origin} have several rows, whose answers are all accepted": self.several,
            f"inputs of {self.origin} read the same as others, which may be in another split": self.alike,
        }
        left_out = f"{self.unanswered} rows of {self.origin} have no answer and were left out"
        notes = [f"{what}: {few(map(brief, names), 12)}" for what, names in notices.items() if names]
        return [*notes, left_out] if self.unanswered else notes

    def _add(self, input: str, answers: dict[str, None]) -> None:
        known = self.answers.setdefault(input, {})
        if known and known.keys() != answers.keys():
            self.several[input] = None
        known.update(answers)

    def _note_others(self, row: Mapping[Any, Any], columns: Columns, where: str) -> None:
        """Note the row's instruction, unless ``fields`` is given, and its unread columns."""
        others = {name: row[name] for name in row if name not in columns and not _missing(row[name])}
        if self.fields is None:
            instruction = others.pop(INSTRUCTION, None)
            self.instructions[None if instruction is None else _text(instruction, INSTRUCTION, where)] = None
        self.unread.update(dict.fromkeys(others))

    def _check_whole(self, columns: Columns) -> None:
        """Raise TaskError where answers depend on more than the input: a context, or the row's own instruction."""
        advice = f"write all of it into one column, or say with fields={columns} that these two are enough"
        if len(self.instructions) > 1:
            came = few(map(brief, self.instructions), 3)
            raise TaskError(f"one instruction in all rows of {self.origin}", came, f"make a task of each, {advice}")
        names = [name for name in self.unread if isinstance(name, str)]
        parts = [name for name in names if name.strip().casefold() in PART_OF_THE_PROMPT]
        if parts:
            whole = f"the column {columns[0]!r} of {self.origin} to be all that an answer depends on"
            raise TaskError(whole, f"{few(map(brief, parts))} beside it", advice)


def _columns(row: Any, where: str) -> Columns:
    """The columns of the input and the answers, found from the first row."""
    if not isinstance(row, Mapping):
        return COLUMNS[0]
    columns = known_columns(row)
    if columns is None:
        raise TaskError(
            f"{where} to have the fields " + " or ".join(f"{input}/{answer}" for input, answer in COLUMNS),
            f"the fields {few(map(brief, row))}",
            "call two columns so, or name those of the input and the answer with fields=(..., ...)",
        )
    return columns


def known_columns(row: Mapping[Any, Any]) -> Columns | None:
    """The columns of a known format that a row has."""
    return next((columns for columns in COLUMNS if all(column in row for column in columns)), None)


def _cell(row: Any, column: str, where: str, classes: list[str] | None) -> Any:
    """The value of a column in a row, which is a mapping or a pair of an input and its answers."""
    if isinstance(row, (list, tuple)) and len(row) == 2 and column in COLUMNS[0]:
        return row[COLUMNS[0].index(column)]
    if not isinstance(row, Mapping):
        raise TaskError(f"{where} to be an object with fields, or a pair of an input and its answers", brief(row))
    if column not in row:
        raise TaskError(f"{where} to have the field {column!r}", f"the fields {few(map(brief, row))}")
    return row[column] if classes is None else _class_name(row[column], classes, f"field {column!r} in {where}")


def _class_name(number: Any, classes: list[str], what: str) -> Any:
    """The class name for a class number, or for each of a list; a missing number stays missing."""
    if isinstance(number, list):
        return [_class_name(each, classes, what) for each in number]
    if number is None:
        return None
    if not 0 <= number < len(classes):
        raise TaskError(f"{what} to be one of {len(classes)} classes", brief(number))
    return classes[number]


def _texts(value: Any, column: str, where: str) -> dict[str, None]:
    """One text, or a list of them, without repetitions."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise TaskError(f"field {column!r} in {where} to have one answer or more", "an empty list")
    return dict.fromkeys(_text(each, column, where) for each in values)


def _text(value: Any, column: str, where: str) -> str:
    """A text, or a finite number as text, or a TaskError."""
    what = f"field {column!r} in {where}"
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            value = str(value) if isinstance(value, Integral) or isfinite(value) else value
        except (ValueError, OverflowError) as error:  # Python refuses to write out thousands of digits
            raise TaskError(f"{what} to be a text or a number", f"a number too long to write out: {error}") from error
    return as_text(what, value)


def _missing(value: Any) -> bool:
    """Whether a value is missing: None, NaN, blank text, or an empty list."""
    if isinstance(value, float):
        return isnan(value)
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not (value and str(value).strip()))
