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
            if "ability" in row and row["step"] <= step and (step or row["step"]):
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

    def run(self, stopped: str, provenance: dict[str, Any]) -> TrainingRun:
        """The record of all lines."""
        columns = tuple(name for name in (self.steps[0] if self.steps else {}) if name != "step")
        values = torch.tensor([[row[name] for name in columns] for row in self.steps], dtype=torch.float64)
        return TrainingRun(
            values.reshape(len(self.steps), len(columns)), columns, tuple(self.measured), stopped, provenance=provenance
        )

    def _write(self, row: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            warnings.warn(f"ivlens: {self.path} cannot be written ({error}); training goes on", stacklevel=2)
