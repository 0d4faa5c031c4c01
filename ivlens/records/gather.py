"""Records read as the class that their files name: one file, or all files of folders."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..errors import ArgumentError, IvlensError, RecordError, reason
from ..tensor_files import load_facts
from ..text import visible
from .checkpoints import CheckpointComparison
from .patching import CheckpointPatching
from .store import EARLIER_KINDS, Record

SUFFIX = ".safetensors"
MEASURES = "measures"  # the folder beside a comparison with the measures that it was made from
ELSEWHERE = {"InstructionVector": "ivlens.vectors"}  # records of later packages, imported when needed


def load_record(path: str | Path) -> Record:
    """Read the record at ``path`` as the class that its file names.

    Raises:
        RecordError: the file is missing or cannot be read, or holds no record or one of an unknown class.
    """
    path = Path(path)
    name = class_name(path)
    if name is None:
        raise RecordError(f"an ivlens record in {path}", "another safetensors file", "save one with record.save(path)")
    if name in ELSEWHERE:
        import_module(ELSEWHERE[name])
    kind = next((each for each in _kinds(Record) if each.__name__ == name), None)
    if kind is None:
        raise RecordError(f"a record of a known class in {path}", f"a {name}", "read it with the ivlens that wrote it")
    return kind.load(path)


@dataclass(frozen=True)
class Gathered:
    """Records that can be shown as tables, by the names of their files, and the other files.

    ``passed_over`` are safetensors files without such a record (weights, states, arrays, measures of a comparison that
    was itself found); ``broken`` says why a file could not be read. Names are paths relative to their common folder.
    """

    records: dict[str, Record]
    passed_over: tuple[str, ...]
    broken: dict[str, str]


def gather_records(paths: Sequence[str | Path]) -> Gathered:
    """Read record files, and all safetensors files in folders and subfolders.

    Files and subfolders that cannot be read are named in ``broken``.

    Raises:
        ArgumentError: no path.
        RecordError: a path that does not exist.
    """
    given = [Path(path) for path in paths]
    if not given:
        raise ArgumentError("one record file or folder, or more", "none")
    if missing := [str(path) for path in given if not path.exists()]:
        raise RecordError("saved records, or folders of them", f"{', '.join(missing)}: no such file or folder")
    top = os.path.commonpath([_absolute(path if path.is_dir() else path.parent) for path in given])
    records: dict[Path, Record] = {}
    others: list[Path] = []
    files, broken = find_files(given)
    for path in files:
        try:
            record = None if class_name(path) is None else load_record(path)
            if to_frame := getattr(record, "to_frame", None):
                to_frame()  # fields that are valid one by one may not make a table together
        except IvlensError as error:
            broken[path] = str(error).replace(str(path), path.name)
            continue
        except Exception as error:  # a malformed file may raise anything; the others are still read
            broken[path] = reason(error)
            continue
        if record is not None and hasattr(record, "to_frame"):
            records[path] = record
        else:
            others.append(path)
    measured = (CheckpointComparison, CheckpointPatching)
    measures = {path.parent / MEASURES for path, record in records.items() if isinstance(record, measured)}
    others += [path for path in records if path.parent in measures]

    def name(path: Path) -> str:
        return visible(path.relative_to(top).as_posix())

    return Gathered(
        {name(path): record for path, record in records.items() if path.parent not in measures},
        tuple(sorted(map(name, others))), {name(path): visible(why) for path, why in broken.items()},
    )  # fmt: skip


def find_files(given: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Each file once: the given files, and the safetensors files in folders and subfolders, sorted by name.

    Returns the files, and why folders could not be read.
    """
    found: list[Path] = []
    unread: dict[Path, str] = {}

    def note(error: OSError) -> None:
        unread[_absolute(Path(error.filename))] = error.strerror or str(error)

    for path in given:
        if path.is_dir():
            names = (Path(folder, name) for folder, _, files in os.walk(path, onerror=note) for name in files)
            found += sorted(each for each in names if each.suffix == SUFFIX)
        else:
            found.append(path)
    return list(dict.fromkeys(_absolute(path) for path in found if path.is_file())), unread


def _absolute(path: Path) -> Path:
    """The absolute path, without following links."""
    return Path(os.path.abspath(path))


def class_name(path: Path) -> str | None:
    """The class that a file's header names, by its present name; None for a safetensors file without a record."""
    name = load_facts(path).get("record")
    return None if name is None else EARLIER_KINDS.get(str(name), f"{name!s:.60}")


def _kinds(of: type[Record]) -> Iterator[type[Record]]:
    """All classes of records that are defined, in any package."""
    for kind in of.__subclasses__():
        yield kind
        yield from _kinds(kind)
