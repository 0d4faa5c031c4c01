"""From rows to examples: every row is read by one format, and what is not read is named."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

from ..errors import TaskError, brief, few
from ..text import did_you_mean
from .examples import Example
from .row_formats import Fields, Row, RowFormat, format_of, nearest
from .source import Rows
from .values import KINDS, Kind, a_text, as_list, choices, chosen, conversation, is_hidden, is_missing, texts

PAIR = ("input", "output")  # the columns of a row that is a pair
BY_ROLE = "fields={'input': ..., 'answers': ..., 'options': ...}"
# Columns that an answer depends on, so that ignoring them would give another task.
PART_OF_THE_PROMPT = frozenset(
    [
        *("instruction", "instructions", "system", "system_prompt", "history", "input", "prompt", "question", "query"),
        *("context", "passage", "paragraph", "article", "document", "background", "support", "facts", "story"),
        *("premise", "hypothesis", "is_correct"),
    ]
)
# Columns of options: all in one, or each in its own.
OPTIONS = re.compile(
    r"choices|options|answer_choices|endings|candidates|[a-e]|(option|choice|opt)[ _]?([a-e]|[1-5])|op[a-e]",
    re.IGNORECASE,
)


PAIRS = RowFormat("pairs", PAIR, Fields(*PAIR))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row asks."""

    input: str
    instruction: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()

    @property
    def key(self) -> "Asked | str":
        """The input alone where nothing belongs to it, which takes less memory."""
        return self if self.instruction or self.history or self.options else self.input


@dataclass(frozen=True, slots=True)
class Choice:
    """A row with options: what names the accepted ones, the options' labels, and where the row is."""

    asked: Asked
    labels: tuple[str, ...]
    names: tuple[Any, ...]
    where: str

    def chosen(self, kind: Kind) -> tuple[str, ...] | None:
        """The accepted options, where all names are of this kind."""
        found = [chosen(name, self.asked.options, self.labels, kind) for name in self.names]
        return None if None in found or not found else tuple(option for option in found if option is not None)


@dataclass
class RowReader:
    """Reads rows, one after another, by ``fields``, or by the known format that the first of them has.

    ``classes`` are class names, for columns with class numbers. It collects answers by question, and unread
    columns; ``several`` are inputs that occur in several rows with different answers, and ``alike`` those that differ
    from an earlier one only in whitespace or unicode form.
    """

    origin: str
    fields: Fields | None
    classes: Mapping[str, list[str]]
    format: RowFormat | None = None
    answers: dict[Asked | str, tuple[str, ...]] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    unread: dict[Any, None] = field(default_factory=dict)
    several: dict[str, None] = field(default_factory=dict)
    alike: dict[str, None] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    unanswered: int = 0

    def read(self, rows: Rows) -> None:
        """Read all rows.

        Raises: TaskError naming the row and the field, also for rows whose answer depends on more than what is read,
            unless ``fields`` is given.
        """
        if self.fields is not None:
            self.format = _of_fields(self.fields)
        for where, row in rows:
            self.rows += 1
            if self.format is None:
                self.format = _recognised(row, where)
            self._read_row(row, self.format, where)
        if self.format is None or self.rows == self.unanswered:
            came = f"{self.rows} rows, none with an answer"
            raise TaskError(f"{self.origin} to hold one example or more", came)
        if self.choices:
            self._choose(self.format.names)
        if self.fields is None:
            self._check_whole(self.format)

    @property
    def examples(self) -> tuple[Example, ...]:
        """One example for all that is asked, in the order of the rows; an instruction that all share is left out."""
        shared = self.instruction is not None
        made = []
        for key, answers in self.answers.items():
            asked = Asked(key) if isinstance(key, str) else key
            instruction = None if shared else asked.instruction
            made.append(Example(asked.input, answers, asked.options, instruction, asked.history))
        return tuple(made)

    @property
    def instruction(self) -> str | None:
        """The instruction that all rows share."""
        own = {None if isinstance(key, str) else key.instruction for key in self.answers}
        return own.pop() if len(own) == 1 else None

    def notes(self) -> list[str]:
        """Notes for the user on how the rows were read."""
        notices = {
            f"fields of {self.origin} were not read": self.unread,
            f"inputs of {self.origin} have several rows, whose answers are all accepted": self.several,
            f"inputs of {self.origin} read the same as others, which may be in another split": self.alike,
        }
        left_out = f"{self.unanswered:,} rows of {self.origin} have no answer and were left out"
        notes = [f"{what}: {few(map(brief, names), 12)}" for what, names in notices.items() if names]
        return [*notes, left_out] if self.unanswered else notes

    def _read_row(self, row: Any, format: RowFormat, where: str) -> None:
        if not isinstance(row, Mapping):
            row = _of_pair(row, format, where)
        for column in format.has:
            if column not in row:
                came = f"the fields {few(map(brief, row), 12)}"
                raise TaskError(
                    f"{where} to have the field {column!r}",
                    came,
                    did_you_mean(column, [name for name in row if isinstance(name, str)]),
                )
        self.unread.update((name, None) for name in row if name not in format.columns and not is_missing(row[name]))
        read = format.adapt(row, where)
        column = format.fields.answers
        numbered = column in self.classes or (format.hides and bool(format.fields.options))
        if is_hidden(read.get(column), format.hides, numbered):
            self.unanswered += 1
            return
        asked, labels = self._asked(read, format, where)
        self._note_alike(asked.input)
        answer = self._value(read, column, where)
        if asked.options:
            self.answers.setdefault(asked.key, ())
            self.choices.append(Choice(asked, labels, tuple(as_list(answer)), where))
        else:
            self._add(asked, texts(answer, column, where))

    def _asked(self, row: Row, format: RowFormat, where: str) -> tuple[Asked, tuple[str, ...]]:
        """What a row asks, and the labels of its options, which only a column that may be missing may lack."""
        fields = format.fields

        def optional(column: str | None) -> Any:
            value = None if column is None else self._value(row, column, where)
            return None if is_missing(value) else value

        input = a_text(self._value(row, fields.input, where), fields.input, where)
        if (context := optional(fields.context)) is not None:
            input = f"{a_text(context, fields.context, where)}\n\n{input}"
        if (instruction := optional(fields.instruction)) is not None:
            instruction = a_text(instruction, fields.instruction, where)
        history = optional(fields.history)
        turns = () if history is None else tuple(conversation(history, fields.history, where))
        options: tuple[str, ...] = ()
        labels: tuple[str, ...] = ()
        if len(fields.options) > 1:
            options = tuple(a_text(row[name], name, where) for name in fields.options)
            labels = fields.options
        elif fields.options:
            value = optional(fields.options[0])
            if value is not None or fields.options[0] in format.has:
                options, labels = choices(value, fields.options[0], where)
        return Asked(input, instruction, turns, options), labels

    def _value(self, row: Row, column: str, where: str) -> Any:
        value, names = row.get(column), self.classes.get(column)
        return value if names is None else _class_name(value, names, f"field {column!r} in {where}")

    def _add(self, asked: Asked, answers: tuple[str, ...]) -> None:
        known = self.answers.setdefault(asked.key, answers)
        if {*known} != {*answers}:
            if known:
                self.several[asked.input] = None
            self.answers[asked.key] = tuple(dict.fromkeys((*known, *answers)))

    def _note_alike(self, input: str) -> None:
        form = " ".join(normalize("NFC", input).split())
        if self.forms.setdefault(input if form == input else form, input) != input:
            self.alike[input] = None

    def _choose(self, names: Kind | None) -> None:
        """Find the accepted options, by what names them in all rows: a label, their text, a number or a letter.

        Labels that rows give their options go before the others.

        Raises: TaskError where no kind of name fits all rows, or several do that would choose differently.
        """
        found = {kind: [row.chosen(kind) for row in self.choices] for kind in ((names,) if names else KINDS)}
        kind = min(found, key=lambda kind: found[kind].count(None))
        at = next((at for at, answers in enumerate(found[kind]) if answers is None), None)
        if at is not None:
            row = self.choices[at]
            came = f"{few(map(brief, row.names))} beside {few(map(brief, row.asked.options))}"
            ways = "its label, its text, its number from 0, or its letter, the same in all rows"
            do = "write the option's text as the answer, which needs no numbers"
            raise TaskError(f"{row.where} to name one of its options as an answer, by {ways}", came, do)
        for other, answers in found.items():
            if kind == "label" or None in answers or answers == found[kind]:
                continue
            row = next(row for row, one, two in zip(self.choices, found[kind], answers, strict=True) if one != two)
            raise TaskError(
                f"answers of {self.origin} that name options in one way",
                f"{few(map(brief, row.names))} in {row.where}, which is the {kind} of one option and the {other} of "
                "another",
                "write the options' texts as answers",
            )
        for row, accepted in zip(self.choices, found[kind], strict=True):
            self._add(row.asked, accepted or ())

    def _check_whole(self, format: RowFormat) -> None:
        """Raise TaskError where answers depend on more than what is read."""
        names = [name for name in self.unread if isinstance(name, str)]
        options = [name for name in names if OPTIONS.fullmatch(name.strip())]
        parts = [name for name in names if name in options or name.strip().casefold() in PART_OF_THE_PROMPT]
        if parts:
            fields = format.fields
            roles: dict[str, Any] = {"input": fields.input, "answers": fields.answers}
            roles |= {"options": options} if options else {"context": parts[0]}
            raise TaskError(
                f"the column {fields.input!r} of {self.origin} to be all that an answer depends on",
                f"{few(map(brief, parts))} beside it",
                f"say by role what they are, as in fields={roles}, write all into one column, or say with "
                f"fields={(fields.input, fields.answers)} that these two are enough",
            )


def _of_fields(fields: Fields) -> RowFormat:
    """The format of rows whose columns are named by the user."""
    maybe = tuple(name for name in (fields.context, fields.instruction, fields.history) if name is not None)
    has = tuple(name for name in fields.columns if name not in maybe)
    return RowFormat("named-column", has, fields, maybe, hides=bool(fields.options))


def _recognised(row: Any, where: str) -> RowFormat:
    """The format of the first row.

    Raises: TaskError with what may be done, where it has none.
    """
    if not isinstance(row, Mapping):
        return PAIRS
    if (format := format_of(row)) is not None:
        return format
    near, names = nearest(row), [name for name in row if isinstance(name, str)]
    two = len(row) == len(names) == 2 and all(re.fullmatch(r"[\w -]{1,40}", name) for name in names)
    columns = tuple(names) if two else "(..., ...)"
    change = f"add the column {near[1]!r} of {near[0]}" if near else "call two of them input and output"
    raise TaskError(
        f"{where} to have the fields input/output or those of another known format",
        f"the fields {few(map(brief, row))}",
        f"name its columns with fields={columns} for input and answers, or by role with {BY_ROLE}; {change}; or pass "
        "pairs of an input and its answers",
    )


def _of_pair(row: Any, format: RowFormat, where: str) -> Row:
    """A row that is a pair of an input and its answers."""
    names = (*format.has, *format.maybe)
    if isinstance(row, (list, tuple)) and 2 <= len(row) <= len(names) and format.has == PAIR:
        return dict(zip(names, row, strict=False))
    raise TaskError(f"{where} to be an object with fields, or a pair of an input and its answers", brief(row))


def _class_name(number: Any, classes: list[str], what: str) -> Any:
    """The class name for a class number, or for each of a list; a missing number stays missing."""
    if isinstance(number, list):
        return [_class_name(each, classes, what) for each in number]
    if number is None:
        return None
    if not 0 <= number < len(classes):
        raise TaskError(f"{what} to be one of {len(classes)} classes", brief(number))
    return classes[number]
