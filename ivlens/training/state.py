"""A run's state on disk: weights that learn, optimiser, log; saved in one step, with the state before it as a spare."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import MismatchError, RecordError
from ..records import write_atomically

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
Named = list[tuple[str, Tensor]]


class Store:
    """The folder of a run, or nowhere; what is in it was made under ``key`` or is refused."""

    def __init__(self, folder: Path | None, key: Mapping[str, Any]) -> None:
        self.folder, self.key = folder, json.loads(json.dumps(key))

    @property
    def _names(self) -> tuple[Path, Path, Path]:
        assert self.folder is not None
        return tuple(self.folder / f"state{kind}.safetensors" for kind in ("", ".previous", ".new"))  # type: ignore[return-value]

    def save(self, step: int, parameters: Named, optimizer: torch.optim.Optimizer) -> None:
        """Save the state after so many steps; the one before it is kept beside it.

        Raises:
            RecordError: it cannot be written (a full disk); the states that are there stay.
        """
        if self.folder is None:
            return
        state, previous, new = self._names
        tensors = {f"weights.{name}": parameter for name, parameter in parameters}
        for name, parameter in parameters:
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"ivlens": json.dumps({"step": step, "key": self.key})}
        try:
            write_atomically(new, lambda temporary: save_file(plain, temporary, metadata=header))
            if state.exists():
                os.replace(state, previous)
            os.replace(new, state)
        except (OSError, SafetensorError) as error:
            raise RecordError(
                f"to save the state after step {step} in {self.folder}", f"{error}", "the state before it is kept"
            ) from error

    def load(self, parameters: Named, optimizer: torch.optim.Optimizer) -> int:
        """Put the last whole state into the parameters and the optimiser; return its number of steps, 0 without one.

        Raises:
            MismatchError: the state belongs to a run of other settings.
            RecordError: there are states, and none can be read.
        """
        if self.folder is None:
            return 0
        broken = []
        for path in self._names[:2]:
            if not path.exists():
                continue
            try:
                return self._read(path, parameters, optimizer)
            except (SafetensorError, KeyError, ValueError, OSError) as error:
                broken.append(f"{path.name}: {error}")
                warnings.warn(f"ivlens: {path} cannot be read ({error}); trying the state before it", stacklevel=2)
        if broken:
            raise RecordError(f"a state of the run in {self.folder}", "; ".join(broken), "move them away to start anew")
        return 0

    def _read(self, path: Path, parameters: Named, optimizer: torch.optim.Optimizer) -> int:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["ivlens"])
            differing = [
                f"{name} {facts['key'].get(name)!r} against {self.key.get(name)!r}"
                for name in sorted({*facts["key"], *self.key})
                if facts["key"].get(name) != self.key.get(name)
            ]
            if differing:
                raise MismatchError(
                    f"the settings of the run in {self.folder}", "; ".join(differing)[:500], "choose another folder"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.no_grad():
            for name, parameter in parameters:
                parameter.copy_(tensors[f"weights.{name}"])
                kept = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
                optimizer.state[parameter] = {
                    moment: value if moment == "step" else torch.empty_like(parameter).copy_(value)
                    for moment, value in kept.items()
                }
        return facts["step"]
