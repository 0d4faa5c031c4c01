"""Data sets that come as a folder with a file for each split."""

from os.path import expanduser, isdir
from pathlib import Path
from typing import Any

from ..errors import TaskError
from ..vocabulary import SPLITS, Split

NAMES: dict[str, Split] = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "eval": "validation", "test": "test",
}  # fmt: skip
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


def split_files(source: Any) -> dict[Split, Path] | None:
    """The file of each split in a folder; None for anything but a folder with such files.

    Raises:
        TaskError: the folder has no file for training or test, or two for one split.
    """
    if not (isinstance(source, (str, Path)) and isdir(expanduser(source))):  # False also for an invalid path
        return None
    folder = Path(expanduser(source))
    found: dict[Split, Path] = {}
    for path in sorted(folder.iterdir()):
        name = Path(path.name.removesuffix(".gz"))
        split = NAMES.get(name.stem.lower())
        if split is None or name.suffix.lower() not in SUFFIXES:
            continue
        if split in found:
            raise TaskError(
                f"one file for {split!r} in {folder}", f"{found[split].name} and {path.name}", "move one away"
            )
        found[split] = path
    if not found:
        return None
    if not {"train", "test"} <= found.keys():
        names = ", ".join(path.name for path in found.values())
        raise TaskError(f"files for training and test in {folder}, as train.json and test.json", names)
    return {split: found[split] for split in SPLITS if split in found}
