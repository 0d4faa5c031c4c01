"""Comparisons as maps: on which scale, what is written in a cell, which heads are marked."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from ivlens.errors import ArgumentError
from ivlens.records import MATRICES
from ivlens.views import (
    checkpoint_heatmap,
    head_change_maps,
)

TASKS = ("present-past", "country-capital", "capitalize", "landmark-country")
NAMES = ("base", "after-1", "after-2", "after-3")


def lacking(record, *columns):
    """The same comparison without these columns."""
    rows = tuple({name: value for name, value in row.items() if name not in columns} for row in record.rows)
    return dataclasses.replace(record, rows=rows)


def titles(figure):
    return [note.text.removeprefix("<b>").removesuffix("</b>") for note in figure.layout.annotations if note.text]


def named(traces, name):
    return next(each for each in traces if each.name == name)


def facts_of(figure):
    return figure.layout.title.text.replace("<br>", " ")


def maps(figure):
    return [each for each in figure.data if each.type == "heatmap"]


def floats(values):
    return np.array(values, dtype=float)


@pytest.mark.parametrize(
    ("measure", "least", "middle", "most", "red"),
    [
        ("accuracy", 0, None, 1, None), ("knowledge", 0, None, 1, None), ("cosine", 0, None, 1, None),
        ("forgetting", -0.6, 0, 0.6, "high"), ("alignment_change", -0.24, 0, 0.24, "low"),
        ("norm_ratio", 0.4, 1, 1.6, "high"), ("weight_change_top", 0, None, 0.03, None),
    ],
)  # fmt: skip
def test_colours_suit_the_measure(
    comparison: Any, measure: str, least: float, middle: float, most: float, red: str
) -> None:
    figure = checkpoint_heatmap(comparison(), measure=measure)
    [cells] = maps(figure)
    assert (cells.zmin, cells.zmid, cells.zmax) == (pytest.approx(least), middle, pytest.approx(most))
    ends = [cells.colorscale[0][1], cells.colorscale[-1][1]]
    if red:
        assert ends == ["#2166ac", "#b2182b"]
        assert bool(cells.reversescale) is (red == "low")
    else:
        assert ends[1] == "#081d58"
    assert ("red: less than the base" in facts_of(figure)) is (measure in ("forgetting", "alignment_change"))


def test_a_negative_cosine_is_not_shown_as_none(comparison: Any) -> None:
    rows = tuple(row | {"cosine": row["cosine"] - (row["checkpoint"] == "after-3")} for row in comparison().rows)
    [cells] = maps(checkpoint_heatmap(comparison(rows=rows), measure="cosine"))
    assert (cells.zmin, cells.zmax, cells.colorscale[0][1]) == (-1, 1, "#2166ac")


def test_cells_bear_their_values_and_say_the_verdict(comparison: Any) -> None:
    figure = checkpoint_heatmap(comparison(), measure="forgetting")
    [cells] = maps(figure)
    assert floats(cells.z)[1] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert list(cells.text[1]) == ["0.00", "0.20", "0.40", "0.60"]
    text = cells.customdata[1][2]
    for part in ("country-capital", "after-2", "forgetting</b> 0.4 (95% interval -0.1 to 0.3)", "knowledge lost",
                 "accuracy fell by 0.40"):  # fmt: skip
        assert part in text
    assert list(figure.layout.yaxis.ticktext) == list(TASKS)
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert list(figure.layout.xaxis.ticktext) == list(NAMES)


def test_unknown_cells_have_a_dash_and_no_colour(comparison: Any) -> None:
    figure = checkpoint_heatmap(comparison(), measure="knowledge")
    [cells] = maps(figure)
    assert np.isnan(floats(cells.z)[0]).all()
    assert list(cells.text[0]) == [""] * 4
    assert "not measured" in cells.customdata[0][1]
    dashes = named(figure.data, "unknown")
    assert (list(dashes.x), list(dashes.y)) == ([0, 1, 2, 3], [0] * 4)
    figure = checkpoint_heatmap(lacking(comparison(), "overlap"), measure="overlap")
    assert len(named(figure.data, "unknown").x) == 16


def test_the_learned_task_is_outlined_in_the_heatmap(comparison: Any) -> None:
    trace = named(checkpoint_heatmap(comparison()).data, "trained on")
    assert {round(x) for x in trace.x if x is not None} == {1}
    assert {round(y) for y in trace.y if y is not None} == {2}


def test_head_maps_share_one_scale_and_show_the_base_first(comparison: Any) -> None:
    record = comparison()
    figure = head_change_maps(record, "country-capital")
    assert titles(figure) == list(NAMES)
    cells = maps(figure)
    assert floats(cells[2].z) == pytest.approx(record.aie[2, 1].numpy())
    limit = record.aie[:, 1].abs().max().item()
    assert {(each.zmin, each.zmid, each.zmax) for each in cells} == {(cells[0].zmin, 0, cells[0].zmax)}
    assert (cells[0].zmin, cells[0].zmax) == pytest.approx((-limit, limit))
    assert [bool(each.showscale) for each in cells] == [True, False, False, False]
    assert "%{customdata:.2g}" in cells[1].hovertemplate
    assert cells[0].colorbar.title.text == "effect (nats)"
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")
    assert tuple(figure.layout.yaxis.range) == (-0.5, 5.5)


def test_changes_are_against_the_base_which_is_left_out(comparison: Any) -> None:
    record = comparison()
    figure = head_change_maps(record, "capitalize", what="aie-change")
    assert titles(figure) == list(NAMES[1:])
    assert floats(maps(figure)[1].z) == pytest.approx((record.aie[2, 2] - record.aie[0, 2]).numpy(), abs=1e-6)
    assert maps(figure)[1].customdata is None
    assert "minus the base's" in facts_of(figure)


@pytest.mark.parametrize("what", MATRICES)
def test_weights_are_from_zero_to_the_largest_change(comparison: Any, what: str) -> None:
    record = comparison()
    figure = head_change_maps(record, TASKS[0], what=what)
    values = record.weights[1:, MATRICES.index(what)]
    assert titles(figure) == list(NAMES[1:])
    assert np.stack([floats(each.z) for each in maps(figure)]) == pytest.approx(values.numpy())
    [(least, most)] = {(each.zmin, each.zmax) for each in maps(figure)}
    assert (least, most) == (0, pytest.approx(values.max().item()))
    assert what in figure.layout.title.text
    assert "gained" not in {each.name for each in figure.data}


def test_the_bases_heads_are_outlined_and_the_gained_ones_circled(comparison: Any) -> None:
    figure = head_change_maps(comparison(), TASKS[0])
    corners = [each for each in figure.data if each.name == "outlines"]
    assert len(corners) == 4
    cells = {(round(y), round(x)) for x, y in zip(corners[3].x, corners[3].y, strict=True) if x is not None}
    assert cells == {(0, 0), (1, 1)}
    circles = [each for each in figure.data if each.name == "gained"]
    assert [(list(each.y), list(each.x)) for each in circles] == [([1], [1]), ([2], [1]), ([3], [1])]
    assert "the base's 2 strongest heads; circled" in facts_of(figure)


def test_maps_of_a_large_model_stay_legible(comparison: Any) -> None:
    figure = head_change_maps(comparison(NAMES[:3], TASKS[:1], n_layers=80, n_heads=64), TASKS[0])
    axis = figure.layout.xaxis
    across = (figure.layout.width - figure.layout.margin.l - figure.layout.margin.r) * (axis.domain[1] - axis.domain[0])
    assert across / 64 >= 5
    assert axis.dtick * across / 64 >= 24
    assert figure.layout.width <= 1080


def test_a_measure_a_task_and_a_what_that_are_not_there_are_refused(comparison: Any) -> None:
    with pytest.raises(ArgumentError, match=r"measure to be one of 'accuracy', 'probability', .*; got 'colour'"):
        checkpoint_heatmap(comparison(), measure="colour")
    with pytest.raises(ArgumentError, match=r"task to be one of 'present-past', .*; got 'antonym'"):
        head_change_maps(comparison(), "antonym")
    with pytest.raises(ArgumentError, match=r"what to be one of 'aie', 'aie-change', 'W_Q', .*'W_O'; got 'W_X'"):
        head_change_maps(comparison(), "capitalize", what="W_X")
