"""Record of a training run: losses by step, and abilities as they were measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from .html import block, line, note, table
from .store import Record

EARLIER_NAMES = {"hits": "correct"}  # of rows in saved files


@dataclass(frozen=True, eq=False)
class TrainingRun(Record):
    """What a run logged.

    Args:
        values: [step, column], for the steps 0, 1, ...
        columns: what is logged per step: the loss and its unweighted terms in nats (``consistency`` in the squared unit
            of activations), ``learning_rate``, ``gradient_norm``, ``seconds``.
        measured: one mapping per ability and measurement: ``step`` (steps taken so far), ``role`` ("new" or "keep"),
            and what ``training.measure`` returns.
        stopped: why a run ended early.

    Example:
        >>> import torch
        >>> iv.TrainingRun(torch.tensor([[2.5], [2.0]]).double(), ("loss",)).to_frame()["loss"].tolist()
        [2.5, 2.0]
    """

    values: Float[Tensor, "step column"]
    columns: tuple[str, ...] = field(metadata={"axis": "column"})
    measured: tuple[dict[str, Any], ...] = ()
    stopped: str = ""

    @classmethod
    def _unpack(cls, prefix: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Self:
        run = super()._unpack(prefix, tensors, facts)
        rows = ({EARLIER_NAMES.get(name, name): value for name, value in row.items()} for row in run.measured)
        return replace(run, measured=tuple(rows))

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.values)

    def to_frame(self) -> pd.DataFrame:
        """One row per step: step, loss, each term, learning_rate, gradient_norm, seconds."""
        frame = pd.DataFrame(self.values.numpy(), columns=list(self.columns))
        frame.insert(0, "step", range(len(frame)))
        return frame

    def abilities(self) -> pd.DataFrame:
        """One row per ability and measurement."""
        return pd.DataFrame(list(self.measured))

    def final(self) -> pd.DataFrame:
        """One row per ability, as last measured."""
        frame = self.abilities()
        return frame if frame.empty else frame[frame["step"] == frame["step"].max()].reset_index(drop=True)

    def _repr_html_(self) -> str:
        """What a notebook shows: the loss by step, and each ability from its first to its last measurement."""
        parts = []
        if self.steps and "loss" in self.columns:
            loss = self.values[:, self.columns.index("loss")].tolist()
            said = f"loss in nats, from {loss[0]:.3g} to {loss[-1]:.3g}"
            parts = [f"<div>{line(loss, said, size=(360, 64))}</div>", note(said)]
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        steps += f"; stopped: {self.stopped}" if self.stopped else ""
        return block("TrainingRun", steps, *parts, self._abilities_table())

    def _abilities_table(self) -> str:
        """One row per ability: its accuracy as a line, the first value, and the last."""
        rows, frame = [], self.abilities()
        if not {"ability", "accuracy"} <= {*frame}:
            return ""
        known = [each for each in ("role", "low", "high", "n", "cosine") if each in frame]
        for name, found in frame.groupby("ability", sort=False):
            accuracy = found["accuracy"].astype(float).tolist()
            drawn = line(accuracy, f"{name}: accuracy, 0 to 1", limits=(0, 1))
            rows.append([name, drawn, accuracy[0], accuracy[-1], *found[known].iloc[-1].tolist()])
        return table(["ability", "accuracy", "first", "last", *known], rows)
