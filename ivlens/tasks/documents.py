"""JSON documents, which say more of a task than its rows: each is recognised by its fields."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import TaskError, brief, few
from .judging import read_scoring
from .row_formats import Fields, RowFormat, format_of
from .source import Parsed, Rows, Source
from .tables import numbered, of_columns
from .values import is_missing

ABOUT = ("name", "kind", "instructions", "labels", "cloze")
OWN = ("input", "output", "options", "instruction", "history")
OWN_ROWS = RowFormat(
    "ivlens", OWN[:2], Fields("input", "output", ("options",), None, "instruction", "history"), OWN[2:], names="text"
)


def read_mapping(source: Source) -> Parsed | None:
    """{input: answer}, or a mapping of columns by name."""
    if source.suffix == ".jsonl" or not isinstance(source.payload, dict):
        return None
    return of_mapping(source.payload, source.origin, not source.mapping)


def of_mapping(mapping: dict[Any, Any], origin: str, named: bool) -> Parsed | None:
    """A mapping of inputs to answers, such as {word: translation}, or of columns; None for other mappings.

    A mapping of fewer than three entries could also be a row. ``named``: the user names columns.

    Raises: TaskError where it could be either.
    """
    if (table := of_columns(mapping, origin, named)) is not None or named:
        return table
    texts = all(isinstance(each, (str, int, float)) for each in mapping.values())
    lists = all(isinstance(each, list) and each and isinstance(each[0], str) for each in mapping.values())
    if len(mapping) < 3 or not (texts or lists) or mapping.keys() <= {*ABOUT} or (lists and "examples" in mapping):
        return None
    format = format_of(mapping)
    if lists and format:
        raise TaskError(f"{origin} to be a list of rows", f"columns {few(mapping)}", "pass rows, or a pandas.DataFrame")
    words = () if format is None else format.has
    note = f"{origin} was read as {len(mapping):,} pairs, the words {words} among them, not as one row"
    pairs = ((f"entry {brief(pair[0])} of {origin}", pair) for pair in mapping.items())
    return Parsed(pairs, notes=(note,) if words else (), name="a mapping of inputs to answers")


def read_natural_instructions(source: Source) -> Parsed | None:
    """Super-NaturalInstructions; its other fields describe how the task was made."""
    if not isinstance(source.payload, dict) or "Instances" not in source.payload:
        return None
    definition = source.payload.get("Definition")
    return Parsed(
        _without_id(numbered(source.payload["Instances"], source.origin, "Instances")),
        {} if definition is None else {"instructions": definition},
        demonstrations=_positive(source.payload.get("Positive Examples"), source.origin),
    )


def _without_id(rows: Rows) -> Rows:
    for where, row in rows:
        yield where, {name: row[name] for name in row if name != "id"} if isinstance(row, Mapping) else row


def _positive(rows: Any, origin: str) -> Iterator[tuple[str, Any]]:
    """The positive examples that are whole, without their explanations."""
    for at, row in enumerate(rows if isinstance(rows, list) else [], 1):
        pair = {name: row.get(name) for name in ("input", "output")} if isinstance(row, Mapping) else {}
        if pair and not any(map(is_missing, pair.values())):
            yield f"row {at} of field 'Positive Examples' of {origin}", pair


def read_squad(source: Source) -> Parsed | None:
    """SQuAD's own files: articles with paragraphs, and questions on each of them."""
    articles = source.payload.get("data") if isinstance(source.payload, dict) else None
    first = articles[0] if isinstance(articles, list) and articles else None
    if not isinstance(first, Mapping) or "paragraphs" not in first:
        return None
    return Parsed(_questions(articles, source.origin), name="articles with paragraphs")


def _questions(articles: Any, origin: str) -> Rows:
    """The questions, each with its paragraph; what else is said of them is not read."""
    paragraphs = (each for article in articles for each in _listed(article, "paragraphs", origin))
    questions = ((each, asked) for each in paragraphs for asked in _listed(each, "qas", origin))
    for number, (paragraph, asked) in enumerate(questions, 1):
        if not isinstance(asked, Mapping):
            raise TaskError(f"question {number} of {origin} to be an object with fields", brief(asked))
        row = {"context": paragraph.get("context")}
        yield f"question {number} of {origin}", row | {name: asked.get(name) for name in ("question", "answers")}


def _listed(holder: Any, name: str, origin: str) -> list[Any]:
    value = holder.get(name) if isinstance(holder, Mapping) else None
    if not isinstance(value, list):
        raise TaskError(f"objects with a list {name!r} in {origin}", brief(holder))
    return value


def read_big_bench(source: Source) -> Parsed | None:
    """BIG-bench: its prefix is the instruction, and what stands before inputs and outputs their labels.

    Its other fields describe how the task was made.
    """
    facts = source.payload
    if not isinstance(facts, dict) or not {"examples", "keywords"} <= facts.keys():
        return None
    about: dict[str, Any] = {"name": facts.get("name")}
    about["instructions"] = facts["task_prefix"] if not is_missing(facts.get("task_prefix")) else None
    prefixes = [facts.get(f"example_{each}_prefix") for each in ("input", "output")]
    labels = [each.strip().removesuffix(":") for each in prefixes if isinstance(each, str)]
    about["labels"] = labels if len({*labels} - {""}) == 2 else None
    about = {name: value for name, value in about.items() if value is not None}
    return Parsed(numbered(facts["examples"], source.origin, "examples"), about)


def read_examples(source: Source) -> Parsed | None:
    """ivlens' own format, and others with a list of ``examples``, or a mapping of numbers to them (induction)."""
    if not isinstance(source.payload, dict) or "examples" not in source.payload:
        return None
    about = {key: source.payload[key] for key in ABOUT if source.payload.get(key) is not None}
    if source.payload.get("scoring") is not None:
        about["scoring"] = read_scoring(source.payload["scoring"], source.origin)
    rows = source.payload["examples"]
    others = [key for key in source.payload if key not in (*ABOUT, "scoring", "examples")]
    if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
        others = [key for key in others if key != "metadata"]
        rows = list(rows.values())
    notes = (f"fields of {source.origin} were not read: {few(map(brief, others))}",) if others else ()
    first = rows[0] if isinstance(rows, list) and rows else None
    own = isinstance(first, list) or (isinstance(first, dict) and first.keys() >= {*OWN[:2]})
    numbered_rows = numbered(rows, source.origin, "examples")
    return Parsed(numbered_rows, about, notes, OWN_ROWS if own and source.mapping else None)
