"""The search for what to put back, on validation prompts: cheapest first, under a guard for what was learned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import NamedTuple

import torch

from ..models import WeightKind, WeightPart
from ..records import Answers
from .mixing import Fractions, undone

STEP = 0.25  # of the greedy search
KINDS: tuple[WeightKind, ...] = ("attention", "mlp")
THEN = ", then "
NAMES = {"attention": "attention", "mlp": "MLPs"}

Measure = Callable[[Fractions, str], Answers]  # answers to the validation prompts of a role, "learned" or "keep"
Distance = Callable[[Fractions], float]  # KL(base || mixture) in nats, on a plain text


class Plan(NamedTuple):
    """What the search tries, see ``RepairConfig``."""

    fractions: Sequence[float]
    depths: Sequence[tuple[float, float]]
    n_bands: int
    n_greedy: int

    @property
    def most(self) -> int:
        """How many trials there are at most: the tuned model, what is given, and the greedy ones."""
        return 1 + len(self.fractions) + len(self.depths) + self.n_bands + len(KINDS) + self.n_greedy


class Trial(NamedTuple):
    """One mixture of weights: the step that tried it, in words, how much it undoes, and what it learned and keeps."""

    step: str
    what: str
    fractions: Fractions
    undone: float
    learned: float
    allowed: bool
    kept: float = float("nan")
    probability: float = float("nan")
    divergence: float = float("nan")


@dataclass
class Search:
    """Tries mixtures of weights, each once; what the guard refuses is not measured further.

    Of what passes, and keeps as much as the most that any mixture keeps, within one standard error, the mixture nearest
    the base is the best: the base has all old abilities, also those that are not among the tasks to keep (the
    one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984). ``n_keep`` is the number of
    prompts to keep; ``squared`` are the squared norms of the change of each part that changed.
    """

    measure: Measure
    distance: Distance
    n_keep: int
    n_layers: int
    squared: Mapping[WeightPart, float]
    tolerance: float
    finished: Callable[[], object]
    trials: list[Trial] = field(default_factory=list)

    def run(self, plan: Plan) -> Trial:
        """All steps, cheapest first; the best trial, which is the tuned model where nothing is better."""
        self.attempt("tuned", "as it is", Fractions.uniform(self.n_layers, 1.0))
        for step, what, mixture in self.given(plan):
            if not self.seen(fractions := mixture.only(self.squared)):
                self.attempt(step, what, fractions)
        self.greedy(plan)
        return self.best

    @property
    def best(self) -> Trial:
        """The best trial so far, the first of equal ones; the tuned model where nothing keeps more."""
        tuned = self.trials[0]
        more = [each for each in self.trials if each.allowed and _retained(each) > _retained(tuned)]
        most = max((each.kept for each in more), default=tuned.kept)
        as_much = [each for each in more if each.kept >= most - (most * (1 - most) / self.n_keep) ** 0.5]
        return min(as_much, key=lambda trial: trial.divergence, default=tuned)

    def given(self, plan: Plan) -> Iterator[tuple[str, str, Fractions]]:
        """The trials that do not depend on others: interpolation, by depth, and whole bands."""
        for fraction in plan.fractions:
            yield "interpolation", f"{fraction:g} of the change kept", Fractions.uniform(self.n_layers, fraction)
        for first, last in plan.depths:
            yield (
                "by depth",
                f"{first:g} to {last:g} of the change kept, by layer",
                Fractions.by_depth(self.n_layers, first, last),
            )
        tuned = Fractions.uniform(self.n_layers, 1.0)
        for band in bands(self.n_layers, plan.n_bands):
            yield "bands", f"the base's layers {_shown(band)}", tuned.changed(0.0, band, KINDS)
        for kind in KINDS:
            every = range(self.n_layers)
            yield "bands", f"the base's {NAMES[kind]} everywhere", tuned.changed(0.0, every, (kind,))

    def greedy(self, plan: Plan) -> None:
        """From the best trial, one band's attention or MLPs at a time, a step further back or forward."""
        every = product(bands(self.n_layers, plan.n_bands), KINDS)
        changed = [([layer for layer in band if WeightPart(kind, layer) in self.squared], kind) for band, kind in every]
        coordinates = [(layers, kind) for layers, kind in changed if layers]
        left, improved = plan.n_greedy, True
        while improved:
            improved = False
            for (layers, kind), step in product(coordinates, (-STEP, STEP)):
                best = self.best
                before = getattr(best.fractions, kind)[layers[0]]
                fraction = min(1.0, max(0.0, before + step))
                moved = best.fractions.changed(fraction, layers, (kind,))
                if fraction == before or self.seen(moved):
                    continue
                if not left:
                    return
                left -= 1
                what = _then(best.what, f"{NAMES[kind]} of layers {_shown(layers)} at ", fraction)
                self.attempt("greedy", what, moved)
                improved |= self.best is not best

    def seen(self, fractions: Fractions) -> bool:
        """Whether these fractions were tried."""
        return any(trial.fractions == fractions for trial in self.trials)

    def attempt(self, step: str, what: str, fractions: Fractions) -> Trial:
        """Measure one mixture: what was learned first, and the tasks to keep only if the guard lets it pass."""
        learned = accuracy(self.measure(fractions, "learned"))
        allowed = not self.trials or learned >= self.trials[0].learned - self.tolerance - 1e-9
        trial = Trial(step, what, fractions, undone(fractions, self.squared), learned, allowed)
        if allowed:
            answers = self.measure(fractions, "keep")
            probability = answers.log_probability.double().exp().mean().item()
            distance = self.distance(fractions)
            trial = trial._replace(kept=accuracy(answers), probability=probability, divergence=distance)
        self.trials.append(trial)
        self.finished()
        return trial


def bands(n_layers: int, count: int) -> list[range]:
    """The layers in ``count`` bands, as equal as can be; fewer for a model of fewer layers."""
    ends = torch.linspace(0, n_layers, min(count, n_layers) + 1).round().int().tolist()
    return [range(start, end) for start, end in pairwise(ends)]


def accuracy(answers: Answers) -> float:
    """The fraction of correct answers."""
    return answers.correct.double().mean().item()


def _retained(trial: Trial) -> tuple[float, float]:
    """Accuracy, and where that is equal the mean probability of the answers, on the tasks to keep."""
    return trial.kept, trial.probability


def _then(what: str, of: str, fraction: float) -> str:
    """A mixture in words with one more move; an earlier move of the same layers is left out."""
    moves = [each for each in what.split(THEN) if not each.startswith(of)]
    return THEN.join([*moves, f"{of}{fraction:g}"])


def _shown(layers: Sequence[int]) -> str:
    return f"{layers[0]} to {layers[-1]}"
