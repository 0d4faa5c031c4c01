"""What a notebook shows of a record: a table and lines that are well-formed, small, escaped, and true."""

import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
import torch

from ivlens import ConditionComparison, Evaluation, HeadEffects, HeadMeans, InstructionVector, TrainingRun
from ivlens.records import CheckpointComparison, Record
from ivlens.records.html import POINTS, line
from ivlens.vocabulary import Head

MALICE = "<img src=x onerror=alert(1)>"


def compared(
    names: tuple[str, ...] = ("base", "one", "two"), tasks: tuple[str, ...] = ("antonym", "synonym"), **more: Any
):
    """Accuracy 0.9, 0.8, 0.7 ... from checkpoint to checkpoint."""
    rows = tuple(
        {"checkpoint": name, "task": task, "accuracy": 0.9 - 0.1 * (at % 9), "verdict": f"verdict {at}"}
        for at, name in enumerate(names) for task in tasks
    )  # fmt: skip
    shape = len(names), len(tasks)
    return CheckpointComparison(**{
        "rows": rows, "recovery": (), "aie": torch.zeros(*shape, 1, 1), "stderr": torch.zeros(*shape, 1, 1),
        "weights": torch.zeros(len(names), 4, 1, 1), "alignment": torch.zeros(*shape, 1),
        "stream_cosine": torch.zeros(*shape, 1), "cka": torch.zeros(*shape, 1), "head_cosine": torch.zeros(*shape, 1),
        "head_norm": torch.zeros(*shape, 1), "checkpoints": names, "tasks": tasks,
        "heads": ((Head(0, 0),),) * len(tasks), "metric": "probability",
    } | more)  # fmt: skip


def trained(losses: list[float], abilities: tuple[str, ...] = ("new", "old"), stopped: str = "") -> TrainingRun:
    measured = tuple(
        {"step": step, "ability": name, "role": "keep", "accuracy": 0.1 + 0.2 * step, "n": 20}
        for step in (0, 2) for name in abilities
    )  # fmt: skip
    return TrainingRun(torch.tensor(losses).double()[:, None], ("loss",), measured, stopped)


def shown(record: Record) -> ElementTree.Element:
    """The HTML that a notebook gets, parsed strictly."""
    html = record._repr_html_()
    assert html is not None
    assert len(html.encode()) < 100_000
    return ElementTree.fromstring(html)


def cells(tree: ElementTree.Element) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]


def points(drawn: str) -> list[list[tuple[float, float]]]:
    """The runs of a line as (x, y), without the last point, which stands twice."""
    runs = [run.get("points", "").split()[:-1] for run in ElementTree.fromstring(drawn).iter("polyline")]
    return [[(float(x), float(y)) for x, y in (place.split(",") for place in run)] for run in runs]


def test_a_comparison_shows_each_tasks_way_and_verdicts() -> None:
    tree = shown(compared(failures={"bad": "SourceError: no such folder"}))
    head, first, _ = cells(tree)
    assert head == ["task", "accuracy", "base", "one", "two"]
    assert first == ["antonym", "antonym: accuracy, 0 to 1, from base to two", "0.9", "0.8 verdict 1", "0.7 verdict 2"]
    assert len([*tree.iter("svg")]) == 2
    said = "".join(tree.itertext())
    assert "2 checkpoints beside the base" in said
    assert "bad could not be measured: SourceError: no such folder" in said


def test_a_comparison_of_many_is_small_and_says_what_it_leaves_out() -> None:
    tree = shown(compared(("base", *(f"step-{at}" * 30 for at in range(200))), tuple(f"task {at}" for at in range(60))))
    said = "".join(tree.itertext())
    assert "the last 6 of 200 checkpoints" in said
    assert "the first 10 of 60 rows" in said
    assert len(cells(tree)) == 11


def test_a_row_that_is_not_there_is_a_gap() -> None:
    record = compared(rows=({"checkpoint": "base", "task": "antonym", "accuracy": 0.5},))
    assert cells(shown(record))[1][2:] == ["0.5", "– ", "– "]
    assert cells(shown(record))[2][2:] == ["–", "– ", "– "]


def test_a_run_shows_its_loss_and_its_abilities() -> None:
    tree = shown(trained([4.0, 2.0, 1.0], stopped="the loss is nan"))
    assert cells(tree)[1:] == [
        [name, f"{name}: accuracy, 0 to 1", "0.1", "0.5", "keep", "20"] for name in ("new", "old")
    ]
    said = "".join(tree.itertext())
    assert "3 steps; stopped: the loss is nan" in said
    assert "loss in nats, from 4 to 1" in said
    assert len([*tree.iter("svg")]) == 3


@pytest.mark.parametrize(
    "record", [trained([]), TrainingRun(torch.zeros(0, 0), ()), trained([1.0] * 50_000), trained([1])]
)
def test_runs_of_no_one_or_many_steps_are_shown(record: TrainingRun) -> None:
    assert "step" in "".join(shown(record).itertext())


def test_other_records_show_their_first_rows() -> None:
    values = torch.rand(3, 10, 9, generator=torch.Generator().manual_seed(0))
    facts = {"model": {"source": "smollm2"}}
    tree = shown(HeadEffects(values, torch.zeros(3), "probability", "exact", "antonym", provenance=facts))
    assert cells(tree)[0] == ["layer", "head", "aie", "stderr", "rank"]
    assert len(cells(tree)) == 11
    assert "HeadEffects antonym; n = 3; smollm2" in "".join(tree.itertext())
    correct = torch.tensor([[True, False], [False, False]])
    assert cells(shown(ConditionComparison(correct, torch.zeros(2, 2), ("bare", "clean"), "antonym")))[1][:3] == [
        "antonym",
        "bare",
        "0.5",
    ]
    vector = InstructionVector(torch.ones(4), torch.ones(1, 4), (Head(3, 7),), "antonym")
    assert cells(shown(vector))[1] == ["3", "7", "2", "1"]
    assert HeadMeans(torch.zeros(1, 1, 1), 1)._repr_html_() is None


def test_an_evaluation_shows_its_means_and_the_prompts_where_they_are_known() -> None:
    numbers = torch.tensor([0.25, 0.75]), torch.ones(2), torch.ones(2), torch.tensor([True, False])
    assert cells(shown(Evaluation(*numbers))) == []
    tree = shown(Evaluation(*numbers, ("a?", "b?"), (" a", " b")))
    assert "accuracy 0.50 (0.09 to 0.91)" in "".join(tree.itertext())
    assert cells(tree)[1] == ["a?", " a", "0.25", "1", "1", "True", "1", "", "0"]


def test_every_text_is_escaped() -> None:
    facts = {"model": {"source": MALICE}}
    records = [
        compared(("base", MALICE), (MALICE,), failures={MALICE: MALICE}, provenance=facts),
        trained([1.0], (MALICE,), stopped=MALICE),
        ConditionComparison(torch.ones(1, 1).bool(), torch.ones(1, 1), (MALICE,), MALICE, provenance=facts),
        Evaluation(*(torch.ones(1),) * 3, torch.ones(1).bool(), (MALICE,), (MALICE,)),
    ]  # fmt: skip
    for record in records:
        tree = shown(record)
        assert not [*tree.iter("img")]
        assert MALICE in "".join(tree.itertext())


def test_lines_take_the_colour_of_the_text() -> None:
    html = compared()._repr_html_() + trained([2.0, 1.0])._repr_html_()
    assert 'stroke="currentColor"' in html
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb|color:(?! inherit)", html)


def test_a_line_is_where_its_values_are() -> None:
    [run] = points(line([0.0, 1.0, 0.5], "a", limits=(0, 1), size=(106, 26)))
    assert run == [(3, 23), (53, 3), (103, 13)]
    [run] = points(line([5.0, 9.0], "as far as they reach", size=(106, 26)))
    assert run == [(3, 23), (103, 3)]
    assert points(line([7.0, 7.0], "flat")) == [[(3, 19), (117, 19)]]
    assert points(line([-1.0, 2.0], "beyond its limits", limits=(0, 1))) == [[(3, 19), (117, 3)]]


def test_a_line_has_gaps_where_values_are_not_known() -> None:
    nan = math.nan
    runs = points(line([nan, 0.0, 1.0, nan, nan, 0.5, nan], "a", limits=(0, 1), size=(66, 26)))
    assert runs == [[(13, 23), (23, 3)], [(53, 13)]]
    assert points(line([], "none")) == points(line([nan, math.inf], "none")) == []


def test_a_long_line_shows_means_of_neighbours() -> None:
    [run] = points(line([0.0, 1.0] * POINTS, "a", limits=(0, 1), size=(126, 26)))
    assert len(run) == POINTS
    assert {y for _, y in run} == {13}
