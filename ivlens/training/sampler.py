"""Which prompts a step uses: determined by seed and step alone, so that a resumed run draws the same ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

from ..checks import Count, checked
from ..errors import ArgumentError
from ..models import HookedTransformer
from ..scoring import all_ids
from ..tasks import AnyFormat, CutSide, Prompt, Task
from ..vocabulary import Split, TokenizedPrompt


@dataclass(frozen=True)
class PromptSampler:
    """Tokenised prompts, ``batch_size`` of them per step: all in random order, then all again in another order.

    ``name`` and ``seed`` determine the orders. ``pairs`` are (prompt ids, answer ids).
    """

    name: str
    pairs: tuple[TokenizedPrompt, ...]
    batch_size: int
    seed: int

    @classmethod
    def of(
        cls, model: HookedTransformer, name: str, prompts: Iterable[Prompt], batch_size: int, seed: int
    ) -> "PromptSampler":
        """A sampler of prompts with their first accepted answers.

        Raises:
            PromptError: no prompts, or one that cannot be tokenised or is longer than the model's context.
        """
        return cls(name, tuple(all_ids(model, prompts)), batch_size, seed)

    def unanswered(self) -> "PromptSampler":
        """The same prompts without their answers: a loss reads the prediction at the last prompt token only."""
        return replace(self, pairs=tuple(TokenizedPrompt(prompt, (0,)) for prompt, _ in self.pairs))

    def drawn(self, step: int) -> list[int]:
        """Indices into ``pairs`` of the prompts of a step."""
        count = len(self.pairs)
        numbers = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [_order(self.name, self.seed, number // count, count)[number % count] for number in numbers]

    def drawn_by(self, steps: int) -> list[int]:
        """Indices of all prompts that are drawn in ``steps`` steps, in order."""
        return sorted({index for step in range(steps) for index in self.drawn(step)})


@lru_cache(maxsize=8)
def _order(name: str, seed: int, epoch: int, count: int) -> tuple[int, ...]:
    order = list(range(count))
    Random(f"{name}:{seed}:{epoch}").shuffle(order)
    return tuple(order)


@checked
def rehearsal_prompts(
    task: Task, others: Sequence[Task], *, split: Split = "train", format: AnyFormat = "labelled",
    tokenizer: Any = None, max_tokens: Count | None = None, cut: CutSide = "left",
) -> list[Prompt]:  # fmt: skip
    """Inputs of the task under the other tasks' instructions, without demonstrations, for the term ``Rehearsal``.

    They contain no examples of the other tasks: the base model's answers are what training should preserve.

    Args:
        task: the task to learn, whose inputs are used.
        others: tasks whose instructions are used, in every paraphrase.
        split: the split of ``task`` that the inputs come from.
        format: how prompts are written: "labelled", "plain", "qa" or "chat", the model's chat template. A ``Chat``
            has its settings; a callable writes prompts in a way of your own (``Task.prompts``).
        tokenizer: for "chat" and for max_tokens.
        max_tokens: tokens of a prompt, at most; the inputs of longer ones are cut (``Task.prompts``).
        cut: the side from which inputs are cut: "left" keeps their end, "right" their beginning, "middle" both.

    Returns:
        One prompt per input, other task and paraphrase.

    Raises:
        ArgumentError: no other task, or one without instructions.

    Example:
        >>> task, other = iv.load_task("capitalize"), iv.load_task("antonym")
        >>> len(iv.rehearsal_prompts(task, [other])) == len(task.split("train")) * len(other.instructions)
        True
    """
    if not others:
        raise ArgumentError("one other task or more", "none")
    inputs = task.split(split)
    prompts = []
    for other in others:
        if not other.instructions:
            raise ArgumentError("other tasks with instructions", f"{other.name!r} without any")
        asked = Task(f"{task.name} as {other.name}", inputs, other.instructions, other.labels)
        for text in other.instructions:
            prompts += asked.prompts(
                shots=0, instruction=text, format=format, tokenizer=tokenizer, max_tokens=max_tokens, cut=cut
            )
    return prompts
