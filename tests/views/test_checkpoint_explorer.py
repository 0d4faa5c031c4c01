"""``explore`` of a comparison: the map of each measure, what a clicked pair shows, older records, escaped text."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ivlens as iv
from ivlens import ArgumentError, CheckpointComparison
from ivlens.records.tables import answers_table, interval_in, measure_interval, measure_values, pair_of
from ivlens.views import CheckpointExplorer
from ivlens.views.checkpoints.words import VERDICT_STYLES

TASKS = ("present-past", "country-capital")
EVIL = "<script>alert(1)</script>"
PROMPTS = tuple(
    {"task": task, "prompt": number, "instruction": "Write it.", "text": f"Write it. {word}", "bare": f"bare {word}",
     "answer": f" {word}ed"}
    for task in TASKS for number, word in enumerate(("walk", "jump", EVIL))
)  # fmt: skip
# after-1 loses the second prompt; with the base's vector it is right again
REPLIES = tuple(
    {"checkpoint": name, "task": row["task"], "prompt": row["prompt"], "correct": not lost,
     "reply": " lost it" if lost else row["answer"], "steered": row["answer"], "steered_correct": True}
    for name in ("base", "after-1", "after-2") for row in PROMPTS
    for lost in [name == "after-1" and row["prompt"] == 1]
)  # fmt: skip


@pytest.fixture
def record(comparison: Callable[..., CheckpointComparison]) -> CheckpointComparison:
    evidence = tuple(
        {"checkpoint": name, "task": task, "kind": "base's vector added", "value": 0.7, "low": 0.4, "high": 1.1,
         "threshold": 0.5, "opinion": "undecided", "prompts": 30, "prompts_needed": 120}
        for name in ("after-1", "after-2") for task in TASKS
    )  # fmt: skip
    return comparison(("base", "after-1", "after-2"), TASKS, prompts=PROMPTS, replies=REPLIES, evidence=evidence)


@pytest.fixture
def widget(record: CheckpointComparison) -> CheckpointExplorer:
    found = iv.explore(record)
    assert isinstance(found, CheckpointExplorer)
    return found


def click(widget: CheckpointExplorer, row: int, column: int) -> None:
    """What the browser tells of a click on a square of the map."""
    points = {"xs": [column], "ys": [row], "point_indexes": [[row, column]], "trace_indexes": [0]}
    widget.map._js2py_pointsCallback = {"event_type": "plotly_click", "points": points}


def test_the_first_map_shows_verdicts_in_the_pages_colours(widget: CheckpointExplorer) -> None:
    heatmap, known = widget.map.data[0], list(VERDICT_STYLES)
    verdicts = [
        [next(row["verdict"] for row in widget.comparison.rows if (row["task"], row["checkpoint"]) == (task, name))
         for name in widget.comparison.checkpoints]
        for task in TASKS
    ]  # fmt: skip
    assert np.array(heatmap.z).tolist() == [[known.index(verdict) for verdict in row] for row in verdicts]
    assert heatmap.text[0][0] == "base"
    colours = [colour for _, colour in VERDICT_STYLES.values()]
    assert [colour for _, colour in heatmap.colorscale][::2] == colours
    assert not heatmap.showscale


def test_every_measure_is_drawn_and_verdicts_again_after_it(widget: CheckpointExplorer) -> None:
    verdicts = np.array(widget.map.data[0].z)
    for column in ("accuracy", "forgetting", "recovered_fraction", "cosine", "norm_ratio"):
        widget.measure.value = column
        expected = widget.comparison.to_frame().pivot(index="task", columns="checkpoint", values=column)
        values = expected.loc[list(TASKS), list(widget.comparison.checkpoints)].astype(float).to_numpy()
        assert widget.map.data[0].z == pytest.approx(values, nan_ok=True)
        assert widget.map.data[0].showscale
        assert widget.callbacks.status.value == ""
    widget.measure.value = "verdict"
    assert np.array_equal(widget.map.data[0].z, verdicts)
    assert widget.map.data[0].zmax == len(VERDICT_STYLES) - 0.5


def test_a_click_shows_the_pairs_numbers_heads_and_answers(widget: CheckpointExplorer) -> None:
    click(widget, 1, 2)
    assert widget.shown == ("country-capital", "after-2")
    assert "<h3>country-capital at after-2</h3>" in widget.facts.value
    row = next(row for row in widget.comparison.rows if (row["task"], row["checkpoint"]) == widget.shown)
    assert row["verdict"] in widget.facts.value
    assert row["because"] in widget.facts.value
    assert f"{row['cosine']:.2f}" in widget.facts.value
    assert "70%\u00a0(40%" in widget.facts.value  # the evidence
    change = (widget.comparison.aie[2, 1] - widget.comparison.aie[0, 1]).numpy()
    assert widget.head_map.data[0].z == pytest.approx(change, abs=1e-6)
    (frame,) = widget.map.layout.shapes
    assert ((frame.x0 + frame.x1) / 2, (frame.y0 + frame.y1) / 2) == (2, 1)
    widget.what.value = "W_V"
    assert widget.head_map.data[0].z == pytest.approx(widget.comparison.weights[2, 2].numpy(), abs=1e-6)


def test_the_base_shows_its_effects_and_its_answers(widget: CheckpointExplorer) -> None:
    widget.look("present-past", "base")
    assert widget.head_map.data[0].z == pytest.approx(widget.comparison.aie[0, 0].numpy(), abs=1e-6)
    assert "base with the base" in widget.answers.value


def test_lost_answers_come_first(record: CheckpointComparison) -> None:
    table = answers_table(pair_of(record, "present-past", "after-1"))
    assert table.index.tolist() == [1, 0, 2]
    assert table.loc[1, ["base", "reply", "steered"]].tolist() == [" jumped", " lost it", " jumped"]
    assert table["right"].tolist() == [False, True, True]


def test_answers_are_marked_and_escaped(widget: CheckpointExplorer) -> None:
    widget.look("present-past", "after-1")
    text = widget.answers.value
    assert "✗ lost it" in text
    assert text.index("bare jump") < text.index("bare walk")
    assert EVIL not in text
    assert EVIL not in widget.snapshot.draw()


def test_a_pair_holds_what_is_about_it_alone(record: CheckpointComparison) -> None:
    pair = pair_of(record, "country-capital", "after-2")
    assert (pair.checkpoints, pair.tasks) == (("base", "after-2"), ("country-capital",))
    assert pair.aie.shape == (2, 1, *record.aie.shape[2:])
    assert pair.aie[1, 0].equal(record.aie[2, 1])
    assert pair.weights[1].equal(record.weights[2])
    assert {(row["task"], row["checkpoint"]) for row in (*pair.rows, *pair.replies, *pair.recovery)} == {
        ("country-capital", name) for name in ("base", "after-2")
    }
    assert pair_of(record, "country-capital", "base").checkpoints == ("base",)


def test_an_interval_is_its_own_or_from_the_standard_error(record: CheckpointComparison) -> None:
    for measure in ("accuracy", "probability", "norm_ratio", "kl_new"):
        tables = [measure_values(record, measure), *measure_interval(record, measure)]
        for row in record.rows:
            expected = [table.loc[row["checkpoint"], row["task"]] for table in tables]
            assert interval_in(row, measure) == pytest.approx(expected, nan_ok=True)


def test_a_comparison_of_an_earlier_version_says_what_it_lacks(
    comparison: Callable[..., CheckpointComparison],
) -> None:
    widget = CheckpointExplorer(comparison())
    assert "answers were not kept" in widget.answers.value
    assert "Is it still there?" not in widget.facts.value


def test_a_base_alone_is_shown(comparison: Callable[..., CheckpointComparison]) -> None:
    widget = CheckpointExplorer(comparison(("base",), TASKS, learned=()))
    assert widget.shown == ("present-past", "base")
    assert widget.callbacks.status.value == ""


def test_a_saved_notebook_has_map_numbers_and_answers(widget: CheckpointExplorer) -> None:
    picture = widget.snapshot.draw()
    assert picture.count("data:image/svg+xml") == 2
    assert re.search(rf"<h3>{widget.shown[0]} at {widget.shown[1]}</h3>", picture)


def test_tasks_beside_a_comparison_and_a_model_alone_are_refused(record: Any, tiny_hooked: Any) -> None:
    with pytest.raises(ArgumentError, match=r"a comparison alone.*leave them out"):
        iv.explore(record, "antonym")
    with pytest.raises(ArgumentError, match="tasks or prompts beside a model"):
        iv.explore(tiny_hooked("llama"))
    with pytest.raises(ArgumentError, match="task"):
        iv.explore(record).look("antonym", "base")
