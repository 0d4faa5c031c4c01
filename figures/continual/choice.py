"""Frontiers of what is kept against what is learned, the area under them, and what is chosen by it on the trials."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from .config import ALWAYS, METHODS, WITH_OLD_EXAMPLES, Run, StudyConfig
from .runs import Line

Kept = Literal["retained", "still_right"]  # of a point: what is kept of old tasks, relative to the base
LEARNED = 0.95  # of what the best plain training gained, which a method's chosen strength has to gain


class Point(NamedTuple):
    """What a run learned and kept: accuracies at its end, and the base's; ``after``: of new tasks right after each.

    ``still_right`` is the share that is answered at the end of the prompts of old tasks that the base answers: what is
    newly right elsewhere does not make up for what is lost, as it does in ``kept``. ``changes``: of the accuracy on
    each old task. ``right``: of each of those prompts, by its task and number, whether it is still answered.
    """

    learned: float
    kept: float
    base_learned: float
    base_kept: float
    after: float
    still_right: float
    changes: Mapping[str, float]
    right: Mapping[tuple[str, int], bool]

    @property
    def gained(self) -> float:
        """How much of what the base could not do of the new tasks was learned, from 0 to 1."""
        return max(0.0, (self.learned - self.base_learned) / (1 - self.base_learned))

    @property
    def retained(self) -> float:
        """How much is kept of what the base could do of the old tasks; above 1 where more is done than by the base."""
        return self.kept / self.base_kept


def point(line: Line) -> Point | None:
    """The point of a run; None of one that was stopped, which neither learned nor kept anything."""
    rows = line["rows"]
    if not rows:
        return None
    end = max(row["stage"] for row in rows)

    def mean(role: str, stage: int) -> float:
        found = [row["accuracy"] for row in rows if (row["role"], row["stage"]) == (role, stage)]
        return sum(found) / len(found)

    after: dict[str, float] = {}
    for row in rows:  # in the order of the stages: a task is first measured before all, then after its own
        if row["role"] == "new" and row["stage"] > 0:
            after.setdefault(row["ability"], row["accuracy"])
    base, last = (
        {row["ability"]: row for row in rows if (row["role"], row["stage"]) == ("keep", stage)} for stage in (0, end)
    )
    right = {
        (name, at): last[name]["correct"][at] == "1"
        for name in base for at, answer in enumerate(base[name]["correct"]) if answer == "1"
    }  # fmt: skip
    return Point(
        mean("new", end), mean("keep", end), mean("new", 0), mean("keep", 0), sum(after.values()) / len(after),
        sum(right.values()) / len(right) if right else float("nan"),
        {name: last[name]["accuracy"] - base[name]["accuracy"] for name in base}, right,
    )  # fmt: skip


def area(points: Iterable[Point | None], measure: Kept = "retained") -> float:
    """The area under the frontier of these points, about from 0 to 1.

    At each share of the new tasks that is to be learned, it is the largest share of the old ones that any point keeps
    which learned as much, by this measure; where no point did, it is 0.
    """
    total, highest, right = 0.0, 0.0, 0.0
    for each in sorted((each for each in points if each is not None), key=lambda each: -each.gained):
        total += (right - each.gained) * highest
        highest, right = max(highest, getattr(each, measure)), each.gained
    return total + right * highest


def areas(
    lines: Mapping[Run, Line], part: str, regime: str, method: str, measure: Kept = "retained"
) -> dict[tuple[int, int], float]:
    """The area of a method in each pair of order and seed in which it ran at all its strengths."""
    groups: dict[tuple[int, int], list[Point | None]] = {}
    for run, line in lines.items():
        if (run.part, run.regime, run.method) == (part, regime, method):
            groups.setdefault((run.order, run.seed), []).append(point(line))
    whole = len(METHODS[method].strengths)
    return {pair: area(points, measure) for pair, points in groups.items() if len(points) == whole}


def ranked(lines: Mapping[Run, Line], regimes: Sequence[str], methods: Iterable[str]) -> list[tuple[str, float]]:
    """Methods by the mean of their areas over these regimes of the trials, in all of which they were tried."""
    found = {}
    for method in methods:
        values = [value for regime in regimes for value in areas(lines, "trial", regime, method).values()]
        if len(values) == len(regimes):
            found[method] = sum(values) / len(values)
    return sorted(found.items(), key=lambda pair: -pair[1])


def halved(lines: Mapping[Run, Line], config: StudyConfig) -> tuple[str, ...]:
    """The methods that are tried in all regimes: ``ALWAYS``, and the best of the screening."""
    names = [name for name, _ in ranked(lines, config.screened, config.methods) if name not in ALWAYS]
    return (*ALWAYS, *names[: config.halved])


def finalists(lines: Mapping[Run, Line], config: StudyConfig) -> tuple[str, ...]:
    """The methods of the final part: ``ALWAYS``, and the best of all trials without old examples."""
    names = [name for name, _ in ranked(lines, config.regimes, config.methods)]
    return (*ALWAYS, *[name for name in names if name not in (*ALWAYS, *WITH_OLD_EXAMPLES)][: config.finalists])


def chosen_strength(lines: Mapping[Run, Line], regime: str, method: str) -> float | None:
    """The strength of a method that its trials choose for a regime; None without trials.

    It keeps most among those that gained LEARNED of what the best plain training did; where none did, it gained most.
    """
    trials = {run: point(line) for run, line in lines.items() if (run.part, run.regime) == ("trial", regime)}
    found = {run: each for run, each in trials.items() if each is not None}
    goal = LEARNED * max((each.gained for run, each in found.items() if run.method == "plain"), default=0.0)

    def worth(run: Run) -> tuple[bool, float, float]:
        each = found[run]
        return (True, each.retained, each.gained) if each.gained >= goal else (False, each.gained, each.retained)

    own = [run for run in found if run.method == method]
    return max(own, key=worth).strength if own else None


def in_order(read: Callable[[], Mapping[Run, Line]], config: StudyConfig) -> Iterator[Run | None]:
    """All runs of the study, some of them twice; of the finals those at the chosen strengths come first.

    None stands where what follows is chosen by all that came before, which ``read`` then has to give.
    """
    others = [regime for regime in config.regimes if regime not in config.screened]
    yield from config.trials(config.screened, config.methods)
    yield None
    yield from config.trials(others, halved(read(), config))
    yield None
    lines = read()
    chosen = finalists(lines, config)
    for regimes in (config.screened, others):
        runs = config.finals(regimes, chosen, config.pairs)
        yield from (run for run in runs if run.strength == chosen_strength(lines, run.regime, run.method))
    yield from config.finals(config.regimes, chosen, config.pairs)
