"""From a forgotten ability to a repaired checkpoint: one page that answers five questions in order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ...checks import checked
from ...records import CheckpointComparison, CheckpointPatching, Record, Repair, WeightReverts
from ..documents import Body, write_page
from ..markup import prose
from .patching import patching_maps, patching_parts
from .repair import cost_parts, forgotten_parts, remedy_parts, repair_headline
from .report import evidence_table, facts_tables
from .reverting import carried_and_made, reverting_parts
from .summary import checkpoint_summary

R = TypeVar("R", bound=Record)
BESIDE = """
What carries a loss, by the base's activations, need not be where it was made, by the base's weights. "ivlens report" on
the folder of these records shows each of them whole.
"""


@checked
def write_repair_report(path: str | Path, repair: Repair, records: Sequence[Record] = ()) -> Path:
    """Write a repair as one HTML page that works from disk without a network, atomically.

    What was forgotten, where, is it still there, what to do now, what that costs. A question that no record answers is
    left out.

    Args:
        path: the file to write.
        repair: the record of ``repair``.
        records: of the same models, from ``patch_checkpoints``, ``revert_weights`` and ``compare_checkpoints``.

    Returns:
        The path.

    Raises:
        RecordError: the file cannot be written.

    Example:
        >>> iv.views.write_repair_report(tmp_path / "report.html", repaired, [patching]).name
        'report.html'
    """
    sections: list[tuple[str, Body]] = [("In short", prose(repair_headline(repair)))]
    for heading, answer in QUESTIONS.items():
        if bodies := answer([repair, *records]):
            sections.append((heading, bodies))
    sections.append(("Where these numbers come from", facts_tables(repair.provenance)))
    return write_page(path, "From a forgotten ability to a repaired checkpoint", sections)


def of_kind(kind: type[R], records: Sequence[Record]) -> list[R]:
    """The records of a class."""
    return [record for record in records if isinstance(record, kind)]


def forgotten(records: Sequence[Record]) -> list[Body]:
    """What was lost on each old task."""
    return [body for repair in of_kind(Repair, records) for body in forgotten_parts(repair)]


def where(records: Sequence[Record]) -> list[Body]:
    """What carries the loss beside where it was made, and the heads; one of them alone is shown whole."""
    carried, made = of_kind(CheckpointPatching, records), of_kind(WeightReverts, records)
    if carried and made:
        return [carried_and_made(carried[0], made[0]), prose(BESIDE), patching_maps(carried[0])]
    return [*map(patching_parts, carried), *map(reverting_parts, made)]


def still_there(records: Sequence[Record]) -> list[Body]:
    """The verdicts of a comparison, and what the base's vectors bring back."""
    comparisons = of_kind(CheckpointComparison, records)
    return [body for each in comparisons for body in (*evidence_table(each), checkpoint_summary(each))]


def remedy(records: Sequence[Record]) -> list[Body]:
    """What is put back, and what was tried."""
    return [body for repair in of_kind(Repair, records) for body in remedy_parts(repair)]


def cost(records: Sequence[Record]) -> list[Body]:
    """What that returns and costs, beside controls."""
    return [body for repair in of_kind(Repair, records) for body in cost_parts(repair)]


QUESTIONS: dict[str, Callable[[Sequence[Record]], list[Body]]] = {
    "What was forgotten?": forgotten,
    "Where?": where,
    "Is it still there?": still_there,
    "What to do now?": remedy,
    "What does that cost?": cost,
}
