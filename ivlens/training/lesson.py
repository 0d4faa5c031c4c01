"""What is shown at a step: prompts drawn by the seed and the step alone, so that a resumed run sees the same ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from ..checks import checked
from ..errors import ArgumentError
from ..models import HookedTransformer
from ..scoring import Ids, all_ids
from ..tasks import Prompt, Task


@dataclass(frozen=True)
class Lesson:
    """Prompts of one purpose, as (prompt ids, answer ids), of which ``batch_size`` are shown at each step."""

    name: str
    pairs: tuple[tuple[Ids, Ids], ...]
    batch_size: int
    seed: int

    @classmethod
    def of(cls, model: HookedTransformer, name: str, prompts: Iterable[Prompt], batch_size: int, seed: int) -> "Lesson":
        """A lesson of prompts with their first accepted answers.

        Raises:
            PromptError: no prompts, or one that cannot be tokenised or is longer than the model's context.
        """
        return cls(name, tuple(all_ids(model, prompts)), batch_size, seed)

    def unanswered(self) -> "Lesson":
        """The same prompts, of which only the last token's prediction is read."""
        return replace(self, pairs=tuple((prompt, (0,)) for prompt, _ in self.pairs))

    def drawn(self, step: int) -> list[int]:
        """Places of the prompts shown at a step: every prompt once in random order, then again in another."""
        count = len(self.pairs)
        shown = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [_order(self.name, self.seed, at // count, count)[at % count] for at in shown]

    def drawn_by(self, steps: int) -> list[int]:
        """Places of all prompts that are shown in so many steps, in order."""
        return sorted({place for step in range(steps) for place in self.drawn(step)})


@lru_cache(maxsize=8)
def _order(name: str, seed: int, epoch: int, count: int) -> tuple[int, ...]:
    order = list(range(count))
    Random(f"{name}:{seed}:{epoch}").shuffle(order)
    return tuple(order)


@checked
def rehearsal_prompts(task: Task, others: Sequence[Task], *, split: str = "train") -> list[Prompt]:
    """The inputs of a task under the other tasks' instructions, without demonstrations: no example of any old task.

    Raises:
        ArgumentError: no other task, or one without instructions.
    """
    if not others:
        raise ArgumentError("one other task or more", "none")
    inputs = task.split(split)
    prompts = []
    for other in others:
        if not other.instructions:
            raise ArgumentError("other tasks with instructions", f"{other.name!r} without any")
        asked = Task(f"{task.name} as {other.name}", inputs, other.instructions, other.labels)
        for paraphrase in range(len(other.instructions)):
            prompts += asked.prompts(shots=0, instruction=paraphrase)
    return prompts
