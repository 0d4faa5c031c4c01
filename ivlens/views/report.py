"""Saved records of any kind as one page: contents, then a part per record with its figures, table and provenance."""

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
from ..records import Record, TrainingRun
from ..text import one_line, plural, visible
from .checkpoints.report import facts_frame
from .documents import HEADING_LENGTH, Body, write_page
from .markup import prose, render
from .sections import SECTIONS, Section, foldable, folded, section_of
from .tables import frame_table

FIGURES_LENGTH = 3_600_000  # characters of all figures; with plotly and the tables the page stays below 10 MB
LEFT_OUT = "A figure is left out: the page is full. A report of fewer records has it."
KEY = "key: "


class Part(NamedTuple):
    """A record in displayable form, what is shown of it, and where it comes from, as HTML."""

    record: Record
    bodies: list[Body]
    origin: str


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
    """Write records as one HTML page that works from disk without a network, atomically.

    Contents, then one part per record, grouped by kind: figures while the page has room, a table, and provenance to
    unfold. A record that cannot be shown is named on the page.

    Args:
        path: the file to write.
        records: records by the names of their files.
        title: plain text.
        broken: why files could not be read, by their names.
        passed_over: how many files hold no record to show.
        failed: called with the name of each record that cannot be shown and the reason.

    Returns:
        The path.

    Raises:
        ArgumentError: no record, or one without ``to_frame``.
        RecordError: no record can be shown.

    Example:
        >>> iv.views.write_report(tmp_path / "report.html", {"heads": effects}).name
        'report.html'
    """
    hidden = [name for name, record in records.items() if not hasattr(record, "to_frame")]
    if hidden or not records:
        raise ArgumentError("one record or more that can be shown as a table", ", ".join(hidden) or "none")
    parts, odd = _parts(records)
    odd = {name: odd[name] for name in records if name in odd}
    for name, why in odd.items():
        failed(name, why)
    if not parts:
        raise RecordError("one record or more that can be shown", "; ".join(f"{name}: {odd[name]}" for name in odd))
    contents, sections = _sections(parts)
    first = [render("contents.html", contents=contents), *_not_shown({**(broken or {}), **odd}, passed_over)]
    return write_page(path, title, [("Contents", first), *sections])


def _parts(records: Mapping[str, Record]) -> tuple[dict[str, Part], dict[str, str]]:
    """What is shown of each record, in the order of sections, with control characters made visible; and why some
    cannot be shown. Once the page is full, figures are not drawn."""
    parts, odd, room = {}, {}, FIGURES_LENGTH
    for name, each in sorted(records.items(), key=lambda named: SECTIONS.index(section_of(named[1]))):
        try:
            record = _visible(each)
            bodies = _drawn(section_of(record).parts(record), room > 0)
            length = sum(len(figure.to_json()) for figure in _figures(bodies))
            _about(name, record)
            part = Part(record, bodies if room > length else _drawn(bodies, False), _provenance(name, record))
        except Exception as error:  # a malformed record may raise anything; the others are still shown
            odd[name] = one_line(f"{type(error).__name__}: {error}", HEADING_LENGTH)
        else:
            parts[name] = part
            room -= length
    return parts, odd


def _sections(parts: Mapping[str, Part]) -> tuple[list[Any], list[tuple[str, Any]]]:
    """The headings with the links to their records, and the page's sections."""
    numbers = count(1)
    contents: list[Any] = []
    sections: list[tuple[str, Body]] = []
    for section, named in _grouped(parts).items():
        body: list[Body] = [prose(section.about)]
        links = []
        for label, part in zip(_labels(named), named.values(), strict=True):
            anchor = f"record-{next(numbers)}"
            links.append((anchor, label))
            body += foldable(label, 3, [*part.bodies, folded("Where these numbers come from", part.origin)], anchor)
        contents.append((section.heading, links))
        sections.append((section.heading, body))
    return contents, sections


def _visible(value: Any) -> Any:
    """A record, or a value in one, with control characters in texts made visible; itself where it has none."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {_visible(name): _visible(each) for name, each in value.items()} if _has_unseen(value) else value
    if isinstance(value, tuple | list):
        make = getattr(value, "_make", type(value))  # of a NamedTuple
        return make(map(_visible, value)) if _has_unseen(value) else value
    if isinstance(value, Record) and _has_unseen(value):  # else it keeps what it has computed
        return replace(value, **{each.name: _visible(getattr(value, each.name)) for each in fields(value)})
    return value


def _has_unseen(value: Any) -> bool:
    """Whether any text in a record, or in a value of one, has control characters."""
    if isinstance(value, str):
        return visible(value) != value
    if isinstance(value, Record):
        return any(_has_unseen(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, Mapping):
        return any(map(_has_unseen, value)) or any(map(_has_unseen, value.values()))
    return isinstance(value, tuple | list) and any(map(_has_unseen, value))


def _grouped(parts: Mapping[str, Part]) -> dict[Section, dict[str, Part]]:
    """The records by section, in the order of sections."""
    groups: dict[Section, dict[str, Part]] = {section: {} for section in SECTIONS}
    for name, part in parts.items():
        groups[section_of(part.record)][name] = part
    return {section: named for section, named in groups.items() if named}


def _labels(parts: Mapping[str, Part]) -> list[str]:
    """A label per record: what it is about, with its file's name where two would be the same."""
    about = {name.removesuffix(".safetensors"): _about(name, part.record) for name, part in parts.items()}
    several = Counter(about.values())
    labels = [
        each if several[each] == 1 else file if each in file else f"{each} ({file})" for file, each in about.items()
    ]
    return [one_line(label, HEADING_LENGTH) for label in labels]


def _about(name: str, record: Record) -> str:
    """The tasks of a record, the new tasks of a run, or the file's name."""
    tasks = [*dict.fromkeys([getattr(record, "task", ""), *getattr(record, "tasks", ())])]
    if isinstance(record, TrainingRun):
        tasks += dict.fromkeys(row["ability"] for row in record.measured if row.get("role") == "new")
    tasks = [str(task) for task in tasks if str(task).strip()]
    return (", ".join(tasks) if len(tasks) <= 4 else f"{len(tasks)} tasks") or PurePath(name).stem


def _figures(body: Body) -> Iterator[go.Figure]:
    if isinstance(body, go.Figure):
        yield body
    for part in body if isinstance(body, list) else ():
        yield from _figures(part)


def _drawn(body: Any, room: bool) -> Any:
    """A body with its figures drawn, or with what is said instead where there is no room."""
    if isinstance(body, list):
        return [_drawn(part, room) for part in body]
    if not isinstance(body, go.Figure) and not callable(body):
        return body
    if not room:
        return prose(LEFT_OUT)
    return body if isinstance(body, go.Figure) else body()


def _provenance(name: str, record: Record) -> str:
    """File, class and provenance of a record, with only those parts of its key that provenance does not repeat."""
    frame = facts_frame({"file": visible(name), "record": type(record).__name__, **record.provenance})
    rows = [*zip(frame["fact"], frame["value"], strict=True)]
    new = [not fact.startswith(KEY) or (fact.removeprefix(KEY), value) not in rows for fact, value in rows]
    return frame_table(frame[new])


def _not_shown(broken: Mapping[str, str], passed_over: int) -> list[str]:
    """What the report leaves out, and why."""
    parts = []
    if passed_over:
        files = plural(passed_over, "safetensors file")
        why = "without a record to show (weights, states, arrays, measures of a comparison)"
        parts.append(prose(f"Passed over: {files} {why}."))
    if broken:
        frame = pd.DataFrame({"file": [*map(visible, broken)], "why": [*map(visible, broken.values())]})
        parts.append(frame_table(frame, "Could not be shown"))
    return parts
