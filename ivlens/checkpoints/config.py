"""What is measured on a checkpoint, and the rule by which a verdict is given."""

from dataclasses import dataclass, field
from typing import Annotated

from ..checks import Between, Count, Fraction, Natural, Seed, checked
from ..errors import ArgumentError, one_of
from ..records import METRICS
from ..tasks import CORRUPTIONS
from ..vocabulary import check_count, check_layers


@checked
@dataclass(frozen=True)
class VerdictRule:
    """Thresholds of the verdict (``verdict`` says how they are used); accuracies and fractions of the base's, 0 to 1.

    ``known``: accuracy from which a task counts as an ability of the base; ``tolerated``: drop of accuracy up to which
    it is kept; ``recovered``: fraction of what the base's vector does on the base from which the function is still
    there; ``remembered``: fraction of the base's knowledge probability from which the knowledge is still there.
    """

    known: Fraction = 0.3
    tolerated: Fraction = 0.1
    recovered: Fraction = 0.5
    remembered: Fraction = 0.5


@checked
@dataclass(frozen=True)
class CheckpointConfig:
    """How checkpoints are measured; a changed field recomputes only what it touches.

    ``n_clean`` prompts of the train split, in ``groups`` for intervals, give the means; ``n_corrupted`` ones the
    effects; the ``k`` strongest heads are summed into the vector. ``n_test`` prompts are answered. Where the base's
    vector is added, among ``layers`` (None: every third of the middle half) and ``scales``, is chosen on
    ``n_validation`` prompts of the base.

    Raises:
        ArgumentError: naming the field that is outside its values.
    """

    n_clean: Count = 40
    groups: Annotated[int, Between(2)] = 5
    n_corrupted: Count = 20
    corruption: str = "no-instruction"
    metric: str = "log-probability"
    k: Count = 20
    shots: Natural = 2
    n_test: Count = 30
    n_validation: Count = 20
    layers: tuple[Natural, ...] | None = None
    scales: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0)
    random_seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0
    rule: VerdictRule = field(default_factory=VerdictRule)

    def __post_init__(self) -> None:
        if self.groups > self.n_clean:
            raise ArgumentError(f"groups to be at most n_clean, {self.n_clean}", repr(self.groups))
        one_of("corruption", self.corruption, CORRUPTIONS)
        one_of("metric", self.metric, METRICS)
        if not self.scales or not self.random_seeds:
            raise ArgumentError("scales and random_seeds, one or more of each", "none")

    @checked
    def check_model(self, n_layers: Count, n_heads: Count) -> None:
        """Raise ArgumentError where a model has not the layers that are to be tried, or as many heads."""
        self.tried_layers(n_layers)
        check_count(self.k, n_layers * n_heads, name="k")

    @checked
    def tried_layers(self, n_layers: Annotated[int, Between(1, 10_000)]) -> tuple[int, ...]:
        """The layers at which the base's vector is tried."""
        middle = range(n_layers // 4, max(n_layers * 3 // 4, n_layers // 4 + 1))
        layers = tuple(middle[::3]) if self.layers is None else self.layers
        check_layers(n_layers, layers)
        return layers
