"""Data-parallel training: every process takes its part of each step's prompts, and all take the same step."""

import atexit
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError

LONGEST_WAIT = timedelta(days=1)  # while the first process measures or writes


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and the number of this one; only the first measures and writes."""

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this process measures, and writes files."""
        return self.rank == 0

    def check(self, guidance: Iterable[Any]) -> None:
        """Raise ArgumentError where several processes have terms whose losses are defined for a whole step only."""
        if self.count > 1 and any(term.whole_step for term in guidance):
            raise ArgumentError("one process for floors, which hold for a whole step", f"{self.count}", "fv has none")

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every parameter the sum of all processes' gradients; a process may have none of its own."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def sum_values(self, names: Iterable[str], values: Mapping[str, float]) -> dict[str, float]:
        """The sum of all processes' values of these names, of those that one process has at least."""
        if self.count == 1:
            return dict(values)
        names = [*names]
        pairs = [(values.get(name, 0.0), float(name in values)) for name in names]
        total = torch.tensor(pairs, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(total)
        return {name: value for name, (value, having) in zip(names, total.tolist(), strict=True) if having}

    def largest(self, value: int) -> int:
        """The largest of all processes' values."""
        if self.count == 1:
            return value
        found = torch.tensor(value, device=self._device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found.item())

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.largest(0)

    @property
    def _device(self) -> str:
        """Where values that processes exchange lie."""
        return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"


ALONE = Processes(0, 1)


def joined_processes() -> Processes:
    """The processes that ``accelerate launch`` started, this one among them; else this one alone.

    Raises:
        ArgumentError: several processes were started, but accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    try:
        from accelerate import PartialState
    except ImportError:
        raise ArgumentError(
            "accelerate, to train in several processes", "no such package", "pip install accelerate"
        ) from None
    if not torch.distributed.is_initialized():
        atexit.register(_leave)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    return Processes(state.process_index, state.num_processes)


def _leave() -> None:
    """Leave the other processes in order: threads that still wait for them would end this one with an abort."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
