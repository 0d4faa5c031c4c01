"""One training step: forward and backward passes on the step's prompts, for the losses of all terms."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import parametrize

from ..errors import ArgumentError, few
from ..files import short_hash
from ..models import (
    Dropout,
    HookedTransformer,
    Rows,
    at_answers,
    at_tokens,
    checkpointed,
    final_logits,
    final_residual,
    hooked,
    lora_beside,
    padded,
)
from ..models.hooks import Edit
from ..records import Head
from ..scoring import all_ids
from ..tasks import Prompt
from ..vectors import InstructionVector, vector_values
from ..vocabulary import TokenizedPrompt, check_heads
from .config import TrainingConfig
from .processes import ALONE, Processes
from .sampler import PromptSampler
from .self_written import own_texts
from .teacher import Teacher, first_tokens, record_z
from .term import Batch, Losses, OwnTexts, Term
from .terms import Supervised

OWN_PROMPTS = ("rehearse", "replay")  # arguments of fine_tune that terms can need
OTHER_PASSES = (*OWN_PROMPTS, "texts")  # what losses are computed on instead of the new task's prompts


@dataclass(frozen=True)
class _Pass:
    """A forward and a backward pass: its prompts, and the terms with losses on them, each with its teacher."""

    sampler: PromptSampler
    terms: tuple[tuple[Term, Teacher | None], ...]
    heads: tuple[Head, ...] = ()
    parts: int = 1
    processes: Processes = ALONE

    @property
    def teachers(self) -> list[Teacher]:
        """The distinct teachers of the terms."""
        return [teacher for _, teacher in self.terms if teacher is not None]

    @property
    def whole(self) -> bool:
        """Whether a term needs the logits at every token of prompts and answers."""
        return any(term.whole_sequences for term, _ in self.terms)

    def batches(self, step: int) -> Iterator[list[int]]:
        """Indices of this process' share of the step's prompts, in parts of equal size except the last."""
        drawn = self.sampler.drawn(step)
        n_parts = self.parts * self.processes.count
        size = (len(drawn) + n_parts - 1) // n_parts
        parts = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        yield from parts[self.processes.rank :: self.processes.count]

    def shares(self, step: int, indices: Sequence[int]) -> tuple[float, float]:
        """These prompts' fractions of the step's answer tokens and of its prompts."""
        pairs, drawn = self.sampler.pairs, self.sampler.drawn(step)
        tokens, of_step = (sum(len(pairs[index].answer_ids) for index in each) for each in (indices, drawn))
        return tokens / of_step, len(indices) / len(drawn)


@dataclass(frozen=True)
class TrainingStep:
    """The passes of every step of a run, fixed before the first step."""

    model: HookedTransformer
    config: TrainingConfig
    passes: tuple[_Pass, ...]
    vector: Float[Tensor, " d_model"] | None
    anchors: dict[str, Tensor] = field(default_factory=dict)
    fisher_pairs: tuple[tuple[Term, tuple[TokenizedPrompt, ...]], ...] = ()

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        config: TrainingConfig,
        prompts: Sequence[Prompt],
        vector: InstructionVector | None = None,
        rehearse: Sequence[Prompt] = (),
        replay: Sequence[Prompt] = (),
        folder: Path | None = None,
        processes: Processes = ALONE,
    ) -> "TrainingStep":
        """The steps of a configuration, checked against what its terms need; call ``prepare`` before the first one.

        Texts that the base writes for them are kept in the ``folder``.

        Raises:
            ArgumentError: what a term needs is missing, or a term does not fit the model.
            PromptError: a prompt that cannot be tokenised.
            MismatchError: the vector does not fit the model.
        """
        own_prompts = {"rehearse": rehearse, "replay": replay}
        check_vector(model, config, vector)
        check_needs(config, own_prompts)
        for term in config.terms:
            term.check(model.cfg.n_layers, config.learning_rate)
        values = vector_values(model, vector) if vector is not None and "vector" in config.guidance.needs else None
        heads = vector.heads if vector is not None else ()
        anchors: dict[str, Tensor] = {}

        def made(sampler: PromptSampler, terms: Sequence[Term], parts: int = 1) -> _Pass:
            recorded = heads if any("heads" in term.needs for term in terms) else ()
            with_teachers = _with_teachers(model, anchors, sampler, terms, heads, values)
            return _Pass(sampler, with_teachers, recorded, parts, processes)

        def pairs(term: Term) -> tuple[TokenizedPrompt, ...]:
            """The prompts of a term that are not the new task's."""
            if isinstance(term, OwnTexts):
                return own_texts(model, term, config.seed, folder)
            kind = next(kind for kind in OWN_PROMPTS if kind in term.needs)
            return tuple(all_ids(model, own_prompts[kind]))

        new = PromptSampler.of(model, "new", prompts, config.batch_size, config.seed)
        passes = [made(new, [Supervised(), *(each for each in config.terms if not _own(each))], config.accumulate)]
        for term in config.terms:
            if kind := _own(term):
                name, batch_size = next(iter(term.weights), kind), getattr(term, "batch_size", config.batch_size)
                sampler = PromptSampler(name, pairs(term), batch_size, config.seed)
                passes.append(made(sampler if term.answered else sampler.unanswered(), [term]))
        by_fisher = tuple((term, pairs(term)) for term in config.terms if "fisher" in term.needs)
        return cls(model, config, tuple(passes), values, anchors, by_fisher)

    @property
    def digests(self) -> dict[str, str]:
        """Hashes of the token ids of all prompts, by argument of ``fine_tune``, and of texts that the base wrote."""
        pairs: dict[str, object] = {"prompts": (), "rehearse": (), "replay": ()}
        for each in self.passes:
            pairs[_own(each.terms[0][0]) or "prompts"] = each.sampler.pairs
        pairs |= {f"fisher of {type(term).__name__}": each for term, each in self.fisher_pairs}
        return {name: short_hash(each) for name, each in pairs.items()}

    @property
    def losses(self) -> list[str]:
        """Names of all losses that the passes can have, and of their weighted sum, in the order of ``backward``."""
        terms = (term for each in self.passes for term, _ in each.terms)
        first, *others = dict.fromkeys(name for term in terms for name in term.weights)
        return [first, "loss", *others]

    def prepare(self, anchors: Mapping[str, Tensor]) -> None:
        """Save the initial weights that are needed, and fill the teachers' caches while the model is still the base."""
        self.anchors.update(anchors)
        if self.config.teacher == "cached":
            for teacher in {id(each): each for made in self.passes for each in made.teachers}.values():
                teacher.fill_cache(self.config.steps)

    def backward(self, step: int) -> dict[str, float]:
        """Add this process' share of the step's gradients to the parameters; return its share of each loss's mean.

        The weighted sum of these is ``loss``.
        """
        means: dict[str, float] = defaultdict(float)
        for each in self.passes:
            weights = {name: weight for term, _ in each.terms for name, weight in term.weights.items()}
            for indices in each.batches(step):
                for name, value in self._backward(each, step, indices, weights).items():
                    means[name] += value.item()
                    means["loss"] += weights[name] * value.item()
        return dict(means)

    def _backward(self, of: _Pass, step: int, indices: list[int], weights: Mapping[str, float]) -> Losses:
        """Run forward and backward passes on part of a step's prompts; add gradients and return the losses.

        The backward pass runs within the hooks: with checkpointing it recomputes the blocks.
        """
        model, config = self.model, self.config
        rows = padded([of.sampler.pairs[index] for index in indices], model.cfg.device, whole=of.whole)
        edits, recorded_z = record_z(rows, of.heads)
        edits |= self._additions(of, step, rows)
        outputs = {id(teacher): teacher.outputs(indices) for teacher in of.teachers}
        device = torch.device(model.cfg.device or "cpu").type
        mixed = torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16")
        # cache LoRA's sums during a pass, unless the backward pass recomputes them
        saved = checkpointed(model) if config.checkpointing else parametrize.cached()
        with hooked(model, edits), saved, self._lora(of, step, indices, rows):
            with mixed:
                residual = final_residual(model, rows)
            logits = final_logits(model, at_answers(residual, rows).to(model.cfg.dtype))
            sequence = final_logits(model, at_tokens(residual, rows).to(model.cfg.dtype)) if of.whole else None
            z = recorded_z() if of.heads else residual.new_zeros(len(indices), 0, model.cfg.d_head)
            batch = Batch(logits, _targets(rows), first_tokens(rows), z, None, *of.shares(step, indices), sequence)
            losses: Losses = {}
            for term, teacher in of.terms:
                losses |= term.losses(batch if teacher is None else replace(batch, teacher=outputs[id(teacher)]))
            if undeclared := losses.keys() - weights.keys():
                raise ArgumentError('losses each with a weight, field(metadata={"loss": name})', few(undeclared))
            torch.stack([weights[name] * value for name, value in losses.items()]).sum().backward()
        return {name: value.detach() for name, value in losses.items()}

    def _lora(self, of: _Pass, step: int, indices: Sequence[int], rows: Rows) -> AbstractContextManager[None]:
        """Where LoRA computes beside the weights: with its dropout, and where sums with weights would be rounded."""
        lora, rounded = self.config.lora, self.config.precision != "full"
        if lora is None or not (lora.dropout or rounded):
            return nullcontext()
        seeds = [f"{self.config.seed}/{step}/{of.sampler.name}/{index}" for index in indices]
        return lora_beside(self.model, Dropout(lora.dropout, [*zip(seeds, rows.mask.sum(1).tolist(), strict=True)]))

    def _additions(self, of: _Pass, step: int, rows: Rows) -> dict[str, Edit]:
        """Edits that add the vector to the trained model, as the terms require at this step."""
        edits: dict[str, Edit] = {}
        for term, _ in of.terms:
            addition = term.student_addition(step, self.config.steps, self.model.cfg.n_layers)
            if addition is not None and self.vector is not None:
                ours = addition.edits(rows, self.vector)
                if twice := edits.keys() & ours.keys():
                    raise ArgumentError("one term that adds the vector at a site", f"two at {few(twice)}")
                edits |= ours
        return edits


def check_vector(model: HookedTransformer, config: TrainingConfig, vector: InstructionVector | None) -> None:
    """Raise ArgumentError where terms need a vector that is missing, zero, or without heads, MismatchError for another.

    The vector of another kind of model is a mismatch.
    """
    for term in config.terms:
        name = type(term).__name__
        if "vector" in term.needs and vector is None:
            raise ArgumentError(f"vector= for {name}", "none", "instruction_vector(...) builds one on the base")
        if "vector" in term.needs and vector is not None and not vector_values(model, vector).any():
            raise ArgumentError(f"a vector that is not zero, for {name}", "zeros")
        if "heads" in term.needs:
            if vector is None or not vector.heads:
                raise ArgumentError(f"a vector with heads for {name}", "one that comes from no heads")
            check_heads((model.cfg.n_layers, model.cfg.n_heads), vector.heads)


def check_needs(config: TrainingConfig, own_prompts: Mapping[str, Sequence[Prompt]]) -> None:
    """Raise ArgumentError where something else that a term needs is missing: prompts, texts, LoRA."""
    for term in config.terms:
        name = type(term).__name__
        if kind := next((kind for kind in OWN_PROMPTS if kind in term.needs and not own_prompts[kind]), ""):
            raise ArgumentError(f"{kind}= prompts for {name}", "none")
        if "texts" in term.needs and not isinstance(term, OwnTexts):
            raise ArgumentError(f"{name} to say how many texts", "none", "make it a subclass of OwnTexts")
        if "adapters" in term.needs and config.lora is None:
            raise ArgumentError(f"lora= for {name}, which compares factors of LoRA", "full training")


def _own(term: Term) -> str:
    """What a term's losses are computed on, as its needs call it; empty for the new task's prompts."""
    return "" if "fisher" in term.needs else next((kind for kind in OTHER_PASSES if kind in term.needs), "")


def _with_teachers(
    model: HookedTransformer,
    anchors: dict[str, Tensor],
    sampler: PromptSampler,
    terms: Sequence[Term],
    heads: tuple[Head, ...],
    vector: Float[Tensor, " d_model"] | None,
) -> tuple[tuple[Term, Teacher | None], ...]:
    """The terms with their teachers; terms whose teachers have the same addition share one."""
    n_layers, asking = model.cfg.n_layers, [term for term in terms if "base" in term.needs]
    with_heads = {term.teacher_addition(n_layers) for term in asking if "heads" in term.needs}
    whole = {term.teacher_addition(n_layers) for term in asking if term.whole_sequences}
    teachers = {
        addition: Teacher(
            model, anchors, sampler, heads if addition in with_heads else (), addition, vector, addition in whole
        )
        for addition in (term.teacher_addition(n_layers) for term in asking)
    }
    return tuple((term, teachers[term.teacher_addition(n_layers)] if "base" in term.needs else None) for term in terms)


def _targets(rows: Rows) -> Int[Tensor, " token"]:
    return torch.tensor([token for answer in rows.answers for token in answer], device=rows.last.device)
