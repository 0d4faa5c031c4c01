"""One step of learning: the objective's terms on the step's prompts, and their gradients."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize

from ..errors import ArgumentError
from ..models import HookedTransformer, Rows, answer_residual, base_weights, checkpointed, final_logits, hooked, padded
from ..records import Head
from ..tasks import Prompt
from ..vectors import InstructionVector, vector_values
from .config import TrainingConfig
from .lesson import Lesson
from .objective import consistency, cross_entropy, divergence, floored, remaining
from .teacher import Addition, Teacher, first_tokens, reading

Terms = dict[str, tuple[float, Float[Tensor, ""]]]


@dataclass(frozen=True)
class Course:
    """All that the steps of one run show and ask, fixed before the first one."""

    model: HookedTransformer
    config: TrainingConfig
    lesson: Lesson
    addition: Addition | None
    guided: Teacher | None
    plain: Teacher | None
    rehearsed: Teacher | None
    replayed: Lesson | None

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        config: TrainingConfig,
        prompts: Sequence[Prompt],
        vector: InstructionVector | None,
        rehearse: Sequence[Prompt],
        replay: Sequence[Prompt],
        anchors: dict[str, Tensor],
    ) -> "Course":
        """The course of a configuration; base answers are asked for by ``prepare``.

        Raises:
            ArgumentError: a term that counts lacks its vector, heads or prompts.
            PromptError: a prompt that cannot be tokenised.
        """
        guidance = config.guidance

        def lesson(name: str, shown: Sequence[Prompt], size: int) -> Lesson:
            return Lesson.of(model, name, shown, size, config.seed)

        def base() -> AbstractContextManager[None]:
            return base_weights(model, anchors)

        new = lesson("new", prompts, config.batch_size)
        addition, heads = None, tuple[Head, ...]()
        if guidance.uses_vector:
            if vector is None:
                raise ArgumentError(
                    "vector= for this guidance", "none", "instruction_vector(...) builds one on the base"
                )
            addition = Addition(vector_values(model, vector), guidance.layer_in(model.cfg.n_layers), guidance.site)
            heads = vector.heads
        if guidance.consistency and not heads:
            raise ArgumentError("a vector with heads for head consistency", "one that comes from no heads")
        for name, weight, shown in (("rehearse", guidance.rehearsal, rehearse), ("replay", guidance.replay, replay)):
            if weight and not shown:
                raise ArgumentError(f"{name}= prompts, since their term has a weight", "none")
        scale = guidance.scale if guidance.teacher_scale is None else guidance.teacher_scale
        return cls(
            model, config, new, addition,
            guided=Teacher(model, base, new, addition, scale) if guidance.teaches else None,
            plain=Teacher(model, base, new, heads=heads if guidance.consistency else ())
            if guidance.kl_base or guidance.consistency else None,
            rehearsed=Teacher(model, base, lesson("rehearsal", rehearse, guidance.rehearsal_batch).unanswered())
            if guidance.rehearsal else None,
            replayed=lesson("replay", replay, guidance.replay_batch) if guidance.replay else None,
        )  # fmt: skip

    @property
    def shown(self) -> dict[str, object]:
        """Token ids of all that is shown, by its purpose."""
        rehearsed = self.rehearsed.lesson.pairs if self.rehearsed else ()
        replayed = self.replayed.pairs if self.replayed else ()
        return {"prompts": self.lesson.pairs, "rehearse": rehearsed, "replay": replayed}

    def prepare(self) -> None:
        """Ask the base once for all that it will be asked for; call it while the weights are still the base's."""
        for teacher in (self.guided, self.plain, self.rehearsed):
            if teacher is not None and self.config.teacher == "cached":
                teacher.remember(self.config.steps, batch_size=16)

    def learn(self, step: int) -> dict[str, float]:
        """Add the step's gradients to the parameters; return the mean of each term and the weighted sum, the loss."""
        means: dict[str, float] = defaultdict(float)
        for terms in self._parts(step):
            for name, (weight, value) in terms.items():
                means[name] += value.item()
                means["loss"] += weight * value.item()
        return dict(means)

    def _parts(self, step: int) -> Iterator[Terms]:
        drawn = self.lesson.drawn(step)
        tokens = sum(len(self.lesson.pairs[place][1]) for place in drawn)
        size = -(-len(drawn) // self.config.accumulate)
        for start in range(0, len(drawn), size):
            yield self._supervised(step, drawn[start : start + size], len(drawn), tokens)
        guidance = self.config.guidance
        if self.rehearsed is not None:
            yield self._rehearse(self.rehearsed, step, guidance.rehearsal)
        if self.replayed is not None:
            yield self._replay(self.replayed, step, guidance.replay)

    def _supervised(self, step: int, places: list[int], prompts: int, tokens: int) -> Terms:
        """Terms on the new task's prompts; of a part of the step's ``prompts`` and answer ``tokens``."""
        guidance = self.config.guidance
        rows = padded([self.lesson.pairs[place] for place in places], self.model.cfg.device)
        heads = self.plain.heads if self.plain else ()
        edits, outputs = reading(rows, heads)
        added = guidance.scale * remaining(guidance.progressive, step, guidance.handover * self.config.steps)
        if self.addition is not None and added:
            edits |= self.addition.edit(rows, added)
        guided = self.guided.answers(places) if self.guided else None
        plain = self.plain.answers(places) if self.plain else None

        def terms(logits: Float[Tensor, "token vocab"]) -> Terms:
            of_tokens, of_prompts = len(logits) / tokens, len(places) / prompts
            found: Terms = {"supervised": (1.0, cross_entropy(logits, _targets(rows)).mean() * of_tokens)}
            if self.guided and guided:
                kl = self._divergence(self.guided.logits(guided[0]), logits)
                found["kl_last"] = (
                    guidance.kl_last,
                    floored(kl[first_tokens(rows)].mean(), guidance.kl_floor) * of_prompts,
                )
                found["kl_answer"] = guidance.kl_answer, floored(kl.mean(), guidance.kl_floor) * of_tokens
            if self.plain and plain and guidance.kl_base:
                kl = self._divergence(self.plain.logits(plain[0]), logits)
                found["kl_base"] = guidance.kl_base, floored(kl.mean(), guidance.kl_floor) * of_tokens
            if plain and guidance.consistency:
                apart = consistency(outputs(), plain[1], guidance.consistency_reduction).mean()
                found["consistency"] = guidance.consistency, floored(apart, guidance.consistency_floor) * of_prompts
            return found

        return self._descend(rows, edits, terms)

    def _rehearse(self, teacher: Teacher, step: int, weight: float) -> Terms:
        places = teacher.lesson.drawn(step)
        rows = padded([teacher.lesson.pairs[place] for place in places], self.model.cfg.device)
        base = teacher.answers(places)[0]

        def terms(logits: Float[Tensor, "token vocab"]) -> Terms:
            return {"rehearsal": (weight, divergence(teacher.logits(base), logits).mean())}

        return self._descend(rows, {}, terms)

    def _replay(self, lesson: Lesson, step: int, weight: float) -> Terms:
        rows = padded([lesson.pairs[place] for place in lesson.drawn(step)], self.model.cfg.device)
        return self._descend(
            rows, {}, lambda logits: {"replay": (weight, cross_entropy(logits, _targets(rows)).mean())}
        )

    def _descend(self, rows: Rows, edits: dict, terms: Callable[[Float[Tensor, "token vocab"]], Terms]) -> Terms:
        """Run the rows, and add the gradient of the weighted sum of their terms.

        The backward pass runs within the hooks: with checkpointing it recomputes the blocks.
        """
        device = torch.device(self.model.cfg.device or "cpu").type
        mixed = torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bfloat16")
        # LoRA's sums are computed once a pass, unless the backward pass is to compute them again
        saved = checkpointed(self.model) if self.config.checkpointing else parametrize.cached()
        with hooked(self.model, edits), saved:
            with mixed:
                residual = answer_residual(self.model, rows)
            found = terms(final_logits(self.model, residual.to(self.model.cfg.dtype)))
            torch.stack([weight * value for weight, value in found.values()]).sum().backward()
        return {name: (weight, value.detach()) for name, (weight, value) in found.items()}

    def _divergence(
        self, teacher: Float[Tensor, "token vocab"], student: Float[Tensor, "token vocab"]
    ) -> Float[Tensor, " token"]:
        guidance = self.config.guidance
        return divergence(
            teacher, student, direction=guidance.direction, temperature=guidance.temperature,
            temperature_squared=guidance.temperature_squared,
        )  # fmt: skip


def _targets(rows: Rows) -> Tensor:
    return torch.tensor([token for answer in rows.answers for token in answer], device=rows.last.device)
