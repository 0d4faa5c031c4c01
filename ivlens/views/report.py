"""Saved records of any kind as one page: contents, then a part a record with its figures, table and provenance."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from itertools import count
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError, RecordError
from ..records import (
    CheckpointComparison,
    ConditionComparison,
    Evaluation,
    HeadMap,
    MethodAgreement,
    PositionEffects,
    Record,
    Stability,
    SteeringSweep,
    TrainingRun,
    TransferMatrix,
)
from ..records.visible import escaped, one_line, visible
from .checkpoint_report import METHOD, comparison_sections, facts_frame
from .page import HEADING, Body, prose, write_page
from .report_parts import (
    answers_parts,
    conditions_parts,
    heads_parts,
    positions_parts,
    stability_parts,
    sweep_parts,
    table_parts,
    training_parts,
    transfer_parts,
)
from .tables import frame_table

ROOM = 3_600_000  # letters of figures; with plotly and the tables the page stays below 10 MB
LEFT_OUT = "A figure is left out: the page is full. A report of fewer records has it."
KEY = "key: "
STYLE = """<style>
h3 { font-size: 1.1rem; margin: 2.25rem 0 0.5rem; } h4 { margin: 1.5rem 0 0.5rem; }
details { margin: 0.5rem 0; color: var(--faint); } summary { cursor: pointer; }
nav a { display: inline-block; max-width: 100%; }
nav dt { margin-top: 0.6rem; } nav dd { margin: 0 0 0 1.2rem; }
@media print { h3, h4 { break-after: avoid; } }
</style>"""


class Kind(NamedTuple):
    """Records of a class: the heading that they stand under, what is said there, and what is shown of each."""

    of: type[Record]
    heading: str
    about: str
    parts: Callable[[Any], list[Body]]


def _comparison_parts(comparison: CheckpointComparison) -> list[Body]:
    """The sections of a comparison's own report."""
    sections = [[f"<h4>{escaped(name)}</h4>", body] for name, body in comparison_sections(comparison)]
    return [*sections, _folded("How this was measured", prose(METHOD))]


KINDS = (
    Kind(CheckpointComparison, "What became of the base's abilities",
         "Checkpoints beside their base: what was forgotten, and is it still in there?", _comparison_parts),
    Kind(HeadMap, "Heads that carry the instructions",
         "The average indirect effect (AIE) of a head is what its mean output over clean prompts, put in its place at "
         "the last token of corrupted prompts, does for the answer: the mean over prompts, and its standard error.",
         heads_parts),
    Kind(PositionEffects, "Where in the prompt heads work",
         "What a head's mean output over clean prompts does for the answer where it takes the head's place at all "
         "tokens of one role of corrupted prompts.", positions_parts),
    Kind(MethodAgreement, "How far methods agree",
         "Rank correlation over heads, and overlap of the strongest ones, with the exact effects of the same prompts.",
         table_parts),
    Kind(Stability, "How firmly prompts single out the heads",
         "How often a head is among the strongest when the prompts are drawn again.", stability_parts),
    Kind(SteeringSweep, "Where the vector works",
         "Accuracy on bare prompts with the vector added. The best cell flatters on the prompts that it was chosen on: "
         "see a comparison of conditions on other prompts.", sweep_parts),
    Kind(ConditionComparison, "Conditions compared",
         "The same queries in each condition. An effect of the vector is one that random vectors, random heads and "
         "other tasks' vectors do not have.", conditions_parts),
    Kind(TransferMatrix, "What tasks share", "Heads, directions, and what one task's vector does to another's prompts.",
         transfer_parts),
    Kind(TrainingRun, "Training", "What runs logged, and what became of abilities on the way.", training_parts),
    Kind(Evaluation, "Answers", "How prompts were answered; ± is the standard error over prompts.", answers_parts),
    Kind(Record, "Vectors and other tables",
         "Of an instruction vector its heads, the norms of their parts, and the cosines of the parts with the vector.",
         table_parts),
)  # fmt: skip


@checked
def write_report(
    path: str | Path,
    records: Mapping[str, Record],
    *,
    title: str = "ivlens report",
    broken: Mapping[str, str] | None = None,
    passed_over: int = 0,
    failed: Callable[[str, str], object] = lambda name, why: None,
) -> Path:
    """Write records, named by their files, as one HTML page that works from disk without a network; return its path.

    Contents; then by kind a part a record: figures as long as the page has room, a table, provenance to unfold.
    ``broken`` says of files why they could not be read, ``passed_over`` counts files without such records. A record
    that cannot be shown is named there, and to ``failed`` with the reason; the others go on. The page is written
    atomically.

    Raises: ArgumentError where there is no record, or one without ``to_frame``; RecordError where none can be shown.
    """
    hidden = [name for name, record in records.items() if not hasattr(record, "to_frame")]
    if hidden or not records:
        raise ArgumentError("one record or more that can be shown as a table", ", ".join(hidden) or "none")
    shown, odd = _shown(records)
    for name, why in odd.items():
        failed(name, why)
    if not shown:
        raise RecordError("one record or more that can be shown", "; ".join(f"{name}: {odd[name]}" for name in odd))
    number, room = count(1), ROOM
    sections: list[tuple[str, Body]] = []
    contents: list[str] = []
    for kind, named in _grouped({name: record for name, (record, _) in shown.items()}).items():
        body: list[Body] = [prose(kind.about)]
        links = []
        for label, (name, record) in zip(
            [one_line(each, HEADING) for each in _labels(named)], named.items(), strict=True
        ):
            anchor = f"record-{next(number)}"
            links.append(f'<a href="#{anchor}">{escaped(label)}</a>')
            parts = shown[name][1]
            room -= sum(len(figure.to_json()) for figure in _figures(parts))
            fitting = parts if room > 0 else _without_figures(parts)
            heading = f'<h3 id="{anchor}">{escaped(label)}</h3>'
            body += [heading, *fitting, _folded("Where these numbers come from", _provenance(name, record))]
        sections.append((kind.heading, body))
        contents.append(f"<dt>{escaped(kind.heading)}</dt><dd>{' · '.join(links)}</dd>")
    first = [STYLE, f"<nav><dl>{''.join(contents)}</dl></nav>", *_aside({**(broken or {}), **odd}, passed_over)]
    return write_page(path, title, [("Contents", first), *sections])


def _shown(records: Mapping[str, Record]) -> tuple[dict[str, tuple[Record, list[Body]]], dict[str, str]]:
    """Each record, its texts as they can be shown, with its parts; and why some have none."""
    found, odd = {}, {}
    for name, each in records.items():
        try:
            record = _visible(each)
            found[name] = record, _kind(record).parts(record)
            _about(name, record), _provenance(name, record)
        except Exception as error:  # whatever an odd record leads to is that record's own
            found.pop(name, None)
            odd[name] = one_line(f"{type(error).__name__}: {error}", HEADING)
    return found, odd


def _visible(value: Any) -> Any:
    """A record, or what is in one, with texts that can be shown."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {_visible(name): _visible(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        made_of: Any = getattr(value, "_make", type(value))  # a NamedTuple takes its fields one by one
        return made_of(map(_visible, value))
    if isinstance(value, Record):
        return replace(value, **{each.name: _visible(getattr(value, each.name)) for each in fields(value)})
    return value


def _kind(record: Record) -> Kind:
    return next(kind for kind in KINDS if isinstance(record, kind.of))


def _grouped(records: Mapping[str, Record]) -> dict[Kind, dict[str, Record]]:
    """The records of each kind that there is, in the order of kinds."""
    found: dict[Kind, dict[str, Record]] = {kind: {} for kind in KINDS}
    for name, record in records.items():
        found[_kind(record)][name] = record
    return {kind: named for kind, named in found.items() if named}


def _labels(records: Mapping[str, Record]) -> list[str]:
    """What each record is about; where two are about the same, their files, which may say it themselves."""
    about = {name.removesuffix(".safetensors"): _about(name, record) for name, record in records.items()}
    several = Counter(about.values())
    return [
        each if several[each] == 1 else file if each in file else f"{each} ({file})" for file, each in about.items()
    ]


def _about(name: str, record: Record) -> str:
    """The tasks of a record, those that a run learned, or its file's name."""
    tasks = [getattr(record, "task", ""), *getattr(record, "tasks", ())]
    if isinstance(record, TrainingRun):
        tasks += dict.fromkeys(row["ability"] for row in record.measured if row.get("role") == "new")
    tasks = [str(task) for task in tasks if str(task).strip()]
    return (", ".join(tasks) if len(tasks) <= 4 else f"{len(tasks)} tasks") or PurePath(name).stem


def _figures(body: Body) -> Iterator[go.Figure]:
    if isinstance(body, go.Figure):
        yield body
    for part in body if isinstance(body, list) else ():
        yield from _figures(part)


def _without_figures(body: Any) -> Any:
    if isinstance(body, list):
        return [_without_figures(part) for part in body]
    return prose(LEFT_OUT) if isinstance(body, go.Figure) else body


def _provenance(name: str, record: Record) -> str:
    """File, class and provenance of a record; of the key that it is kept under only what is said nowhere else."""
    frame = facts_frame({"file": visible(name), "record": type(record).__name__, **record.provenance})
    rows = [*zip(frame["fact"], frame["value"], strict=True)]
    new = [not fact.startswith(KEY) or (fact.removeprefix(KEY), value) not in rows for fact, value in rows]
    return frame_table(frame[new])


def _aside(broken: Mapping[str, str], passed_over: int) -> list[str]:
    """What is not in the report, and why."""
    said = []
    if passed_over:
        files = f"{passed_over} safetensors file{'s' * (passed_over != 1)}"
        said.append(
            prose(f"Passed over: {files} without a record to show (weights, states, arrays, measures of a comparison).")
        )
    if broken:
        frame = pd.DataFrame({"file": [*map(visible, broken)], "why": [*map(visible, broken.values())]})
        said.append(frame_table(frame, "Could not be shown"))
    return said


def _folded(name: str, content: str) -> str:
    return f"<details><summary>{escaped(name)}</summary>{content}</details>"
