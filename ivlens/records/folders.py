"""Whose results a folder holds: those of one command, which another does not mix with its own."""

from pathlib import Path

from ..errors import RecordError

# Files that only this command leaves in its folder; a repair also leaves the record of a comparison.
FILES = {
    "repair": ("repair.safetensors",),
    "continual": ("continual.safetensors", "continual.html"),
    "compare": ("comparison.safetensors",),
    "train": ("run.safetensors", "state.safetensors"),
}


def check_folder(folder: Path | None, command: str) -> None:
    """Raise RecordError where a folder holds the results of another command than this one."""
    if folder is None:
        return
    owners = [name for name, files in FILES.items() if any((folder / file).exists() for file in files)]
    if owners and owners[0] != command:
        raise RecordError(
            f"a new or empty folder, or one of 'ivlens {command}', at {folder}",
            f"one with results of 'ivlens {owners[0]}'", "choose another folder",
        )  # fmt: skip
