"""Tasks from their built-in names, from files, and from rows."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import Any

from ..checks import checked
from ..errors import ArgumentError, TaskError, at_least, brief
from ..text import did_you_mean
from .builtin import list_tasks, read_builtin
from .readers import Parsed, Source, class_names, numbered, of_mapping, parse, read_text
from .rows import Columns, RowReader
from .task import Task
from .yaml_tasks import is_task_file, read_task_file


@checked
def load_task(
    source: Any,
    *,
    name: str | None = None,
    instructions: str | list[str] | tuple[str, ...] | None = None,
    labels: Columns | None = None,
    cloze: str | None = None,
    fields: Sequence[str] | None = None,
) -> Task:
    """A built-in task by its name, or a task from a file or from rows.

    Files: ivlens' own JSON, JSON lists of ``{"input", "output"}`` (function vectors), Super-NaturalInstructions, TRACE
    (``{"prompt", "answer"}``; rows with an empty answer are skipped with a warning), JSON lines, CSV and TSV with a
    header, JSON mappings of inputs to answers, and YAML task files of lm-evaluation-harness (``tasks.as_written`` is
    the format that writes their own texts). Several answers to one input are all accepted. A column
    ``instruction`` with the same text in every row is the task's instruction. Other columns are ignored with a warning,
    or are an error where an answer depends on them (choices, context, one instruction per row), unless ``fields`` names
    the columns to read. Class numbers of a Dataset become class names.

    Args:
        source: a built-in name, a path, or rows: dicts, pairs, a frame, a Hugging Face Dataset, a mapping of inputs to
            answers.
        name: the task's name.
        instructions: one instruction, or paraphrases of it.
        labels: names of the input and the output in a prompt.
        cloze: a text with one ``{input}`` that asks for the same knowledge without an instruction.
        fields: names of the columns with the input and the answers, if they are other ones.

    Returns:
        The task; ``name``, ``instructions``, ``labels`` and ``cloze`` override the source.

    Raises:
        TaskError: naming the file, the row or line, and the field where something is missing or malformed.
        ArgumentError: ``fields`` that are not two names.

    Example:
        >>> iv.load_task("country-capital").name
        'country-capital'
        >>> len(iv.load_task([("hot", "cold"), ("big", "small")], name="opposites").examples)
        2
    """
    if fields is not None and (len(fields) != 2 or fields[0] == fields[1]):
        raise ArgumentError("fields to be the names of two columns, of the input and of the answers", brief(fields))
    options = {"name": name, "instructions": instructions, "labels": labels, "cloze": cloze}
    overrides: dict[str, Any] = {field: value for field, value in options.items() if value is not None}
    if isinstance(source, str) and source in list_tasks():
        return replace(Task(**read_builtin(source), source="ivlens"), **overrides)
    if is_task_file(source):
        return _task_of_file(source, fields, overrides)
    if isinstance(source, (str, Path)):
        path = Path(expanduser(source))
        origin, called = str(path), path.stem
        parsed = parse(Source(_read(source, path), origin, path.suffix.lower(), mapping=fields is None))
    else:
        origin, called = "the given rows", "custom"
        pairs = of_mapping(source, origin) if isinstance(source, dict) and fields is None else None
        parsed = pairs or Parsed(numbered(source, origin))
    columns = None if fields is None else (fields[0], fields[1])
    reader = RowReader(origin, columns, class_names(source))
    reader.read(parsed.rows)
    if reader.instruction is not None and "instructions" in parsed.about:
        raise TaskError(f"{origin} to say its instruction once", "one in its rows and another one beside them")
    about = {} if reader.instruction is None else {"instructions": reader.instruction}
    for note in (*parsed.notes, *reader.notes()):
        warnings.warn(note, stacklevel=3)
    facts = {"name": called, **about, **parsed.about, **overrides}
    return Task(**facts, examples=reader.examples, source=origin)


def _task_of_file(source: str | Path, fields: Sequence[str] | None, overrides: dict[str, Any]) -> Task:
    """The task of a YAML file of lm-evaluation-harness."""
    if fields is not None:
        raise ArgumentError("fields= for rows with columns", f"{brief(str(source))}, which says what is read of them")
    path = Path(expanduser(source))
    if not path.is_file():
        raise TaskError("a YAML file that exists", brief(str(source)))
    facts, notes = read_task_file(path)
    for note in notes:
        warnings.warn(note, stacklevel=4)
    return Task(**facts | overrides)


def _read(source: str | Path, path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError as error:
        question = did_you_mean(str(source), list_tasks())
        raise TaskError(
            "a file that exists, or the name of a built-in task",
            brief(str(source)),
            f"{question} The built-in tasks are: {', '.join(list_tasks())}".strip(),
        ) from error
    except (OSError, ValueError) as error:
        raise TaskError(f"a file that can be read at {brief(str(source))}", str(error)) from error


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
