"""Record of a training run: its terms step by step, and what became of abilities on the way."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from .html import block, line, note, table
from .store import Record


@dataclass(frozen=True, eq=False)
class TrainingRun(Record):
    """What a run logged.

    ``values`` is [step, column]: for the steps ``0, 1, ...`` the columns named by ``columns`` (the loss and its terms
    in nats, learning rate, gradient norm, seconds). ``measured`` holds one mapping for each ability and time of
    measuring: step (how many had been taken), ability, role ("new" or "keep"), accuracy with its 95% interval,
    probabilities, n, and, for abilities with a base vector, ``cosine`` and ``norm_ratio`` of the vector from the same
    heads now, and ``alignment`` of the hidden state with the base's vector. ``stopped`` says why a run ended early.
    """

    values: Float[Tensor, "step column"]
    columns: tuple[str, ...] = field(metadata={"axis": "column"})
    measured: tuple[dict[str, Any], ...] = ()
    stopped: str = ""

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.values)

    def to_frame(self) -> pd.DataFrame:
        """One row a step: step, loss, each term, learning_rate, gradient_norm, seconds."""
        frame = pd.DataFrame(self.values.numpy(), columns=list(self.columns))
        frame.insert(0, "step", range(len(frame)))
        return frame

    def abilities(self) -> pd.DataFrame:
        """One row for each ability and time of measuring."""
        return pd.DataFrame(list(self.measured))

    def final(self) -> pd.DataFrame:
        """One row an ability, as last measured."""
        frame = self.abilities()
        return frame if frame.empty else frame[frame["step"] == frame["step"].max()].reset_index(drop=True)

    def _repr_html_(self) -> str:
        """What a notebook shows: the loss step by step, and each ability from the first to the last measure."""
        parts = []
        if self.steps and "loss" in self.columns:
            loss = self.values[:, self.columns.index("loss")].tolist()
            said = f"loss in nats, from {loss[0]:.3g} to {loss[-1]:.3g}"
            parts = [f"<div>{line(loss, said, size=(360, 64))}</div>", note(said)]
        steps = f"{self.steps} step{'s' * (self.steps != 1)}{f'; stopped: {self.stopped}' * bool(self.stopped)}"
        return block("TrainingRun", steps, *parts, self._abilities_table())

    def _abilities_table(self) -> str:
        """One row an ability: its accuracy as a line over the times of measuring, the first, and the last."""
        rows, frame = [], self.abilities()
        if not {"ability", "accuracy"} <= {*frame}:
            return ""
        known = [each for each in ("role", "low", "high", "n", "cosine") if each in frame]
        for name, found in frame.groupby("ability", sort=False):
            accuracy = found["accuracy"].astype(float).tolist()
            drawn = line(accuracy, f"{name}: accuracy, 0 to 1", limits=(0, 1))
            rows.append([name, drawn, accuracy[0], accuracy[-1], *found[known].iloc[-1].tolist()])
        return table(["ability", "accuracy", "first", "last", *known], rows)
