"""A run's states on disk: trained weights, optimiser, log; written atomically, with the previous one as a backup."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MismatchError, RecordError, few
from ..models import package_versions
from ..tensor_files import load_facts, load_tensors, save_tensors
from .log import Log
from .trainable import Trainable

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class CheckpointManager:
    """The states of a run with the settings ``key``, in its folder if it has one.

    ``abilities`` are the digests of the measured abilities, by name. ``versions`` are the package versions that the
    run's steps were taken with, the current ones last.

    Raises:
        MismatchError: the folder holds a run with other settings, or an ability of the same name with other prompts.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, Any], abilities: Mapping[str, str], steps: int) -> None:
        self.folder, self.key = folder, flat_settings(json.loads(json.dumps(key)))
        self.abilities = dict(abilities)
        self.steps, self.versions = steps, [package_versions()]
        self.broken: set[Path] = set()
        for left in [] if folder is None else folder.glob(".state.*"):  # left by a process that was killed while saving
            left.unlink(missing_ok=True)
        for path in self._states:
            try:
                if differing := self._differing(load_facts(path)):
                    load_tensors(path)  # a damaged file differs, too; it is reported when it is loaded
                    raise MismatchError(
                        f"the settings of the run in {folder}", few(differing, 6), "choose another folder"
                    )
            except RecordError:
                continue

    @property
    def _states(self) -> list[Path]:
        """The files that may hold a state, in order of preference; a kill between renames leaves the new one."""
        kinds = ("", ".new", ".previous")
        return [] if self.folder is None else [self.folder / f"state{kind}.safetensors" for kind in kinds]

    def save(self, trainable: Trainable, log: Log) -> None:
        """Save the state after the logged steps, and keep the previous one beside it.

        Raises:
            RecordError: it cannot be written (a full disk); earlier states are unchanged.
        """
        if self.folder is None:
            return
        state, new, previous = self._states
        step = len(log.steps)
        facts = {"step": step, "key": self.key, "abilities": self.abilities, "versions": self.versions}
        facts |= {"columns": log.columns, "measured": [*log.measured.values()]}
        try:
            save_tensors(new, _packed(trainable) | {"log": log.values}, facts)
            if state.exists() and state not in self.broken:
                os.replace(state, previous)
            os.replace(new, state)
            self.broken.clear()
        except (OSError, RecordError) as error:
            raise RecordError(
                f"to save the state after step {step} in {self.folder}", f"{error}", "the state before it is kept"
            ) from error

    def load(self, trainable: Trainable, log: Log) -> int:
        """Load the last complete state into parameters, optimiser and log; return its steps, 0 without a state.

        Raises:
            RecordError: there are states, but none can be read.
        """
        broken = []
        for path in self._states:
            if not path.exists():
                continue
            try:
                tensors, facts = load_tensors(path)
                steps, measured = self._rows(tensors, facts)
                _restore(tensors, trainable)
            except (RecordError, KeyError, ValueError, TypeError) as error:
                broken.append(f"{path.name}: {error}")
                self.broken.add(path)
                warnings.warn(f"ivlens: {path} cannot be read ({error}); trying the state before it", stacklevel=2)
                continue
            self.abilities = facts["abilities"] | self.abilities
            self.versions = [*(each for each in facts["versions"] if each != self.versions[-1]), self.versions[-1]]
            log.resume(steps, measured)
            return len(steps)
        if broken:
            raise RecordError(f"a state of the run in {self.folder}", "; ".join(broken), "move them away to start anew")
        log.resume([], [])
        return 0

    def _rows(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
        """The log in a state of this run: one row per step and per measurement."""
        if self._differing(facts) or not 0 <= facts["step"] <= self.steps:
            raise ValueError("it is of another run")
        rows = zip(range(facts["step"]), tensors["log"].tolist(), strict=True)
        return [{"step": at} | dict(zip(facts["columns"], row, strict=True)) for at, row in rows], facts["measured"]

    def _differing(self, facts: Mapping[str, Any]) -> list[str]:
        """How a state's settings differ from this run's; abilities may be added or removed, but not changed."""
        key, abilities = facts.get("key", {}), facts.get("abilities", {})
        differing = differing_settings(key, self.key)
        common = sorted({*abilities} & {*self.abilities})
        changed = [name for name in common if abilities[name] != self.abilities[name]]
        return differing + [f"other prompts or another vector of ability {name!r}" for name in changed]


def drop_spare(folder: Path) -> None:
    """Remove the state before the last one from a finished run's folder: resuming needs the last one alone."""
    if (folder / "state.safetensors").is_file():
        (folder / "state.previous.safetensors").unlink(missing_ok=True)


def flat_settings(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, so that a difference can be named."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat_settings(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return found


def differing_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """How flat settings differ: each name with both of its values."""
    names = sorted({*theirs, *ours})
    pairs = {name: (theirs.get(name), ours.get(name)) for name in names}
    return [f"{name} {one!r} against {other!r}" for name, (one, other) in pairs.items() if one != other]


def _packed(trainable: Trainable) -> dict[str, Tensor]:
    moments = {
        f"{moment}.{name}": trainable.optimizer.state[parameter][moment]
        for name, parameter in trainable.views.items() if trainable.optimizer.state[parameter]
        for moment in MOMENTS
    }  # fmt: skip
    tensors = moments | {f"weights.{name}": parameter for name, parameter in trainable.views.items()}
    tensors |= {f"mean.{name}": mean for name, mean in trainable.means.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def _restore(tensors: dict[str, Tensor], trainable: Trainable) -> None:
    """Load a state's tensors into parameters and optimiser; a broken state changes nothing."""
    found = [
        (parameter, tensors[f"weights.{name}"], {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS})
        for name, parameter in trainable.views.items()
    ]
    for parameter, weight, moments in found:
        for tensor in (weight, moments["exp_avg"], moments["exp_avg_sq"]):
            if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
                raise ValueError(f"a tensor of shape {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
    means = [(mean, tensors[f"mean.{name}"]) for name, mean in trainable.means.items()]
    for parameter, weight, moments in found:
        parameter.copy_(weight)
        trainable.optimizer.state[parameter] = {
            moment: value.to(parameter.device) if moment == "step" else torch.empty_like(parameter).copy_(value)
            for moment, value in moments.items()
        }
    for mean, value in means:
        mean.copy_(value)
