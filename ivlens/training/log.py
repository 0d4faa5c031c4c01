"""A run's log: one JSON line per step and one per ability measured, written to disk as they come.

The log on disk is for following a run. A resumed run takes its rows from its state; from the log it uses only complete
lines of this run, for measurements after the state was saved.
"""

import json
import warnings
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..files import write_text
from ..records import TrainingRun
from ..tensor_files import seal, unseal

Row = dict[str, Any]


class Log:
    """The rows of a run with the settings ``key``, also in ``folder/log.jsonl`` where there is a folder."""

    def __init__(self, folder: Path | None, key: Mapping[str, Any]) -> None:
        self.path = None if folder is None else folder / "log.jsonl"
        self.of = {"run": sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]}
        self.steps: list[Row] = []
        self.measured: dict[tuple[int, str], Row] = {}

    def resume(self, steps: list[Row], measured: list[Row]) -> None:
        """Continue after the steps and measurements of a state, and rewrite the log on disk accordingly.

        Raises:
            RecordError: the log cannot be written.
        """
        self.steps = steps
        self.measured = {(row["step"], row["ability"]): row for row in measured}
        if self.path is None:
            return
        text = self.path.read_bytes() if self.path.is_file() else b""
        rows = [unseal(line) for line in text.splitlines()]
        if rows and rows[-1] is None and not text.endswith(b"\n"):  # an earlier process was killed while writing it
            rows.pop()
        own = [row for row in rows if row and {**row, **self.of} == row]
        on_disk = {(row["step"], row.get("ability")) for row in own}
        expected = {*self.measured, *((row["step"], None) for row in self.steps)}
        if None in rows or not expected <= on_disk:
            warnings.warn(f"ivlens: {self.path} is damaged; it is put back from the state", stacklevel=2)
        if steps:  # rows of measurements after this state was saved
            late = [row for row in own if "ability" in row and row["step"] == len(steps)]
            self.measured |= {(row["step"], row["ability"]): _without(row, self.of) for row in late}
        lines = [seal(row | self.of) + "\n" for row in (*self.steps, *self.measured.values())]
        write_text(self.path, "".join(lines))

    def step(self, row: dict[str, float]) -> None:
        """Add a step's terms."""
        self.steps.append(row)
        self._write(row)

    def ability(self, row: Row) -> None:
        """Add a measured ability."""
        self.measured[row["step"], row["ability"]] = row
        self._write(row)

    def has(self, step: int, ability: str) -> bool:
        """Whether the ability was measured after ``step`` steps."""
        return (step, ability) in self.measured

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the values that are logged per step."""
        return tuple(name for name in (self.steps[0] if self.steps else {}) if name != "step")

    @property
    def values(self) -> Float[Tensor, "step column"]:
        """The columns of all steps."""
        rows = [[row[name] for name in self.columns] for row in self.steps]
        return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(self.columns))

    def run(self, abilities: set[str], stopped: str, provenance: dict[str, Any]) -> TrainingRun:
        """The record of all steps and of these abilities."""
        measured = sorted((row for row in self.measured.values() if row["ability"] in abilities), key=_step)
        return TrainingRun(self.values, self.columns, tuple(measured), stopped, provenance=provenance)

    def _write(self, row: Row) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab+") as file:
                if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # ends a line that a full disk truncated
                file.write(seal(row | self.of).encode() + b"\n")
        except OSError as error:
            warnings.warn(f"ivlens: {self.path} cannot be written ({error}); training goes on", stacklevel=2)


def _without(row: Row, names: Mapping[str, Any]) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _step(row: Row) -> int:
    return int(row["step"])
