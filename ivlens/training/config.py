"""How a run trains: ``Guidance`` and its presets, ``LoRA``, ``TrainingConfig``; each validates itself."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from ..checks import Between, Count, Natural, NotNegative, Seed, checked
from ..errors import ArgumentError, few, one_of
from .objective import remaining
from .term import Need, Term
from .terms import (
    HeadConsistency,
    KLToBase,
    KLToGuidedTeacher,
    PreventativeSteering,
    ProgressiveVector,
    Rehearsal,
    Replay,
    SelfRehearsal,
)
from .weight_terms import EWC, EWCOnOwnTexts, FrozenLayers, Interpolation, L2ToBase, OLoRA, WeightAverage

DEFAULT_PRESET = "l2-strong"
LOGGED = ("step", "supervised", "loss", "learning_rate", "gradient_norm", "seconds")  # of every run


@checked
@dataclass(frozen=True)
class Guidance:
    """The terms of the objective beside the supervised one: a tuple of terms, at most one of each class.

    Args:
        terms: instances of the classes in ``training.terms``, or of your own ``Term``; () is plain training.

    Raises:
        ArgumentError: two terms of one class, or of one name in the log.

    Example:
        >>> from ivlens.training import L2ToBase, Rehearsal
        >>> iv.Guidance((Rehearsal(0.5), L2ToBase(300.0))).scaled(2.0).terms[1]
        L2ToBase(weight=600.0, lora=0.1)
        >>> sorted(iv.Guidance.preset("guided").needs)
        ['anchors', 'base', 'rehearse', 'vector']
    """

    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        classes = Counter(type(term).__name__ for term in self.terms)
        names = Counter([*LOGGED, *(name for term in self.terms for name in term.weights)])
        if twice := [name for each in (classes, names) for name, count in each.items() if count > 1][:1]:
            raise ArgumentError("terms of different classes and names", f"{twice[0]} twice")

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms)

    @classmethod
    @checked
    def preset(
        cls, name: str = DEFAULT_PRESET, *, layer: Natural | None = None, scale: float | None = None
    ) -> "Guidance":
        """A named combination of terms, with another layer or scale of the vector where given.

        Args:
            name: plain, iv, fv, fv-code, kl, l2, l2-strong, rehearsal, rehearsal-l2, replay, guided, or a rival (see
                ``PRESETS``). "fv" has the formulas of arXiv 2502.11019, "fv-code" computes as its published code does.
            layer: the layer at which the vector is added (None: the preset's).
            scale: how many times the vector is added (None: the preset's).

        Raises:
            ArgumentError: another name.

        Example:
            >>> iv.Guidance.preset("iv", layer=3).terms[0].layer
            3
        """
        one_of("guidance", name, tuple(PRESETS))
        given = {option: value for option, value in (("layer", layer), ("scale", scale)) if value is not None}
        return cls(tuple(_with_options(term, given) for term in PRESETS[name]))

    @checked
    def scaled(self, factor: NotNegative = 1.0) -> "Guidance":
        """The same combination with every term's weights times ``factor``.

        Args:
            factor: factor of the weights of all terms.

        Returns:
            The guidance.

        Raises:
            ArgumentError: another factor than 1 where no term has a weight.

        Example:
            >>> iv.Guidance.preset("l2-strong").scaled(0.1).terms[0]
            L2ToBase(weight=300.0, lora=0.1)
        """
        if factor != 1 and not any(term.weights for term in self):
            raise ArgumentError("guidance with weights, to multiply", few([type(term).__name__ for term in self]))
        return Guidance(tuple(term.scaled(factor) for term in self.terms))

    @property
    def needs(self) -> frozenset[Need]:
        """What the terms need, together."""
        return frozenset[Need]().union(*(term.needs for term in self.terms))

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """The terms' fields by the names of their classes, as provenance holds them."""
        return {type(term).__name__: term.facts for term in self.terms}


def _with_options(term: Term, options: Mapping[str, Any]) -> Term:
    """The term with these fields replaced, where it has them."""
    own = {each.name for each in fields(term)}
    return replace(term, **{name: value for name, value in options.items() if name in own})


PRESETS = {
    "plain": Guidance(),
    # arXiv 2406.12227; handed over by half of the steps, while the learning rate is still high enough to learn it
    "iv": Guidance((ProgressiveVector("linear", handover=0.5), KLToGuidedTeacher(last=1.0, temperature=1.0))),
    # arXiv 2502.11019: its formulas, with the weights, the temperature and the layer (9 of 32) of its published runs
    "fv": Guidance((
        KLToGuidedTeacher(last=20.0, answer=0.1, depth=9 / 32, scale=1.0, temperature=2.0, temperature_squared=False),
        HeadConsistency(1.0),
    )),
    # as its published code computes; padding is left out, and LoRA's dropout is an option of its own
    "fv-code": Guidance((
        KLToGuidedTeacher(last=20.0, sequence=0.1, depth=9 / 32, scale=1.0, site="attn_out", direction="reverse",
                          temperature=2.0, temperature_squared=False, floor=0.1),
        HeadConsistency(1.0, "mean", floor=0.01, per_head=True),
    )),
    "kl": Guidance((KLToBase(1.0, temperature=1.0),)),
    "l2": Guidance((L2ToBase(1000.0),)),
    # kept most without old data in figures/forgetting, and all of the base at a destructive rate in figures/continual
    "l2-strong": Guidance((L2ToBase(3000.0),)),
    "rehearsal": Guidance((Rehearsal(1.0),)),
    # at the same pull, more of what the base answered is still right than with L2 alone: figures/continual
    "rehearsal-l2": Guidance((Rehearsal(1.0), L2ToBase(3000.0))),
    "replay": Guidance((Replay(1.0),)),
    "guided": Guidance((
        ProgressiveVector("linear", handover=0.5, scale=2.0), Rehearsal(1.0, batch_size=2), L2ToBase(1000.0),
    )),
    "self-rehearsal": Guidance((SelfRehearsal(1.0),)),
    # the Fisher information of an answer of two tokens is that much smaller than of a text of 64
    "ewc": Guidance((EWC(30_000.0),)),
    "ewc-own": Guidance((EWCOnOwnTexts(1000.0),)),
    "o-lora": Guidance((OLoRA(0.5),)),
    "freeze-lower": Guidance((FrozenLayers(0.0, 1 / 2),)),
    "freeze-middle": Guidance((FrozenLayers(1 / 3, 2 / 3),)),
    "average": Guidance((WeightAverage(0.5),)),
    "interpolate": Guidance((Interpolation(0.5),)),
    "preventative": Guidance((PreventativeSteering(scale=4.0),)),
}  # fmt: skip


@checked
@dataclass(frozen=True)
class LoRA:
    """Low-rank updates beside the weights, ``W + alpha / rank * B @ A`` (Hu et al., arXiv 2106.09685).

    Args:
        rank: rank of the updates.
        alpha: scale of the updates, relative to the rank.
        targets: weights to update, of W_Q, W_K, W_V, W_O, W_in, W_gate, W_out. The defaults are those of arXiv
            2502.11019.
        dropout: the share of its inputs that each update misses while it is trained, others at each step; .1 in
            arXiv 2502.11019.

    Example:
        >>> iv.LoRA(rank=4).targets
        ('W_Q', 'W_V')
    """

    rank: Count = 8
    alpha: Annotated[float, Between(1e-6)] = 16.0
    targets: tuple[str, ...] = ("W_Q", "W_V")
    dropout: Annotated[float, Between(0, 0.999)] = 0.0


@checked
@dataclass(frozen=True)
class TrainingConfig:
    """How ``fine_tune`` trains: AdamW on the guidance's objective. The CLI's ``train`` has the same defaults.

    Args:
        guidance: the objective's terms beside the supervised one. The default pulls the weights back to their initial
            values (``l2-strong``): it kept most without old data in figures/forgetting, and all of the base at a
            destructive rate in figures/continual.
        steps: optimiser steps.
        batch_size: prompts per step.
        accumulate: parts that a step's prompts are computed in, for memory.
        learning_rate: the highest learning rate; it rises over ``warmup`` steps, then falls by ``decay`` towards 0.
        warmup: steps of rising learning rate.
        decay: how the learning rate falls after warm-up: ``"none"``, ``"linear"`` or ``"cosine"``.
        weight_decay: decoupled weight decay of AdamW.
        betas: decay rates of AdamW's running averages.
        clip: largest norm of the gradients, which are scaled down to it (0: no clipping).
        lora: train low-rank updates beside the weights instead of the weights.
        layers: the layers that are trained (None: all, and the final norm).
        embeddings: train embeddings and unembedding too.
        precision: ``"full"``, or ``"bfloat16"`` for mixed precision.
        checkpointing: recompute blocks in the backward pass, for memory.
        teacher: when the base's outputs are computed: ``"cached"``, once, or ``"live"``, at each step.
        save_every: steps between saved states.
        evaluate_every: steps between measures of the abilities (0: at the end only).
        seed: seed of the order of prompts, and of LoRA's initial values and dropout.

    Raises:
        ArgumentError: naming the field that is outside its values.

    Example:
        >>> config = iv.TrainingConfig(steps=10, warmup=2)
        >>> [round(config.rate(step) / config.learning_rate, 3) for step in range(4)]
        [0.5, 1.0, 1.0, 0.875]
    """

    guidance: Guidance = field(default_factory=Guidance.preset)
    steps: Count = 100
    batch_size: Count = 8
    accumulate: Count = 1
    learning_rate: NotNegative = 1e-4
    warmup: Natural = 5
    decay: Literal["none", "linear", "cosine"] = "linear"
    weight_decay: NotNegative = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: NotNegative = 1.0
    lora: LoRA | None = None
    layers: tuple[Natural, ...] | None = None
    embeddings: bool = False
    precision: Literal["full", "bfloat16"] = "full"
    checkpointing: bool = False
    teacher: Literal["cached", "live"] = "cached"
    save_every: Count = 25
    evaluate_every: Natural = 25
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.accumulate > self.batch_size:
            raise ArgumentError(f"accumulate to be at most batch_size, {self.batch_size}", repr(self.accumulate))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ArgumentError("betas to be two numbers from 0 to below 1", repr(self.betas))
        if self.embeddings and self.lora is not None:
            raise ArgumentError("embeddings only with full training", "LoRA", "leave one of the two out")
        if self.accumulate > 1 and any(term.whole_step for term in self.guidance):
            raise ArgumentError("floors only with accumulate=1", repr(self.accumulate), "they hold for a whole step")

    @checked
    def rate(self, step: Natural) -> float:
        """The learning rate at a step: warm-up, then decay towards 0 after the last step.

        Args:
            step: a step, from 0.

        Returns:
            The learning rate.

        Example:
            >>> iv.TrainingConfig(steps=10, warmup=2, learning_rate=1.0).rate(0)
            0.5
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        schedule = "constant" if self.decay == "none" else self.decay
        return self.learning_rate * remaining(schedule, step - self.warmup, max(self.steps - self.warmup, 1))

    @property
    def terms(self) -> tuple[Term, ...]:
        """The guidance's terms as they act on what is trained."""
        return tuple(term if self.lora is None else term.with_lora() for term in self.guidance)

    @property
    def facts(self) -> dict[str, Any]:
        """The fields as provenance holds them, the guidance by its terms' classes, as they act on what is trained."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"guidance": Guidance(self.terms).facts, "lora": None if self.lora is None else vars(self.lora)}
