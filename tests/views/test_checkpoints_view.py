"""Checkpoints as lines and bars: which task lies where, with which interval, under which name."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from ivlens.views import (
    alignment_by_layer,
    checkpoint_summary,
    checkpoint_trajectories,
    recovery_bars,
)

TASKS = ("present-past", "country-capital", "capitalize", "landmark-country")
NAMES = ("base", "after-1", "after-2", "after-3")
LONG = {
    "names": ["base", *(f"outputs/run-lowercase-first-letter/checkpoint-{500 * at}" for at in range(1, 13))],
    "tasks": [f"a task of the name {at}" for at in range(8)],
    "learned": (),
}
WIDE = {"names": ["base", *(f"step-{at}" for at in range(1, 9))], "tasks": [f"task-{at}" for at in range(12)]}
CONDITIONS = ["bare", "bare + base's vector", "bare + own vector", "bare + random vector", "clean"]


def lacking(record, *columns):
    """The same comparison without these columns."""
    rows = tuple({name: value for name, value in row.items() if name not in columns} for row in record.rows)
    return dataclasses.replace(record, rows=rows)


def titles(figure):
    return [note.text.removeprefix("<b>").removesuffix("</b>") for note in figure.layout.annotations if note.text]


def panel(figure, title):
    """Traces of the panel of this title, and its axes; panels and their titles are in the same order."""
    number = "" if titles(figure)[0] == title else str(titles(figure).index(title) + 1)
    traces = [each for each in figure.data if (each.xaxis or "x") == f"x{number}"]
    return traces, figure.layout[f"xaxis{number}"], figure.layout[f"yaxis{number}"]


def named(traces, name):
    return next(each for each in traces if each.name == name)


def legend(figure, key="legend"):
    """The texts of a legend, in their order."""
    traces = [each for each in figure.data if each.type != "heatmap" and (each.legend or "legend") == key]
    shown = [each for each in traces if each.showlegend is not False]
    return [each.name for each in sorted(shown, key=lambda each: each.legendrank)]


def facts_of(figure):
    return figure.layout.title.text.replace("<br>", " ")


def floats(values):
    return np.array(values, dtype=float)


def test_trajectories_have_a_panel_a_measure_and_a_line_a_task(comparison: Any) -> None:
    figure = checkpoint_trajectories(comparison())
    assert titles(figure) == ["accuracy", "instruction probability", "knowledge probability", "cosine of the vectors",
                              "norm ratio of the vectors", "alignment"]  # fmt: skip
    traces, _, axis = panel(figure, "accuracy")
    lines = [named(traces, task) for task in TASKS]
    assert list(lines[0].y) == pytest.approx([0.9, 0.7, 0.5, 0.3])
    assert list(lines[1].y) == pytest.approx([0.87, 0.67, 0.47, 0.27])
    assert [round(x) for x in lines[0].x] == [0, 1, 2, 3]
    assert lines[0].x[0] < lines[1].x[0] < lines[3].x[0] < lines[0].x[0] + 0.5
    assert (axis.range[0] < 0, axis.range[1] > 1) == (True, True)
    assert legend(figure) == list(TASKS)
    assert len({line.line.color for line in lines}) == 4
    _, names, _ = panel(figure, "norm ratio of the vectors")
    assert list(names.ticktext) == list(NAMES)


def test_intervals_are_bars_and_where_there_is_none_there_is_no_bar(comparison: Any) -> None:
    figure = checkpoint_trajectories(comparison())
    accuracy = named(panel(figure, "accuracy")[0], "present-past").error_y
    assert list(accuracy.array) == pytest.approx([0.1] * 4)
    assert list(accuracy.arrayminus) == pytest.approx([0.15] * 4)
    probability = named(panel(figure, "instruction probability")[0], "present-past")
    for ends in (probability.error_y.array, probability.error_y.arrayminus):
        assert list(ends) == pytest.approx([2.04523 * 0.03] * 4, abs=1e-6)  # Student's t, 30 prompts
    assert "95% interval 0.659 to 0.781" in probability.hovertext[0]
    norm = named(panel(figure, "norm ratio of the vectors")[0], "present-past")
    assert not any(norm.error_y.array)
    assert "interval" not in norm.hovertext[0]
    cosine = panel(figure, "cosine of the vectors")[2].range
    assert cosine[0] < 0.79 - 0.1
    assert cosine[1] > 1.01


def test_heads_chosen_anew_are_dashed_in_the_colour_of_their_task(comparison: Any) -> None:
    traces, *_ = panel(checkpoint_trajectories(comparison()), "cosine of the vectors")
    kept, again = (each for each in traces if each.legendgroup == "country-capital")
    assert (kept.line.dash, again.line.dash, again.name) == (None, "dash", "chosen anew")
    assert kept.line.color == again.line.color
    assert floats(again.y)[1:] == pytest.approx(floats(kept.y)[1:] - 0.1)
    assert math.isnan(floats(again.y)[0])


def test_a_task_without_a_cloze_has_no_knowledge_and_no_panel_without_any(comparison: Any) -> None:
    line = named(panel(checkpoint_trajectories(comparison()), "knowledge probability")[0], "present-past")
    assert np.isnan(floats(line.y)).all()
    for record in (comparison(tasks=TASKS[:1]), lacking(comparison(), "knowledge")):
        assert "knowledge probability" not in titles(checkpoint_trajectories(record))
    nothing = [row | {"knowledge": None, "knowledge_stderr": None} for row in comparison().rows]
    assert "knowledge probability" not in titles(checkpoint_trajectories(comparison(rows=tuple(nothing))))


def test_the_task_that_a_checkpoint_was_trained_on_is_ringed(comparison: Any) -> None:
    figure = checkpoint_trajectories(comparison(learned=("elsewhere", "capitalize")))
    [ring] = [each for each in panel(figure, "accuracy")[0] if each.name == "trained on"]
    line = named(panel(figure, "accuracy")[0], "capitalize")
    assert (list(ring.x), list(ring.y)) == ([line.x[2]], [line.y[2]])
    assert "ringed" in facts_of(figure)
    figure = checkpoint_trajectories(comparison(learned=("elsewhere", "", "", "capitalize")))
    assert "trained on" not in {each.name for each in figure.data}
    assert "ringed" not in facts_of(figure)


def test_a_single_task_needs_no_legend_and_twelve_differ(comparison: Any) -> None:
    figure = checkpoint_trajectories(comparison(NAMES[:2], TASKS[:1]))
    assert legend(figure) == legend(checkpoint_summary(comparison(NAMES[:2], TASKS[:1]))) == []
    assert "present-past" in figure.layout.title.text
    lines, *_ = panel(checkpoint_trajectories(comparison(**WIDE)), "accuracy")
    assert len({(each.line.color, each.marker.symbol) for each in lines}) == 12


def test_long_names_slant_under_the_lowest_panels_and_keep_their_ends(comparison: Any) -> None:
    figure = checkpoint_trajectories(comparison(**LONG))
    ticks = panel(figure, "alignment")[1]
    assert ticks.tickangle == -45
    assert max(map(len, ticks.ticktext)) <= 24
    assert ticks.ticktext[-1].endswith("point-6000")
    assert panel(figure, "accuracy")[1].showticklabels is False
    assert figure.layout.margin.b > 100
    figure = checkpoint_trajectories(comparison())
    assert panel(figure, "alignment")[1].tickangle == 0


def test_alignment_has_a_panel_a_task_and_the_base_in_black_on_top(comparison: Any) -> None:
    record = comparison()
    figure = alignment_by_layer(record)
    assert titles(figure) == list(TASKS)
    traces, across, _ = panel(figure, "capitalize")
    assert [each.name for each in traces] == list(reversed(NAMES))
    base, other = traces[-1], traces[0]
    assert list(other.y) == pytest.approx(record.alignment[3, 2].tolist())
    assert list(base.x) == [0, 1, 2, 3, 4, 5]
    assert (base.line.color, base.line.width > other.line.width) == ("#1f2328", True)
    assert legend(figure) == list(NAMES)
    assert across.title.text == "layer"
    assert len({axis.range for axis in figure.select_yaxes()}) == 1
    lines, *_ = panel(alignment_by_layer(comparison(**LONG)), "a task of the name 0")
    assert len({(each.line.color, each.line.dash) for each in lines}) == 13


def test_recovery_has_a_bar_a_condition_and_checkpoint_with_its_interval(comparison: Any) -> None:
    figure = recovery_bars(comparison())
    assert titles(figure) == list(TASKS)
    traces, names, _ = panel(figure, "capitalize")
    assert legend(figure) == [each.name for each in traces] == CONDITIONS
    clean = named(traces, "clean")
    assert list(clean.y) == pytest.approx([0.9, 0.7, 0.5, 0.3])
    assert list(clean.error_y.array) == pytest.approx([0.1, 0.15, 0.15, 0.15])
    assert list(clean.error_y.arrayminus) == pytest.approx([0.1] * 4)
    assert [round(x) for x in named(traces, "bare + own vector").x] == [1, 2, 3]
    first = sorted(x for each in traces for x in each.x if round(x) == 1)
    assert np.diff(first).min() > clean.width
    assert list(names.ticktext) == list(NAMES)
    assert "n = 30" in clean.hovertext[1]
    assert "after-1" in clean.hovertext[1]


def test_random_vectors_are_one_bar_from_the_least_to_the_greatest(comparison: Any) -> None:
    random = named(panel(recovery_bars(comparison()), "capitalize")[0], "bare + random vector")
    assert list(random.y) == pytest.approx([0.1] * 4)
    assert [*random.error_y.array, *random.error_y.arrayminus] == pytest.approx([0.1] * 8)
    assert "3 vectors: 0.00 to 0.20" in random.hovertext[0]
