"""From a forgotten ability to a repaired checkpoint: one page that answers five questions in order."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...checks import checked
from ...records import CheckpointComparison, CheckpointPatching, Record, Repair
from ..documents import Body, write_page
from ..markup import prose
from ..tables import frame_table
from .patching import patching_parts
from .recovery import recovery_bars
from .repair import cost_parts, forgotten_parts, remedy_parts, repair_headline
from .report import facts_frame
from .summary import checkpoint_summary


class Question(NamedTuple):
    """A question, and what each kind of record answers to it."""

    heading: str
    answers: Mapping[type[Record], Callable[[Any], Body]]


QUESTIONS = (
    Question(
        "What was forgotten?", {Repair: forgotten_parts, CheckpointComparison: lambda each: [checkpoint_summary(each)]}
    ),
    Question("Where?", {CheckpointPatching: patching_parts}),
    Question("Is it still there?", {CheckpointComparison: lambda each: [recovery_bars(each)]}),
    Question("What to do now?", {Repair: remedy_parts}),
    Question("What does that cost?", {Repair: cost_parts}),
)


@checked
def write_repair_report(path: str | Path, repair: Repair, records: Sequence[Record] = ()) -> Path:
    """Write a repair as one HTML page that works from disk without a network, atomically.

    What was forgotten, where, is it still there, what to do now, what that costs. A question that no record answers is
    left out.

    Args:
        path: the file to write.
        repair: the record of ``repair``.
        records: of the same models: of ``patch_checkpoints``, ``compare_checkpoints``.

    Returns:
        The path.

    Raises:
        RecordError: the file cannot be written.

    Example:
        >>> iv.views.write_repair_report(tmp_path / "report.html", repaired, [patching]).name
        'report.html'
    """
    sections: list[tuple[str, Body]] = [("In short", prose(repair_headline(repair)))]
    for question in QUESTIONS:
        if bodies := answers_to(question, [repair, *records]):
            sections.append((question.heading, bodies))
    sections.append(("Where these numbers come from", frame_table(facts_frame(repair.provenance))))
    return write_page(path, "From a forgotten ability to a repaired checkpoint", sections)


def answers_to(question: Question, records: Sequence[Record]) -> list[Body]:
    """What the records answer to a question."""
    kinds = question.answers.items()
    return [answer(record) for record in records for kind, answer in kinds if isinstance(record, kind)]
