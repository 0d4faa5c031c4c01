"""The search on made-up models: what is tried in which order, what the guard refuses, what is chosen."""

from collections.abc import Callable

import torch

from ivlens.checkpoints.mixing import Fractions
from ivlens.checkpoints.search import Plan, Search, bands
from ivlens.models import WeightPart
from ivlens.records import Answers

N_LAYERS = 4
PARTS = [WeightPart("rest"), *(WeightPart(kind, layer) for kind in ("attention", "mlp") for layer in range(N_LAYERS))]
PLAN = Plan((0.5,), ((0.0, 1.0),), 2, 10)
Score = Callable[[Fractions], float]


def search(learned: Score, kept: Score, probability: Score = lambda each: 0.5, parts=PARTS, tolerance: float = 0.02):  # type: ignore[no-untyped-def]
    """A search over a model that answers these fractions of 100 prompts."""
    measured: list[str] = []

    def measure(fractions: Fractions, role: str) -> Answers:
        measured.append(role)
        right = round(100 * (learned if role == "learned" else kept)(fractions))
        logs = torch.full((100,), probability(fractions), dtype=torch.float64).log()
        return Answers(logs, torch.arange(100) < right)

    def distance(fractions: Fractions) -> float:
        return sum(fractions.of(part) for part in PARTS) / len(PARTS)

    return Search(measure, distance, 100, N_LAYERS, dict.fromkeys(parts, 1.0), tolerance, lambda: None), measured


def test_the_cheapest_are_tried_first() -> None:
    made, _ = search(lambda each: 1.0, lambda each: 1.0)
    made.run(plan := PLAN._replace(n_greedy=0))
    assert len(made.trials) == plan.most
    assert [(trial.step, trial.what) for trial in made.trials] == [
        ("tuned", "as it is"),
        ("interpolation", "0.5 of the change kept"),
        ("by depth", "0 to 1 of the change kept, by layer"),
        ("bands", "the base's layers 0 to 1"),
        ("bands", "the base's layers 2 to 3"),
        ("bands", "the base's attention everywhere"),
        ("bands", "the base's MLPs everywhere"),
    ]


def test_all_that_the_guard_allows_is_put_back() -> None:
    made, _ = search(lambda each: sum(each.attention) / 4, lambda each: 1 - each.mlp[2])
    best = made.run(PLAN._replace(n_bands=N_LAYERS, n_greedy=200))
    assert (best.fractions.attention, best.fractions.mlp) == ((1.0,) * 4, (0.0,) * 4)


def test_a_greedy_trial_says_what_it_started_from() -> None:
    made, _ = search(lambda each: 1.0, lambda each: 1 - each.attention[0] / 2 - abs(each.rest - 0.5))
    made.run(PLAN._replace(depths=(), n_bands=1))
    moves = [trial.what for trial in made.trials if trial.step == "greedy"]
    assert moves[0] == "0.5 of the change kept, then attention of layers 0 to 3 at 0.25"
    assert moves[2].endswith("kept, then MLPs of layers 0 to 3 at 0.25, then attention of layers 0 to 3 at 0")
    assert all(text.count("attention") == 1 for text in moves)  # the last move of a band alone


def test_what_was_learned_in_one_part_is_never_given_up() -> None:
    made, measured = search(lambda each: float(each.attention[3] == 1), lambda each: 1 - sum(each.mlp) / 4)
    best = made.run(PLAN)
    assert best.fractions.attention[3] == 1
    assert best.fractions.mlp == (0.0,) * 4
    refused = [trial for trial in made.trials if not trial.allowed]
    assert refused
    assert all(trial.kept != trial.kept for trial in refused)
    assert measured.count("keep") == len(made.trials) - len(refused)


def test_the_tolerance_is_what_may_be_lost() -> None:
    for tolerance, fraction in ((0.5, 0.5), (0.49, 1.0)):
        made, _ = search(lambda each: each.rest, lambda each: 1 - each.rest, tolerance=tolerance)
        assert made.run(PLAN._replace(depths=(), n_greedy=0)).fractions.rest == fraction


def test_of_those_that_keep_as_much_within_a_standard_error_the_nearest_the_base_is_chosen() -> None:
    plan = Plan((0.5, 0.25, 0.0), (), 1, 0)
    for at_half, at_quarter, chosen in ((0.80, 0.77, 0.25), (0.80, 0.75, 0.5)):  # the standard error is .04
        kept = {1.0: 0.3, 0.5: at_half, 0.25: at_quarter, 0.0: 0.1}
        made, _ = search(lambda each: 1.0, lambda each, kept=kept: kept[each.rest] - 0.1 * (each.mlp != each.attention))
        assert made.run(plan).fractions == Fractions.uniform(N_LAYERS, chosen)


def test_what_keeps_no_more_than_the_tuned_model_is_not_chosen() -> None:
    made, _ = search(lambda each: 1.0, lambda each: each.rest, lambda each: 0.5)
    assert made.run(PLAN).step == "tuned"
    made, _ = search(lambda each: 1.0, lambda each: 1.0)
    assert made.run(PLAN).step == "tuned"
    made, _ = search(
        lambda each: 1.0, lambda each: 1.0, lambda each: 1 - each.mlp[0] / 2
    )  # more probable, as often right
    assert made.run(PLAN).fractions.mlp[0] < 1


def test_no_mixture_is_tried_twice_and_unchanged_parts_are_left() -> None:
    made, _ = search(lambda each: 1.0, lambda each: 1 - each.mlp[1], parts=[WeightPart("mlp", 1)])
    made.run(PLAN)
    tried = [trial.fractions for trial in made.trials]
    assert len({*tried}) == len(tried)
    assert {each.mlp[1] for each in tried} == {0.0, 1 / 3, 0.5, 1.0, 0.25}
    assert {(each.attention, each.rest, each.mlp[2]) for each in tried} == {((1.0,) * 4, 1.0, 1.0)}


def test_the_greedy_search_takes_at_most_its_trials() -> None:
    made, _ = search(lambda each: 1.0, lambda each: 1 - sum(each.mlp + each.attention) / 8)
    made.run(PLAN._replace(n_greedy=3))
    assert [trial.step for trial in made.trials].count("greedy") == 3


def test_bands_divide_all_layers() -> None:
    assert bands(10, 3) == [range(3), range(3, 7), range(7, 10)]
    assert bands(2, 3) == [range(1), range(1, 2)]
