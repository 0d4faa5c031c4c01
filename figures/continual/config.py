"""What the study of guidance trains, on which tasks, and with which methods at which strengths."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from ivlens import ArgumentError, GenerationScoring, Guidance, LoRA, Task, TrainingConfig, load_task
from ivlens.training import (
    KLToBase,
    KLToGuidedTeacher,
    PreventativeSteering,
    ProgressiveVector,
    Rehearsal,
    Replay,
    SelfRehearsal,
    Term,
)
from ivlens.training.weight_terms import (
    EWC,
    EWCOnOwnTexts,
    FrozenLayers,
    Interpolation,
    L2ToBase,
    OLoRA,
    WeightAverage,
)

from .rules import RULES


class Regime(NamedTuple):
    """How hard each task is trained, and on which tasks: those of ``Tasks.orders``, or harder ones.

    The learning rate, the steps, the steps of warm-up, the rank of LoRA's updates.
    """

    rate: float
    steps: int
    warmup: int
    rank: int | None = None
    harder: bool = False


REGIMES = {
    "destructive": Regime(2e-4, 20, 2),
    "demanding": Regime(2e-4, 50, 5, harder=True),  # tasks that take a large change of the weights
    "long": Regime(2e-3, 40, 4, rank=8),  # LoRA on queries and values, four times the mild regime's steps
    "mild": Regime(1e-4, 10, 2),
}
LORA_RATE = 10.0  # how many times higher LoRA's learning rate is than that of full training

Terms = Callable[[float, Regime], tuple[Term, ...]]


class Method(NamedTuple):
    """A way to train, at strengths from weak to strong; as many of each method are tried."""

    strengths: tuple[float, ...]
    terms: Terms
    rate: bool = False  # whether the strength divides the regime's learning rate
    at_end: bool = False  # whether the strength is the share of the finished run's change that is kept
    rank: int | None = None  # of LoRA, where the regime has none


def _l2(pull: float, regime: Regime) -> L2ToBase:
    """The term that takes back this share of the change at each step of the highest learning rate."""
    return L2ToBase(pull / regime.rate, lora=1.0)


def _middle(share: float) -> FrozenLayers:
    """The frozen layers around the middle one, as a share of all."""
    return FrozenLayers((1 - share) / 2, (1 + share) / 2)


WEIGHTS = (0.3, 1.0, 3.0, 10.0)
PULLS = (0.1, 0.3, 0.6, 0.8)
SHARES = (0.7, 0.5, 0.35, 0.25)  # of the change that is kept
RATES = (1.0, 2.0, 4.0, 8.0)
SCALES = (1.0, 2.0, 4.0, 8.0)
WIDTHS = (1 / 3, 1 / 2, 2 / 3, 5 / 6)
METHODS = {
    "plain": Method(RATES, lambda s, r: (), rate=True),
    "lora, rank 2": Method(RATES, lambda s, r: (), rate=True, rank=2),
    "lora, rank 8": Method(RATES, lambda s, r: (), rate=True, rank=8),
    "l2": Method(PULLS, lambda s, r: (_l2(s, r),)),
    "interpolate": Method(SHARES, lambda s, r: (Interpolation(s),)),
    "interpolate-end": Method(SHARES, lambda s, r: (), at_end=True),
    "average": Method((0.25, 0.5, 0.75, 1.0), lambda s, r: (WeightAverage(s),)),
    "freeze-lower": Method(WIDTHS, lambda s, r: (FrozenLayers(0.0, s),)),
    "freeze-middle": Method(WIDTHS, lambda s, r: (_middle(s),)),
    "freeze-upper": Method(WIDTHS, lambda s, r: (FrozenLayers(1 - s, 1.0),)),
    "o-lora": Method((0.1, 0.5, 2.5, 12.5), lambda s, r: (OLoRA(s),), rank=8),
    "kl": Method(WEIGHTS, lambda s, r: (KLToBase(s, temperature=1.0),)),
    "rehearsal": Method(WEIGHTS, lambda s, r: (Rehearsal(s),)),
    "self-rehearsal": Method(WEIGHTS, lambda s, r: (SelfRehearsal(s),)),
    "replay": Method(WEIGHTS, lambda s, r: (Replay(s),)),
    "iv": Method(SCALES, lambda s, r: (ProgressiveVector("linear", handover=0.5, scale=s),
                                       KLToGuidedTeacher(last=1.0, temperature=1.0))),
    "fv": Method((0.1, 0.3, 1.0, 3.0), lambda s, r: Guidance.preset("fv").scaled(s).terms),
    "preventative": Method(SCALES, lambda s, r: (PreventativeSteering(scale=s),)),
    "guided": Method(PULLS, lambda s, r: (ProgressiveVector("linear", handover=0.5, scale=2.0),
                                          Rehearsal(1.0, batch_size=2), _l2(s, r))),
    "rehearsal + self-rehearsal": Method(WEIGHTS, lambda s, r: (Rehearsal(s), SelfRehearsal(s))),
    "rehearsal + l2": Method(PULLS, lambda s, r: (Rehearsal(1.0), _l2(s, r))),
    "self-rehearsal + l2": Method(PULLS, lambda s, r: (SelfRehearsal(1.0), _l2(s, r))),
    "rehearsal + self-rehearsal + l2": Method(PULLS, lambda s, r: (Rehearsal(1.0), SelfRehearsal(1.0), _l2(s, r))),
    "rehearsal + interpolate": Method(SHARES, lambda s, r: (Rehearsal(1.0), Interpolation(s))),
    "middle + l2": Method(PULLS, lambda s, r: (_middle(1 / 3), _l2(s, r))),
    "middle + interpolate": Method(SHARES, lambda s, r: (_middle(1 / 3), Interpolation(s))),
    "rehearsal + middle": Method(WIDTHS, lambda s, r: (Rehearsal(1.0), _middle(s))),
    "rehearsal + middle + l2": Method(PULLS, lambda s, r: (Rehearsal(1.0), _middle(1 / 3), _l2(s, r))),
    "rehearsal + middle + interpolate": Method(SHARES, lambda s, r: (Rehearsal(1.0), _middle(1 / 3), Interpolation(s))),
    "ewc": Method((1e4, 3e4, 1e5, 3e5), lambda s, r: (EWC(s),)),
    "ewc-own": Method((300.0, 1000.0, 3000.0, 10_000.0), lambda s, r: (EWCOnOwnTexts(s),)),
}  # fmt: skip
LORA_ALONE = ("lora, rank 2", "lora, rank 8")
WITH_OLD_EXAMPLES = ("ewc", "replay")  # shown for comparison; what is recommended needs none
ALWAYS = ("plain", "l2", "interpolate")  # among the finalists whatever the trials say


class Run(NamedTuple):
    """A sequence that is learned: which part of the study it is of, how, at what strength, in what order, the seed."""

    part: str
    regime: str
    method: str
    strength: float
    order: int
    seed: int


@dataclass(frozen=True)
class Tasks:
    """Orders of the same new tasks, learned one after the other, and of ``harder`` ones; old ones to keep."""

    orders: tuple[tuple[str, ...], ...]
    old: tuple[str, ...]
    harder: tuple[tuple[str, ...], ...] = ((),)

    @property
    def names(self) -> set[str]:
        """All of them."""
        return {*self.orders[0], *self.harder[0], *self.old}


@dataclass(frozen=True)
class StudyConfig:
    """What is trained and measured: ``trial`` are the tasks to choose on, ``final`` those that are reported.

    All methods are tried in the ``screening`` regimes, the ``halved`` best of them in the others. ``finalists``: how
    many methods beside ``ALWAYS`` the final part has; ``pairs``: the orders and seeds of its runs. Learning rates are
    ``rates`` times the regimes', with LoRA ``lora_rates`` times where given; ``precision`` is ``TrainingConfig``'s.
    """

    source: str = "smollm2"
    trial: Tasks = Tasks(
        (("hypernym", "person-profession"),),
        ("present-past", "capitalize", "commonsense", "synonym", "translation", "country-currency"),
        harder=(("last-in-alphabet", "letter-after-next"),),
    )
    final: Tasks = Tasks(
        (("word-topic", "choose-last-of-3", "adjective-comparative", "lowercase-first-letter", "sentiment"),
         ("sentiment", "adjective-comparative", "word-topic", "lowercase-first-letter", "choose-last-of-3")),
        ("antonym", "verb-gerund", "singular-plural", "country-capital", "country-language", "choose-animal", "reading",
         "short-answer"),
        harder=(("next-letter", "longest", "initials", "first-in-alphabet", "shortest"),
                ("shortest", "initials", "next-letter", "first-in-alphabet", "longest")),
    )  # fmt: skip
    methods: tuple[str, ...] = tuple(METHODS)
    regimes: tuple[str, ...] = tuple(REGIMES)
    screening: tuple[str, ...] = ("destructive", "demanding")
    halved: int = 10
    finalists: int = 3
    pairs: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (0, 2), (1, 3), (0, 4))
    batch_size: int = 8
    n_test: int = 30
    generated: frozenset[str] = field(default_factory=lambda: frozenset({"short-answer"}))
    rates: float = 1.0
    lora_rates: float | None = None
    precision: Literal["full", "bfloat16"] = "full"

    def __post_init__(self) -> None:
        if both := self.trial.names & self.final.names:
            raise ArgumentError("different tasks to choose on and to report", ", ".join(sorted(both)))
        for name, value in (("rates", self.rates), ("lora_rates", self.lora_rates)):
            if value is not None and not 0 < value < math.inf:
                raise ArgumentError(f"{name} above 0", repr(value))

    @property
    def screened(self) -> tuple[str, ...]:
        """The regimes in which all methods are tried: of ``screening``, or all where it has none of these."""
        return tuple(each for each in self.regimes if each in self.screening) or self.regimes

    def trials(self, regimes: Iterable[str], methods: Iterable[str]) -> Iterator[Run]:
        """These methods at every strength in these regimes, on the tasks to choose on."""
        return self._runs("trial", regimes, ((0, 0),), methods)

    def finals(self, regimes: Iterable[str], methods: Iterable[str], pairs: Iterable[tuple[int, int]]) -> Iterator[Run]:
        """These methods at every strength in these regimes, on the tasks that are reported."""
        return self._runs("final", regimes, pairs, methods)

    @staticmethod
    def _runs(
        part: str, regimes: Iterable[str], pairs: Iterable[tuple[int, int]], methods: Iterable[str]
    ) -> Iterator[Run]:
        for regime, (order, seed), method in product(regimes, pairs, methods):
            if method in LORA_ALONE and METHODS[method].rank == REGIMES[regime].rank:
                continue  # it is plain training there
            for strength in METHODS[method].strengths:
                yield Run(part, regime, method, strength, order, seed)

    def tasks(self, run: Run) -> tuple[list[Task], list[Task]]:
        """The tasks that a run learns, and those that it is to keep."""
        tasks = self.trial if run.part == "trial" else self.final
        orders = tasks.harder if REGIMES[run.regime].harder else tasks.orders
        return [_task(name) for name in orders[run.order]], [
            _old_task(name, name in self.generated) for name in tasks.old
        ]

    def training(self, run: Run) -> TrainingConfig:
        """How a run trains each task."""
        regime, method = REGIMES[run.regime], METHODS[run.method]
        rank = method.rank or regime.rank
        rate = regime.rate * (self.rates if rank is None or self.lora_rates is None else self.lora_rates)
        if rank and regime.rank is None:
            rate *= LORA_RATE
        used = regime._replace(rate=rate)
        return TrainingConfig(
            Guidance(method.terms(run.strength, used)), steps=regime.steps, batch_size=self.batch_size,
            learning_rate=rate / run.strength if method.rate else rate, warmup=regime.warmup, seed=run.seed,
            precision=self.precision,
            lora=None if rank is None else LoRA(rank=rank, alpha=2.0 * rank),
        )  # fmt: skip


GEMMA = StudyConfig(  # which the regimes' own rates break: new tasks are lost, too
    "gemma3-270m", rates=0.05, lora_rates=0.8, methods=(*ALWAYS, "rehearsal + l2"),
    regimes=("destructive", "long", "mild"),
)  # fmt: skip


@cache
def _task(name: str) -> Task:
    return RULES[name]() if name in RULES else load_task(name)


@cache
def _old_task(name: str, generated: bool) -> Task:
    task = replace(load_task(name), cloze=None)
    return replace(task, scoring=GenerationScoring(max_tokens=8)) if generated else task
