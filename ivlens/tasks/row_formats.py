"""The formats of rows: each is recognised by its columns, and becomes an input, answers, and what belongs to them.

To add one, give it a row in ``ROW_FORMATS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .values import Kind, a_text, as_list, best, conversation, is_missing

Row = Mapping[Any, Any]


@dataclass(frozen=True)
class Fields:
    """The columns of a row by what they are: those of the input and the answers, and of what else is read.

    ``options`` is one column with all options, or one column for each. A ``context`` is written before the input, with
    a blank line between.
    """

    input: str
    answers: str
    options: tuple[str, ...] = ()
    context: str | None = None
    instruction: str | None = None
    history: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        others = (self.context, self.instruction, self.history)
        return (self.input, self.answers, *self.options, *(name for name in others if name is not None))


@dataclass(frozen=True)
class RowFormat:
    """Rows with the columns ``has`` are read by ``fields``; those in ``maybe`` may be missing in a row.

    ``fits`` decides between formats with the same columns. ``adapt`` rewrites a row of which the columns are not yet an
    input, answers and the others; its second argument says where the row is. ``names`` is what an answer is to its
    options; None: found out from all rows. ``hides`` is for data sets whose test rows have no answer, or -1; they are
    left out.
    """

    name: str
    has: tuple[str, ...]
    fields: Fields
    maybe: tuple[str, ...] = ()
    fits: Callable[[Row], bool] = lambda row: True
    adapt: Callable[[Row, str], Row] = lambda row, where: row
    names: Kind | None = None
    hides: bool = False

    @cached_property
    def columns(self) -> frozenset[str]:
        """All columns that are read."""
        return frozenset((*self.has, *self.maybe))


def _talk(column: str) -> Callable[[Row, str], Row]:
    """A conversation's last answer, the user's turn before it, and what was said before."""

    def adapt(row: Row, where: str) -> Row:
        turns = conversation(row[column], column, where)
        if row.get("system") and not is_missing(row["system"]):
            turns = [("system", a_text(row["system"], "system", where)), *turns]
        if [role for role, _ in turns[-2:]] != ["user", "assistant"]:
            return {column: None, "answer": None}
        return {column: turns[-2][1], "answer": turns[-1][1], "history": _messages(turns[:-2])}

    return adapt


def _messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def _instructed(input: str) -> Callable[[Row, str], Row]:
    """An instruction without an input is itself the input."""

    def adapt(row: Row, where: str) -> Row:
        if is_missing(row.get(input)) and "instruction" in row:
            return {**row, input: row["instruction"], "instruction": None}
        return row

    return adapt


def _yes_or_no(row: Row, where: str) -> Row:
    answer = {"true": "yes", "false": "no"}.get(str(row["answer"]).lower(), row["answer"])
    return {**row, "answer": answer, "options": ["yes", "no"]}


def _best(row: Row, where: str) -> Row:
    scores = row["target_scores"]
    return {**row, "answers": best(scores, where)}


def _is_truth(row: Row) -> bool:
    return str(row["answer"]).lower() in ("true", "false")


def _is_scored(row: Row) -> bool:
    return isinstance(row["target_scores"], Mapping)


def _is_talk(column: str) -> Callable[[Row], bool]:
    return lambda row: all(isinstance(each, Mapping) and each is not row[column] for each in as_list(row[column]))


INSTRUCTION = "instruction"


def _plain(input: str, answers: str, name: str = "", hides: bool = False) -> RowFormat:
    """Rows of an input and answers, under an instruction or not."""
    fields = Fields(input, answers, instruction=INSTRUCTION)
    return RowFormat(name or f"{input}, {answers}", (input, answers), fields, (INSTRUCTION,), hides=hides)


def _on(context: str) -> RowFormat:
    """Questions on a context, answered in words."""
    names = (context, "question", "answer")
    return RowFormat(", ".join(names), names, Fields("question", "answer", (), context))


# The formats of rows. The first that fits a source's first row is that of all its rows.
ROW_FORMATS: tuple[RowFormat, ...] = (
    RowFormat(
        "OpenAI messages", ("messages",), Fields("messages", "answer", history="history"),
        maybe=("system",), fits=_is_talk("messages"), adapt=_talk("messages"), hides=True,
    ),
    RowFormat(
        "ShareGPT conversations", ("conversations",), Fields("conversations", "answer", history="history"),
        maybe=("system",), fits=_is_talk("conversations"), adapt=_talk("conversations"), hides=True,
    ),
    RowFormat(
        "HellaSwag", ("ctx", "endings", "label"), Fields("ctx", "label", ("endings",)), names="index", hides=True,
    ),
    RowFormat(
        "ARC, CommonsenseQA", ("question", "choices", "answerKey"), Fields("question", "answerKey", ("choices",)),
        names="label", hides=True,
    ),
    RowFormat(
        "C-Eval", ("question", *"ABCD", "answer"), Fields("question", "answer", tuple("ABCD")),
        names="label", hides=True,
    ),
    RowFormat("MMLU", ("question", "choices", "answer"), Fields("question", "answer", ("choices",)), hides=True),
    RowFormat(
        "RACE, MedQA", ("question", "options", "answer"), Fields("question", "answer", ("options",), "article"),
        maybe=("article",), hides=True,
    ),
    RowFormat(
        "BoolQ", ("question", "passage", "answer"), Fields("question", "answer", ("options",), "passage"),
        fits=_is_truth, adapt=_yes_or_no, names="text", hides=True,
    ),
    RowFormat("SQuAD", ("context", "question", "answers"), Fields("question", "answers", (), "context"), hides=True),
    _on("context"),
    _on("passage"),
    RowFormat(
        "Dolly", (INSTRUCTION, "context", "response"), Fields("context", "response", instruction=INSTRUCTION),
        adapt=_instructed("context"),
    ),
    RowFormat(
        "Alpaca", (INSTRUCTION, "output"), Fields("input", "output", instruction=INSTRUCTION),
        maybe=("input",), adapt=_instructed("input"),
    ),
    RowFormat(
        "BIG-bench", ("input", "target_scores"), Fields("input", "answers", ("target_scores",)),
        maybe=("target",), fits=_is_scored, adapt=_best, names="text",
    ),
    RowFormat(
        "P3", ("inputs_pretokenized", "targets_pretokenized"),
        Fields("inputs_pretokenized", "targets_pretokenized", ("answer_choices",)),
        maybe=("answer_choices",), names="text",
    ),
    RowFormat(
        "FLAN", ("inputs", "targets"), Fields("inputs", "targets", ("answer_choices",)), maybe=("answer_choices",),
        names="text",
    ),
    _plain("input", "output"),
    _plain("input", "target", "BBH"),
    _plain("prompt", "answer", "TRACE", hides=True),
    _plain("prompt", "completion"),
    _plain("prompt", "response"),
    _plain("question", "answer"),
)  # fmt: skip


def format_of(row: Row) -> RowFormat | None:
    """The format of rows like this one."""
    return next((each for each in ROW_FORMATS if row.keys() >= {*each.has} and each.fits(row)), None)


def nearest(row: Row) -> tuple[str, str] | None:
    """A format of which a row lacks one column, and that column; None where there is no such format."""
    lacking = ((each.name, [name for name in each.has if name not in row], len(each.has)) for each in ROW_FORMATS)
    return next(((name, lacks[0]) for name, lacks, n in lacking if len(lacks) == 1 < n), None)
