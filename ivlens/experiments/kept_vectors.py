"""The base's instruction vectors that studies and training start from, located once."""

from pathlib import Path

from ..effects import locate_heads
from ..models import HookedTransformer, key_of
from ..records import load_or_compute
from ..tasks import Task
from ..vectors import InstructionVector, instruction_vector


def load_or_compute_vector(
    model: HookedTransformer, path: Path, task: Task, k: int, n_clean: int, n_corrupted: int, seed: int = 0
) -> InstructionVector:
    """The instruction vector of a task's strongest heads, located on this model once."""

    def compute() -> InstructionVector:
        effects = locate_heads(model, task, n_clean=n_clean, n_corrupted=n_corrupted, seed=seed)
        return instruction_vector(model, effects, k=k)

    key = key_of(model, task=task.name, digest=task.digest, k=k, n_clean=n_clean, n_corrupted=n_corrupted, seed=seed)
    return load_or_compute(path, InstructionVector, key, compute)
