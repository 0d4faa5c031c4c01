"""A run's log: one JSON line a step and one for each ability measured, kept on disk as they come."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from ..errors import RecordError
from ..records import TrainingRun, write_text


class Log:
    """Lines of a run, in ``folder/log.jsonl`` where there is a folder, which is made.

    Raises:
        RecordError: the folder cannot be made.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / "log.jsonl"
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RecordError(f"to write into {folder}", f"{error}", "choose a folder to write to") from error
        self.steps: list[dict[str, float]] = []
        self.measured: list[dict[str, Any]] = []

    def resume(self, step: int) -> None:
        """Keep the lines of the first ``step`` steps; those after the state that a run resumes from are made again."""
        if self.path is None:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # the line at which an earlier process was killed
                continue
            if "ability" in row and row["step"] <= step:
                self.measured.append(row)
            elif "loss" in row and row["step"] < step:
                self.steps.append(row)
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in [*self.steps, *self.measured]))

    def step(self, row: dict[str, float]) -> None:
        """Add a step's terms."""
        self.steps.append(row)
        self._write(row)

    def ability(self, row: dict[str, Any]) -> None:
        """Add a measured ability."""
        self.measured.append(row)
        self._write(row)

    def has(self, step: int, ability: str) -> bool:
        """Whether the ability was measured after so many steps."""
        return any((row["step"], row["ability"]) == (step, ability) for row in self.measured)

    def run(self, steps: int, abilities: set[str], stopped: str, provenance: dict[str, Any]) -> TrainingRun:
        """The record of so many steps and of these abilities; steps whose lines were lost are not a number."""
        columns = tuple(name for name in (self.steps[0] if self.steps else {}) if name != "step")
        values = torch.full((steps, len(columns)), torch.nan, dtype=torch.float64)
        for row in self.steps:
            values[int(row["step"])] = torch.tensor([row[name] for name in columns], dtype=torch.float64)
        if lost := steps - len(self.steps):
            warnings.warn(f"ivlens: {lost} of {steps} steps are missing in {self.path}", stacklevel=3)
        measured = sorted((row for row in self.measured if row["ability"] in abilities), key=lambda row: row["step"])
        return TrainingRun(values, columns, tuple(measured), stopped, provenance=provenance)

    def _write(self, row: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab+") as file:
                if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # after a line that a full disk cut off
                file.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            warnings.warn(f"ivlens: {self.path} cannot be written ({error}); training goes on", stacklevel=2)
