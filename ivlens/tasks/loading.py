"""Tasks from their built-in names, from files, and from rows."""

import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from os.path import expanduser
from pathlib import Path
from typing import Any

from ..checks import checked
from ..errors import ArgumentError, TaskError, at_least, brief
from ..text import did_you_mean
from ..vocabulary import Split
from .builtin import list_tasks, read_builtin
from .documents import of_mapping
from .examples import Example
from .folders import split_files
from .judging import Scoring
from .readers import parse
from .row_formats import Fields
from .rows import RowReader
from .source import Parsed, Source, decoded, read_bytes
from .tables import class_names, is_parquet, numbered, read_parquet
from .task import Task
from .yaml_tasks import is_task_file, read_task_file


@dataclass(frozen=True)
class Reading:
    """A task, and how its source was read: the format, the number of rows, and what was left out."""

    task: Task
    format: str
    rows: int
    unanswered: int = 0
    unread: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()


@checked
def load_task(
    source: Any,
    *,
    name: str | None = None,
    instructions: str | list[str] | tuple[str, ...] | None = None,
    labels: tuple[str, str] | None = None,
    cloze: str | None = None,
    fields: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    scoring: Scoring | None = None,
) -> Task:
    """A built-in task by its name, or a task from a file or from rows.

    A format is recognised by its fields and shape: ivlens' own JSON, function vectors, Super-NaturalInstructions,
    BIG-bench and BBH, instruction induction, conversations (OpenAI, ShareGPT), Alpaca, Dolly, multiple choice (MMLU,
    C-Eval, ARC, CommonsenseQA, HellaSwag, RACE, BoolQ), SQuAD, P3, FLAN, TRACE, prompt and completion, question and
    answer, and mappings of inputs to answers; in JSON, JSON lines, CSV, TSV, Parquet, any of them packed with gzip, or
    in memory; a folder with such a file for each split (train, possibly validation, test), which the task then has;
    and YAML task files of lm-evaluation-harness (``tasks.as_written`` is the format that writes their own texts).
    Several answers to one input are all accepted. An instruction that all rows share is the task's; else each example
    has its own. A context is written before the input, with a blank line between. Rows whose answer a test set hides
    are left out with a warning. Other columns are ignored with a warning, or are an error where an answer depends on
    them, unless ``fields`` names the columns to read. Class numbers of a Dataset become class names.

    Args:
        source: a built-in name, a path, or rows: dicts, pairs, a frame, a Hugging Face Dataset, a mapping of inputs to
            answers, or one of columns.
        name: the task's name.
        instructions: one instruction, or paraphrases of it.
        labels: names of the input and the output in a prompt.
        cloze: a text with one ``{input}`` that asks for the same knowledge without an instruction.
        fields: the columns of the input and the answers, or columns by what they are: "input", "answers", and
            possibly "options" (one column, or one per option), "context", "instruction" and "history".
        scoring: how answers are judged.

    Returns:
        The task; ``name``, ``instructions``, ``labels``, ``cloze`` and ``scoring`` override the source.

    Raises:
        TaskError: naming the file, the row or line, and the field where something is missing or malformed.
        ArgumentError: ``fields`` that name no input or answers, or one column twice.

    Example:
        >>> iv.load_task("country-capital").name
        'country-capital'
        >>> len(iv.load_task([("hot", "cold"), ("big", "small")], name="opposites").examples)
        2
        >>> rows = [{"stem": "2 + 2", "key": "4", "a": "3", "b": "4"}]
        >>> by_role = {"input": "stem", "answers": "key", "options": ["a", "b"]}
        >>> iv.load_task(rows, fields=by_role).examples[0].options
        ('3', '4')
    """
    overrides = {"name": name, "instructions": instructions, "labels": labels, "cloze": cloze, "scoring": scoring}
    reading = read_source(source, fields, {key: value for key, value in overrides.items() if value is not None})
    for note in reading.notes:
        warnings.warn(note, stacklevel=3)
    return reading.task


def read_source(
    source: Any, fields: Sequence[str] | Mapping[str, str | Sequence[str]] | None, overrides: Mapping[str, Any]
) -> Reading:
    """The task of a source, and how it was read; ``overrides`` are fields of the task. See ``load_task``."""
    if isinstance(source, str) and source in list_tasks():
        task = replace(Task(**read_builtin(source), source="ivlens"), **overrides)
        return Reading(task, "built in", len(task.examples))
    if is_task_file(source):
        return _task_of_file(source, fields, overrides)
    if (files := split_files(source)) is not None:
        return _task_of_folder(Path(expanduser(source)), files, fields, overrides)
    columns = None if fields is None else _fields(fields)
    if isinstance(source, (str, Path)):
        path = Path(expanduser(source))
        origin = str(path)
        called = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
        parsed = _parse_file(source, path, columns is None)
    else:
        origin, called = "the given rows", "custom"
        pairs = of_mapping(source, origin, columns is not None) if isinstance(source, dict) else None
        parsed = pairs or Parsed(numbered(source, origin), classes=class_names(source))
    reader = RowReader(origin, columns, parsed.classes, parsed.rows_format)
    reader.read(parsed.rows)
    if reader.instruction is not None and "instructions" in parsed.about:
        raise TaskError(f"{origin} to say its instruction once", "one in its rows and another one beside them")
    about = {} if reader.instruction is None else {"instructions": reader.instruction}
    examples = reader.examples
    more = _demonstrations(parsed, origin, reader, {example.asked for example in examples})
    facts = {"name": called, **about, **parsed.about, **overrides}
    task = Task(**facts, examples=examples, demonstrations=more, source=origin)
    kind = "" if reader.format is None else f"{reader.format.name} rows"
    format = f"{kind} in {parsed.name}" if parsed.name else kind
    notes = (*parsed.notes, *reader.notes())
    return Reading(task, format, reader.rows, reader.unanswered, tuple(reader.unread), notes)


def _demonstrations(parsed: Parsed, origin: str, reader: RowReader, known: Container[Any]) -> tuple[Example, ...]:
    """The examples of the source that are no queries, without those that are asked anyway."""
    more = RowReader(origin, None, {}, reader.format)
    rows = list(parsed.demonstrations)
    if rows:
        more.read(rows)
    return tuple(example for example in more.examples if example.asked not in known)


def _fields(fields: Sequence[str] | Mapping[str, str | Sequence[str]]) -> Fields:
    """The columns that ``fields`` names.

    Raises: ArgumentError where it names no input or answers, another role, or one column twice.
    """
    roles = [each.name for each in dataclass_fields(Fields)]
    if isinstance(fields, Mapping):
        named = dict(fields)
        options = named.pop("options", ())
        lists = [value for value in named.values() if not isinstance(value, str)]
        if lists or not {"input", "answers"} <= named.keys() <= {*roles}:
            expected = f"fields to name one column each of 'input' and 'answers', and of no role but {', '.join(roles)}"
            others = [role for role in named if role not in roles]
            raise ArgumentError(expected, brief(fields), did_you_mean(str(others[0]), roles) if others else "")
        found = Fields(**named, options=(options,) if isinstance(options, str) else tuple(options))  # type: ignore[arg-type]
    elif len(fields) == 2:
        found = Fields(fields[0], fields[1])
    else:
        expected = "fields to be the names of two columns, of the input and of the answers, or columns by role"
        raise ArgumentError(expected, brief(fields))
    if len({*found.columns}) < len(found.columns):
        raise ArgumentError("fields to be the names of different columns", brief(fields))
    return found


def _task_of_file(source: str | Path, fields: Any, overrides: Mapping[str, Any]) -> Reading:
    """The task of a YAML file of lm-evaluation-harness."""
    if fields is not None:
        raise ArgumentError("fields= for rows with columns", f"{brief(str(source))}, which says what is read of them")
    path = Path(expanduser(source))
    if not path.is_file():
        raise TaskError("a YAML file that exists", brief(str(source)))
    facts, notes = read_task_file(path)
    task = Task(**{**facts, **overrides})
    return Reading(task, "YAML task file of lm-evaluation-harness", len(task.examples), notes=tuple(notes))


def _task_of_folder(folder: Path, files: Mapping[Split, Path], fields: Any, overrides: Mapping[str, Any]) -> Reading:
    """The task of a folder with a file for each split; questions of "test" are left out of the others."""
    readings = {split: read_source(path, fields, overrides) for split, path in files.items()}
    first = readings["train"].task
    for split, each in readings.items():
        if each.task.instructions != first.instructions:
            expected = f"one instruction in all files of {folder}"
            raise TaskError(expected, f"others in {files[split].name} than in {files['train'].name}")
    examples: dict[Any, Example] = {}
    given = 0
    for split in ("test", "validation", "train"):
        for example in readings[split].task.examples if split in readings else ():
            given += 1
            examples.setdefault(example.key, replace(example, split=split))
    again = given - len(examples)
    notes = tuple(note for each in readings.values() for note in each.notes)
    notes += (
        (f"{again:,} examples of {folder} are in two splits, and left in the one nearer to the test",) if again else ()
    )
    task = replace(
        first, name=overrides.get("name", folder.name), examples=tuple(examples.values()), source=str(folder)
    )
    whole = f"a folder of splits: {readings['train'].format}"
    rows, unanswered = (sum(getattr(each, name) for each in readings.values()) for name in ("rows", "unanswered"))
    return Reading(task, whole, rows, unanswered, readings["train"].unread, notes)


def _parse_file(source: str | Path, path: Path, mapping: bool) -> Parsed:
    try:
        data = read_bytes(path)
    except FileNotFoundError as error:
        raise _no_such(str(source), path) from error
    except (OSError, ValueError) as error:
        raise TaskError(f"a file that can be read at {brief(str(source))}", str(error)) from error
    if is_parquet(data):
        return read_parquet(path, str(path))
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return parse(Source(decoded(data, path), str(path), suffix, mapping))


def _no_such(source: str, path: Path) -> TaskError:
    """The error for a name that is neither a file's nor a built-in task's, with what may be meant."""
    if path.parent != Path() or path.suffix:
        came = brief(source) if path.parent.is_dir() else f"{brief(source)}, and no such folder as {path.parent}"
        beside = [str(path.with_name(each.name)) for each in path.parent.glob("*")] if path.parent.is_dir() else []
        return TaskError("a file that exists, or the name of a built-in task", came, did_you_mean(str(path), beside))
    question = did_you_mean(source, list_tasks())
    known = f"{question} The built-in tasks are: {', '.join(list_tasks())}".strip()
    return TaskError("a file that exists, or the name of a built-in task", brief(source), known)


def as_tasks(tasks: Iterable[Task | str]) -> list[Task]:
    """The tasks, loading those given by name or path."""
    return [load_task(task) if isinstance(task, str) else task for task in tasks]


def tasks_by_name(tasks: Iterable[Task | str]) -> dict[str, Task]:
    """Two or more tasks by name, loading those given by name or path.

    Raises:
        ArgumentError: fewer than two tasks, or two of one name.
    """
    loaded = as_tasks(tasks)
    at_least("the number of tasks", len(loaded), 2)
    named = {task.name: task for task in loaded}
    if len(named) < len(loaded):
        raise ArgumentError("tasks with different names", ", ".join(task.name for task in loaded))
    return named
