"""Sequences drawn: every ability after each task, means as lines, and the page of one run or of several."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ivlens as iv
from ivlens.errors import ArgumentError
from sequences import made_up_sequence

RUN = made_up_sequence()


def test_the_matrix_has_a_row_per_ability_and_outlines_what_was_learned() -> None:
    matrix, outlined = iv.views.continual_matrix(RUN).data
    assert np.array(matrix.z).shape == (6, 3)
    assert list(matrix.z[0]) == [0.0, 1.0, 0.5]
    assert list(matrix.z[3]) == [0.25, 0.25, 0.125]  # knowledge: its probability
    corners = [x for x in outlined.x if x is not None]
    assert (min(corners), max(corners)) == pytest.approx((0.52, 2.48))  # stages 1 and 2, not the base


def test_curves_have_a_panel_per_measure_and_a_line_per_run() -> None:
    figure = iv.views.continual_curves({"one": RUN, "two": RUN})
    lines = [trace for trace in figure.data if trace.mode != "none"]
    assert len(lines) == 2 * 11
    titles = [each.text.removeprefix("<b>").removesuffix("</b>") for each in figure.layout.annotations]
    assert titles[:3] == ["learned", "AP", "Forget"]
    assert titles[9] == "norm ratio"
    assert {figure.layout[f"xaxis{at}"].range for at in ("", "2", "3", "10")} == {(-0.2, 2.2)}
    assert [figure.layout[axis].range for axis in ("yaxis", "yaxis2")] == [(-0.04, 1.04)] * 2
    assert figure.layout.yaxis3.range is figure.layout.yaxis10.range is None  # may be below 0, above 1
    assert list(lines[0].y) == [0.125, 1.0, 0.625]


def test_what_has_no_interval_has_no_band_and_says_none() -> None:
    """Probabilities of four prompts; from the first stage on one of them is 0, as of a wrong answer."""
    figure = iv.views.continual_curves(RUN)
    band, line = [each for each in figure.data if each.legendgroup == "instruction probability"]
    assert [*band.x] == [1, 2, 2, 1]
    assert [text[:2] for text in line.customdata] == ["", " (", " ("]
    assert [len(each.x) for each in figure.data if each.legendgroup == "kept" and each.fill] == [6]


def test_a_page_of_one_run_and_of_several(tmp_path: Path) -> None:
    page = iv.views.write_continual_report(tmp_path / "one.html", {"plain": RUN}).read_text()
    assert "What is kept against what is learned" not in page
    runs = {"whole, seed 0": RUN, "whole, seed 1": RUN, "plain, seed 0": RUN}
    page = iv.views.write_continual_report(tmp_path / "several.html", runs).read_text()
    assert "What is kept against what is learned" in page
    assert all(f">{name}<" in page for name in runs)
    assert "What the papers say, tested here" in page
    assert "instruction following falls more than knowledge" in page


def test_pages_of_nothing_or_of_two_sequences_are_refused(tmp_path: Path) -> None:
    other = replace(RUN, tasks=("second", "first"))
    for runs in ({}, {"one": RUN, "other": other}):
        with pytest.raises(ArgumentError, match="all of one sequence"):
            iv.views.write_continual_report(tmp_path / "page.html", runs)
    for draw in (iv.views.continual_matrix, iv.views.continual_curves):
        with pytest.raises(ArgumentError, match="measured"):
            draw(iv.ContinualRun(("first",)))


def test_a_report_of_records_shows_it(tmp_path: Path) -> None:
    page = iv.views.write_report(tmp_path / "report.html", {"run": RUN}).read_text()
    assert "Tasks learned one after the other" in page
    assert "Every ability after each task" in page
