"""The files of a sequence that is learned: its record, the weights after the last finished task, a folder per task."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MismatchError, few
from ..files import safe_name, short_hash
from ..records import ContinualRun
from ..tensor_files import load_facts, load_tensors, save_tensors
from .state import differing_settings, flat_settings

RECORD, WEIGHTS = "continual.safetensors", "weights.safetensors"
Rows = dict[tuple[int, str, str], dict[str, Any]]  # by stage, role and ability


@dataclass(frozen=True)
class SequenceFiles:
    """A run's folder; ``key`` is all that the run depends on, ``names`` are its tasks in their order."""

    folder: Path
    key: Mapping[str, Any]
    names: tuple[str, ...]

    def of_stage(self, stage: int) -> Path:
        """Where the run of a task is, by how many tasks are learned after it."""
        return self.folder / f"{stage}-{safe_name(self.names[stage - 1])}"

    def of_vector(self, task: str, of: str) -> Path:
        """Where a task's instruction vector is, of the base or of the model before a stage."""
        return self.folder / "vectors" / f"{safe_name(task)}-{of}.safetensors"

    def save(self, run: ContinualRun) -> None:
        """Keep the record in place of that before."""
        run.save(self.folder / RECORD, overwrite=True)

    def load_rows(self) -> Rows:
        """What an earlier call measured.

        Raises:
            MismatchError: with other settings.
        """
        if not (self.folder / RECORD).exists():
            return {}
        earlier = ContinualRun.load(self.folder / RECORD)
        key = earlier.provenance.get("key", {})
        if differing := differing_settings(flat_settings(key), flat_settings(self.key)):
            do = "load the base again if the model was trained since, or choose another folder"
            raise MismatchError(f"the base and the settings of the run in {self.folder}", few(differing), do)
        return {(row["stage"], row["role"], row["ability"]): row for row in earlier.measured}

    def save_weights(self, stage: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights after a stage in place of those before."""
        tensors = {name: each.detach().cpu().contiguous() for name, each in weights.items()}
        save_tensors(self.folder / WEIGHTS, tensors, {"stage": stage, "key": short_hash(self.key)})

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> int:
        """Give these weights the values after the last finished stage; return how many are finished.

        Raises:
            MismatchError: the file is another run's.
        """
        path = self.folder / WEIGHTS
        if not path.exists():
            return 0
        facts = load_facts(path)
        if facts.get("key") != short_hash(self.key):
            raise MismatchError(f"the weights of this run in {path}", "another run's", "choose another folder")
        tensors, _ = load_tensors(path)
        for name, each in weights.items():
            each.copy_(tensors[name])
        torch.autograd.graph.increment_version([*weights.values()])
        return int(facts["stage"])

    def drop_states(self, stage: int) -> None:
        """Remove the states of a task's run, whose weights are kept."""
        for path in self.of_stage(stage).glob("state*.safetensors"):
            path.unlink()
