"""The objective's terms on prompts: a term is one class with its fields, what it needs, its loss and its source.

The loss of a step is the cross-entropy on the new task's answers (``Supervised``) plus the weighted losses of the terms
of a ``Guidance``. To add a term, subclass ``Term``, in this file or in your own, and put an instance into a Guidance:

    @checked
    @dataclass(frozen=True)
    class Confidence(Term):
        '''Penalises confident predictions: -H(P), in nats (arXiv 1701.06548).'''

        weight: NotNegative = field(default=0.1, metadata={"loss": "confidence"})

        def losses(self, batch):
            p = batch.logits.softmax(-1)
            return {"confidence": batch.token_mean((p * p.log()).sum(-1))}

    config = TrainingConfig(Guidance((Confidence(0.2), L2ToBase(1000.0))))

Nothing else changes: the class declares what it needs to be recorded, computed by the teacher, or passed to
``fine_tune``. Terms on the weights themselves are in ``weight_terms``.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Between, Count, Fraction, Natural, NotNegative, checked
from ..vocabulary import Site, check_layer
from .objective import KLDirection, Reduction, Schedule, consistency, cross_entropy, divergence, remaining
from .teacher import VectorAddition
from .term import Batch, Losses, OwnTexts, Term


@dataclass(frozen=True)
class Supervised(Term):
    """Cross-entropy on the new task's answers, the mean over the step's tokens, in nats; in every objective."""

    weight: NotNegative = field(default=1.0, metadata={"loss": "supervised"})

    def losses(self, batch: Batch) -> Losses:
        return {"supervised": batch.token_mean(cross_entropy(batch.logits, batch.targets))}


@dataclass(frozen=True, kw_only=True)
class _VectorTerm(Term):
    """Fields of terms that add ``scale`` times the vector at ``layer`` (None: at relative ``depth``) and ``site``."""

    layer: Natural | None = None
    scale: float = 4.0
    site: Site = "resid_pre"
    depth: Fraction = field(default=0.5, metadata={"added": True})

    def check(self, n_layers: int, learning_rate: float) -> None:
        check_layer(n_layers, self._layer(n_layers))

    def _layer(self, n_layers: int) -> int:
        return int(self.depth * n_layers) if self.layer is None else self.layer

    def _addition(self, n_layers: int, factor: float = 1.0) -> VectorAddition | None:
        scale = self.scale * factor
        return VectorAddition(self._layer(n_layers), self.site, scale) if scale else None


@dataclass(frozen=True, kw_only=True)
class _DivergenceTerm(Term):
    """Options of KL divergence terms (see ``objective.divergence``); a mean below ``floor`` counts as zero."""

    direction: KLDirection = "forward"
    temperature: Annotated[float, Between(1e-3)] = 2.0
    temperature_squared: bool = True
    floor: NotNegative = 0.0

    @property
    def whole_step(self) -> bool:
        return self.floor > 0

    def _divergence(
        self, teacher: Float[Tensor, "token vocab"], student: Float[Tensor, "token vocab"]
    ) -> Float[Tensor, " token"]:
        return divergence(
            teacher, student, direction=self.direction, temperature=self.temperature,
            temperature_squared=self.temperature_squared,
        )  # fmt: skip


@checked
@dataclass(frozen=True)
class ProgressiveVector(_VectorTerm):
    """The vector is added to the trained model's last prompt token, less at each step (arXiv 2406.12227).

    At step t of n the stream is ``x + scale * remaining(t / (handover * n)) * vector``: the vector's function is handed
    over to the weights. There is no loss.

    Args:
        schedule: how the addition decays: ``"linear"``, ``"cosine"``, or ``"constant"``, which does not decay.
        handover: the fraction of the steps after which nothing is added.
        layer: the block at which the vector is added (None: at ``depth``).
        scale: how many times the vector is added.
        site: where in the block, as in ``steer``.
        depth: the block as a fraction of the model's, where ``layer`` is None; 0.5 is the middle one.
    """

    needs = frozenset({"vector"})
    source = "arXiv 2406.12227"
    schedule: Schedule = "linear"
    handover: Annotated[float, Between(1e-3, 1)] = 1.0

    def student_addition(self, step: int, steps: int, n_layers: int) -> VectorAddition | None:
        return self._addition(n_layers, remaining(self.schedule, step, self.handover * steps))


@checked
@dataclass(frozen=True)
class PreventativeSteering(_VectorTerm):
    """The vector is added to the trained model at every token and step, and taken away when it has learned.

    With the direction of what the model should *not* become, training has no reason to move it there (arXiv 2507.21509,
    section 5.2). Any vector will do: of a task, a mean difference, a file, a control. There is no loss.

    Args:
        layer: the block at which the vector is added (None: at ``depth``).
        scale: how many times the vector is added.
        site: where in the block, as in ``steer``.
        depth: the block as a fraction of the model's, where ``layer`` is None; 0.5 is the middle one.
    """

    needs = frozenset({"vector"})
    source = "arXiv 2507.21509"

    def student_addition(self, step: int, steps: int, n_layers: int) -> VectorAddition | None:
        addition = self._addition(n_layers)
        return addition and replace(addition, every=True)


@checked
@dataclass(frozen=True)
class KLToGuidedTeacher(_DivergenceTerm, _VectorTerm):
    """KL divergence from the base model with the vector added at its last prompt token (arXiv 2502.11019), in nats.

    The paper's second divergence is over the answer; its code's is over the whole ``sequence``. On the prompt, where
    nothing was added yet, that is the divergence from the base itself. The code counts padding too, which is left out
    here: its outputs depend on the attention kernel and on which prompts share a batch. Without padding both agree.

    Args:
        last: weight of the divergence at the last prompt token, the mean over prompts (``kl_last`` in the log).
        answer: weight of the divergence at all tokens that predict the answer, the mean over them (``kl_answer``).
        layer: the block at which the teacher's vector is added (None: at ``depth``).
        scale: how many times the vector is added.
        site: where in the block, as in ``steer``.
        depth: the block as a fraction of the model's, where ``layer`` is None; 0.5 is the middle one.
        direction: see ``objective.divergence``.
        temperature: see ``objective.divergence``.
        temperature_squared: see ``objective.divergence``.
        floor: the value below which a mean counts as zero, in nats.
        sequence: weight of the divergence at every token of prompt and answer, the sum over them, the mean over
            prompts (``kl_sequence``, computed only where this is positive).
    """

    needs = frozenset({"vector", "base"})
    source = "arXiv 2502.11019"
    last: NotNegative = field(default=1.0, metadata={"loss": "kl_last"})
    answer: NotNegative = field(default=0.0, metadata={"loss": "kl_answer"})
    sequence: NotNegative = field(default=0.0, kw_only=True, metadata={"loss": "kl_sequence", "added": True})

    @property
    def whole_sequences(self) -> bool:
        return self.sequence > 0

    def teacher_addition(self, n_layers: int) -> VectorAddition | None:
        return self._addition(n_layers)

    def losses(self, batch: Batch) -> Losses:
        kl = self._divergence(batch.base.logits, batch.logits)
        losses = {
            "kl_last": batch.prompt_mean(kl[batch.first], self.floor),
            "kl_answer": batch.token_mean(kl, self.floor),
        }
        if self.whole_sequences:
            kl = self._divergence(batch.base.sequence_logits, batch.sequence_logits)
            losses["kl_sequence"] = batch.sequence_mean(kl, self.floor)
        return losses


@checked
@dataclass(frozen=True)
class KLToBase(_DivergenceTerm):
    """KL divergence from the base model at all tokens that predict the answer, the mean over them, in nats.

    A baseline: distillation from the model itself (Hinton et al., arXiv 1503.02531; Li and Hoiem, arXiv 1606.09282).

    Args:
        weight: of the mean (``kl_base`` in the log).
        direction: see ``objective.divergence``.
        temperature: see ``objective.divergence``.
        temperature_squared: see ``objective.divergence``.
        floor: the value below which the mean counts as zero, in nats.
    """

    needs = frozenset({"base"})
    source = "baseline: arXiv 1606.09282"
    weight: NotNegative = field(default=1.0, metadata={"loss": "kl_base"})

    def losses(self, batch: Batch) -> Losses:
        return {"kl_base": batch.token_mean(self._divergence(batch.base.logits, batch.logits), self.floor)}


@checked
@dataclass(frozen=True)
class HeadConsistency(Term):
    """Squared distance of the vector's heads' outputs to the base's at the last prompt token (arXiv 2502.11019).

    Args:
        weight: of the mean over prompts (``consistency`` in the log).
        reduction: over heads and dimensions: ``"sum"``, as the paper has it, or ``"mean"``.
        floor: the value below which the mean over prompts counts as zero.
        per_head: reduce each head alone, with the floor for each, and sum over heads; with ``"mean"`` as the paper's
            code does.
    """

    needs = frozenset({"vector", "heads", "base"})
    source = "arXiv 2502.11019"
    weight: NotNegative = field(default=1.0, metadata={"loss": "consistency"})
    reduction: Reduction = "sum"
    floor: NotNegative = field(default=0.0, kw_only=True)
    per_head: bool = field(default=False, kw_only=True, metadata={"added": True})

    @property
    def whole_step(self) -> bool:
        return self.floor > 0

    def losses(self, batch: Batch) -> Losses:
        width = 1 if self.per_head else batch.z.shape[1]
        pairs = zip(batch.z.split(width, 1), batch.base.z.split(width, 1), strict=True)
        means = [batch.prompt_mean(consistency(z, base_z, self.reduction), self.floor) for z, base_z in pairs]
        return {"consistency": torch.stack(means).sum()}


@checked
@dataclass(frozen=True)
class Rehearsal(Term):
    """KL(base || model) at the last token of the new inputs under other tasks' instructions, in nats; our own term.

    Args:
        weight: of the mean over prompts (``rehearsal`` in the log).
        batch_size: prompts per step, of ``fine_tune``'s ``rehearse=`` (see ``rehearsal_prompts``).
    """

    needs = frozenset({"base", "rehearse"})
    answered = False
    source = "ours"
    weight: NotNegative = field(default=1.0, metadata={"loss": "rehearsal"})
    batch_size: Count = 4

    def losses(self, batch: Batch) -> Losses:
        return {"rehearsal": batch.token_mean(divergence(batch.base.logits, batch.logits))}


@checked
@dataclass(frozen=True)
class SelfRehearsal(OwnTexts):
    """KL(base || model) at all tokens of texts that the base wrote itself, the mean over them, in nats; no old data.

    Rehearsal of a model's own writing is that of arXiv 2403.01244, from no prompt at all as in arXiv 2406.08464. Tokens
    are drawn from the base's distribution, so that cross-entropy on them is this divergence, up to a constant and the
    noise of the draw; the divergence has no such noise.

    Args:
        weight: of the mean (``self_rehearsal`` in the log).
        batch_size: texts per step.
        n_texts: texts that the base writes before the first step.
        n_tokens: tokens of a text, at most.
    """

    needs = frozenset({"base", "texts"})
    source = "baseline: arXiv 2403.01244"
    weight: NotNegative = field(default=1.0, metadata={"loss": "self_rehearsal"})
    batch_size: Count = 4

    def losses(self, batch: Batch) -> Losses:
        return {"self_rehearsal": batch.token_mean(divergence(batch.base.logits, batch.logits))}


@checked
@dataclass(frozen=True)
class Replay(Term):
    """Cross-entropy on examples of old tasks, the mean over their answers' tokens, in nats; a baseline.

    Args:
        weight: of the mean (``replay`` in the log).
        batch_size: prompts per step, of ``fine_tune``'s ``replay=``.
    """

    needs = frozenset({"replay"})
    source = "baseline"
    weight: NotNegative = field(default=1.0, metadata={"loss": "replay"})
    batch_size: Count = 2

    def losses(self, batch: Batch) -> Losses:
        return {"replay": batch.token_mean(cross_entropy(batch.logits, batch.targets))}
