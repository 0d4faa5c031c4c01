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
from .learner import Learner

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
BROKEN = (SafetensorError, KeyError, ValueError, TypeError, OSError)


class Store:
    """The folder of a run, or nowhere; its states were made under ``key``.

    Raises:
        MismatchError: the folder holds a run of other settings.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, Any]) -> None:
        self.folder, self.key = folder, _flat(json.loads(json.dumps(key)))
        self.broken: set[Path] = set()
        for left in [] if folder is None else folder.glob(".state.*"):  # of a process that was killed while it saved
            left.unlink(missing_ok=True)
        for path in self._states:
            try:
                self._check(_header(path)["key"])
            except BROKEN:  # reported when it is to be read
                continue

    @property
    def _states(self) -> list[Path]:
        """The files that may hold a state, the latest first: the new one is whole where the others were being moved."""
        kinds = ("", ".new", ".previous")
        return [] if self.folder is None else [self.folder / f"state{kind}.safetensors" for kind in kinds]

    def save(self, step: int, learning: Learner) -> None:
        """Save the state after so many steps; the one before it is kept beside it.

        Raises:
            RecordError: it cannot be written (a full disk); the states that are there stay.
        """
        if self.folder is None:
            return
        state, new, previous = self._states
        header = {"ivlens": json.dumps({"step": step, "key": self.key})}
        try:
            write_atomically(new, lambda temporary: save_file(_tensors(learning), temporary, metadata=header))
            if state.exists() and state not in self.broken:
                os.replace(state, previous)
            os.replace(new, state)
            self.broken.clear()
        except (OSError, RecordError) as error:
            raise RecordError(
                f"to save the state after step {step} in {self.folder}", f"{error}", "the state before it is kept"
            ) from error

    def load(self, learning: Learner) -> int:
        """Put the last whole state into the parameters and the optimiser; return its number of steps, 0 without one.

        Raises:
            RecordError: there are states, and none can be read.
        """
        broken = []
        for path in self._states:
            if not path.exists():
                continue
            try:
                with safe_open(path, "pt") as file:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                step: int = _header(path)["step"]
                _put(tensors, learning)
                return step
            except BROKEN as error:
                broken.append(f"{path.name}: {error}")
                self.broken.add(path)
                warnings.warn(f"ivlens: {path} cannot be read ({error}); trying the state before it", stacklevel=2)
        if broken:
            raise RecordError(f"a state of the run in {self.folder}", "; ".join(broken), "move them away to start anew")
        return 0

    def _check(self, key: Mapping[str, Any]) -> None:
        differing = [
            f"{name} {key.get(name)!r} against {self.key.get(name)!r}"
            for name in sorted({*key, *self.key})
            if key.get(name) != self.key.get(name)
        ]
        if differing:
            raise MismatchError(
                f"the settings of the run in {self.folder}", "; ".join(differing)[:500], "choose another folder"
            )


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, so that a difference is named by its field."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return found


def _header(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["ivlens"])


def _tensors(learning: Learner) -> dict[str, Tensor]:
    moments = {
        f"{moment}.{name}": learning.optimizer.state[parameter][moment]
        for name, parameter in learning.moved.items() if learning.optimizer.state[parameter]
        for moment in MOMENTS
    }  # fmt: skip
    tensors = moments | {f"weights.{name}": parameter for name, parameter in learning.moved.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def _put(tensors: dict[str, Tensor], learning: Learner) -> None:
    """All are looked up before any is put, so that a broken state changes nothing."""
    found = [
        (parameter, tensors[f"weights.{name}"], {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS})
        for name, parameter in learning.moved.items()
    ]
    for parameter, weight, moments in found:
        parameter.copy_(weight)
        learning.optimizer.state[parameter] = {
            moment: value.to(parameter.device) if moment == "step" else torch.empty_like(parameter).copy_(value)
            for moment, value in moments.items()
        }
