"""The base's instruction vectors that studies and training start from, located once."""

from pathlib import Path

from ..effects import locate_heads
from ..models import HookedTransformer, key_of
from ..records import recall
from ..tasks import Task
from ..vectors import InstructionVector, instruction_vector


def recall_vector(
    model: HookedTransformer, path: Path, task: Task, heads: int, clean: int, corrupted: int, seed: int = 0
) -> InstructionVector:
    """The instruction vector of a task's strongest heads, located on this model once."""

    def compute() -> InstructionVector:
        effects = locate_heads(model, task, clean=clean, corrupted=corrupted, seed=seed)
        assert effects.means is not None  # locate_heads keeps them
        return instruction_vector(model, effects.means, effects.top(heads))

    key = key_of(model, task=task.name, digest=task.digest, heads=heads, clean=clean, corrupted=corrupted, seed=seed)
    return recall(path, InstructionVector, key, compute)
