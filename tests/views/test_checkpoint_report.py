"""A comparison on one page: verdicts, panels that keep apart, and data that stays text."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.io as pio
import pytest

from ivlens.errors import RecordError
from ivlens.records import CheckpointComparison, store
from ivlens.views import (
    alignment_by_layer,
    checkpoint_heatmap,
    checkpoint_summary,
    checkpoint_trajectories,
    head_change_maps,
    recovery_bars,
    write_comparison_report,
)
from ivlens.views.checkpoints.measured import general_table, measured_tables
from ivlens.views.checkpoints.words import CONDITION_COLOURS, VERDICT_STYLES
from ivlens.vocabulary import RECOVERY_CONDITIONS, Condition, Verdict

pytestmark = pytest.mark.slow

TASKS = ("present-past", "country-capital", "capitalize", "landmark-country")
NAMES = ("base", "after-1", "after-2", "after-3")
LONG = {
    "names": ["base", *(f"outputs/run-lowercase-first-letter/checkpoint-{500 * at}" for at in range(1, 13))],
    "tasks": [f"a task of the name {at}" for at in range(8)],
    "learned": (),
}
WIDE = {"names": ["base", *(f"step-{at}" for at in range(1, 9))], "tasks": [f"task-{at}" for at in range(12)]}
CONDITIONS = ["bare", "bare + base's vector", "bare + own vector", "bare + random vector", "clean"]
VERDICTS = ("kept", "activation drowned, recoverable", "function changed", "knowledge lost",
            "not shown to have fallen", "fallen, recovery undecided", "not an ability of the base")  # fmt: skip
MALICE = "<img src=x onerror=alert(1)>"


def titles(figure):
    return [note.text.removeprefix("<b>").removesuffix("</b>") for note in figure.layout.annotations if note.text]


def named(traces, name):
    return next(each for each in traces if each.name == name)


def legend(figure, key="legend"):
    """The texts of a legend, in their order."""
    traces = [each for each in figure.data if each.type != "heatmap" and (each.legend or "legend") == key]
    shown = [each for each in traces if each.showlegend is not False]
    return [each.name for each in sorted(shown, key=lambda each: each.legendrank)]


def maps(figure):
    return [each for each in figure.data if each.type == "heatmap"]


def test_the_summary_has_verdicts_abilities_and_recovery(comparison: Any) -> None:
    figure = checkpoint_summary(comparison())
    assert [*titles(figure)[:4], *titles(figure)[5:]] == [
        "Verdicts", "Accuracy", "Instruction probability", "Knowledge probability", *TASKS]  # fmt: skip
    [cells] = maps(figure)
    assert [list(row) for row in cells.text[:2]] == [["drowned", "changed", "lost"], ["changed", "lost", "not shown"]]
    assert "accuracy fell by 0.20" in cells.customdata[0][0]
    pairs = zip(np.ravel(cells.text), np.ravel(cells.z), strict=True)
    colours = {str(text): cells.colorscale[2 * int(code)][1] for text, code in pairs}
    assert (colours["kept"], colours["drowned"], len(set(colours.values()))) == ("#56b4e9", "#e69f00", 7)
    keys = legend(figure, "legend2")
    assert [text.replace("<br>", " ") for text in keys] == list(VERDICTS)
    marks = {each.name.replace("<br>", " "): each.marker.color for each in figure.data if each.legend == "legend2"}
    assert marks["activation drowned, recoverable"] == colours["drowned"]
    assert legend(figure) == list(TASKS)
    assert legend(figure, "legend3") == CONDITIONS
    for number, name in ((2, "present-past"), (7, "clean")):
        traces = [each for each in figure.data if each.xaxis == f"x{number}"]
        assert list(named(traces, name).y) == pytest.approx([0.9, 0.7, 0.5, 0.3])


@pytest.mark.parametrize("kind", [{}, LONG, WIDE, {"names": NAMES[:2], "tasks": TASKS[:1]}])
def test_panels_of_the_summary_do_not_overlap(comparison: Any, kind: dict[str, Any]) -> None:
    record = comparison(**kind)
    figure = checkpoint_summary(record)
    axes = zip(figure.select_xaxes(), figure.select_yaxes(), strict=True)
    boxes = [(*across.domain, *up.domain) for across, up in axes]
    for at, one in enumerate(boxes):
        for two in boxes[:at]:
            apart = one[0] >= two[1] or two[0] >= one[1] or one[2] >= two[3] or two[2] >= one[3]
            assert apart, (one, two)


def test_an_unknown_verdict_is_refused_by_name_and_a_missing_one_is_blank(comparison: Any, tmp_path: Path) -> None:
    rows = tuple(row | {"verdict": "of tomorrow"} for row in comparison().rows)
    with pytest.raises(RecordError, match=r"a verdict to be one of 'kept'.*; got 'of tomorrow'"):
        checkpoint_summary(comparison(rows=rows))
    with pytest.raises(RecordError, match="of tomorrow"):
        write_comparison_report(tmp_path / "report.html", comparison(rows=rows))
    [cells] = maps(checkpoint_summary(comparison(rows=tuple(row | {"verdict": None} for row in rows))))
    assert {text for texts in cells.text for text in texts} == {""}
    assert {value for values in cells.z for value in values} == {None}


def test_every_verdict_and_condition_has_its_own_look(comparison: Any) -> None:
    assert {*VERDICT_STYLES} == {*Verdict}
    assert {*CONDITION_COLOURS} == {*RECOVERY_CONDITIONS} - {Condition.OTHER_VECTOR}  # in the table only
    odd = comparison().recovery[0] | {"condition": "bare + a vector of tomorrow"}
    with pytest.raises(RecordError, match=r"a condition of recovery to be .*; got 'bare \+ a vector of tomorrow'"):
        recovery_bars(comparison(recovery=(odd,)))


def test_names_are_text_in_every_figure_and_titles_can_be_given(comparison: Any) -> None:
    record = comparison(["base", MALICE], [MALICE, "other"], learned=(MALICE,))
    drawn = checkpoint_trajectories, alignment_by_layer, recovery_bars, checkpoint_summary, checkpoint_heatmap
    figures = [draw(record, title="<i>mine</i>") for draw in drawn]
    figures += [head_change_maps(record, MALICE, what=what, title="<i>mine</i>") for what in ("aie", "W_O")]
    for figure in figures:
        assert figure.layout.title.text.startswith("&lt;i&gt;mine&lt;/i&gt;<br>")
        shown = [trace.to_plotly_json() | {"legendgroup": ""} for trace in figure.data]
        assert "<img" not in f"{shown}{figure.layout}"
        assert "&lt;img" in f"{shown}{figure.layout}"


def test_the_report_is_one_page_with_verdicts_first(comparison: Any, tmp_path: Path) -> None:
    path = write_comparison_report(tmp_path / "report.html", comparison(failures={"broken": "MismatchError: other"}))
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings[:3] == ["The answer", "What was compared", "Verdicts"]
    assert headings[-2:] == ["Where these numbers come from", "Method"]
    order = ["broken</td><td>MismatchError: other", "drowned, recoverable</td><td>accuracy fell by 0.20",
             'id="figure-1"', "Accuracy on each task at each checkpoint", "backward transfer",
             "<caption>settings</caption>", "rule: known"]  # fmt: skip
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    assert text.count("accuracy fell by") >= 12
    assert "70%\u00a0(55%\u00a0to\u00a080%)" in text
    assert not re.search(r"""<(script|img|iframe|link|source)\b[^>]*\b(src|href)\s*=""", text, re.IGNORECASE)
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_the_report_escapes_what_it_is_given(comparison: Any, tmp_path: Path) -> None:
    record = comparison(["base", MALICE], [MALICE], learned=(MALICE,), failures={MALICE: MALICE},
                        provenance={"model": {"source": MALICE}, MALICE: [MALICE]})  # fmt: skip
    rows = tuple(row | {"because": MALICE} for row in record.rows)
    text = write_comparison_report(tmp_path / "report.html", dataclasses.replace(record, rows=rows)).read_text("utf-8")
    assert "<img" not in text
    assert text.count("&lt;img src=x") > 10


@pytest.mark.parametrize("kind", [{"names": NAMES[:1]}, {"names": NAMES[:2], "tasks": TASKS[:1]}, {"recovery": ()}])
def test_the_report_of_little_is_written(comparison: Any, kind: dict[str, Any], tmp_path: Path) -> None:
    record = comparison(**kind)
    text = write_comparison_report(tmp_path / "report.html", record).read_text("utf-8")
    assert ("No checkpoint was measured." in text) is (len(record.checkpoints) == 1)
    assert ("The checkpoints as a sequence" in text) is (len(record.checkpoints) > 1)
    assert ("Recovery: accuracy in each condition, see" in text) is bool(record.recovery)


def test_what_was_saved_and_loaded_looks_the_same(comparison: Any, tmp_path: Path) -> None:
    record = comparison()
    loaded = CheckpointComparison.load(record.save(tmp_path / "comparison.safetensors"))
    assert checkpoint_summary(loaded).to_json() == checkpoint_summary(record).to_json()
    assert head_change_maps(loaded, TASKS[0]).to_json() == head_change_maps(record, TASKS[0]).to_json()


@pytest.mark.parametrize(
    ("because", "verdict", "needed"),
    [
        ("accuracy fell by 0.17: the interval holds 0.10; about 1,250 prompts would decide it",
         "not shown to have fallen", 1250),
        ("accuracy fell by 0.17: the interval holds 0.10", "not shown to have fallen", math.nan),
        ("accuracy fell by 0.8; the base's vector brings back 0.45: undecided; about 30 prompts would decide it",
         "fallen, recovery undecided", 30),
        ("accuracy fell by 0.8; nothing was measured that may restore it", "fallen, recovery undecided", math.nan),
        ("accuracy fell by 0.8; without instruction the answer has 0.5 of its probability: undecided",
         "fallen, recovery undecided", math.nan),
    ],
)  # fmt: skip
def test_what_was_saved_as_undecided_is_one_of_two_verdicts(
    comparison: Any, because: str, verdict: str, needed: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tuple(row | {"verdict": "undecided", "because": because} for row in comparison().rows)
    monkeypatch.setattr(store, "FORMAT", 2)
    path = comparison(rows=rows).save(tmp_path / "comparison.safetensors")
    monkeypatch.undo()
    row = CheckpointComparison.load(path).to_frame().iloc[0]
    assert row["verdict"] == verdict
    assert row["prompts_to_decide"] == pytest.approx(needed, nan_ok=True)


@pytest.mark.parametrize("kind", [{"names": NAMES[:1]}, {"names": NAMES[:2], "tasks": TASKS[:1]}, LONG, WIDE])
def test_figures_fit_a_page_whatever_they_hold(comparison: Any, kind: dict[str, Any]) -> None:
    record = comparison(**kind)
    figures = [checkpoint_trajectories(record), alignment_by_layer(record), recovery_bars(record),
               checkpoint_summary(record), checkpoint_heatmap(record),
               head_change_maps(record, record.tasks[-1])]  # fmt: skip
    for figure in figures:
        assert 240 <= figure.layout.width <= 1080
        assert 150 <= figure.layout.height <= 3000
        assert figure.layout.template == pio.templates["ivlens"]
        for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
            assert 0 <= axis.domain[0] < axis.domain[1] <= 1 if axis.domain else True


def test_the_kinds_of_evidence_stand_side_by_side(comparison: Any, tmp_path: Path) -> None:
    """One row per task of a checkpoint; columns of earlier or later versions only where they were measured."""
    kinds = (("base's vector added", 0.4, "undecided"), ("relearning", np.nan, "not measured"),
             ("spillover", 0.9, "still there"))  # fmt: skip
    made = comparison()
    evidence = [
        {"checkpoint": name, "task": task, "kind": kind, "value": value, "low": value - 0.1, "high": value + 0.1,
         "threshold": 0.5, "opinion": opinion, "prompts": 30, "prompts_needed": 120.0}
        for name in NAMES[1:] for task in TASKS for kind, value, opinion in kinds
    ]  # fmt: skip
    rows = [{**row, "spillover": 0.9, "spillover_low": 0.8, "spillover_high": 1.0} for row in made.rows]
    whole = dataclasses.replace(made, evidence=tuple(evidence), rows=tuple(rows))
    text = write_comparison_report(tmp_path / "whole.html", whole).read_text().replace("\u00a0", " ")
    for said in ("Kinds of evidence side by side", "40% (30% to 50%): undecided", "not measured",
                 "90% (80% to 100%): still there", "its answers among the wrong ones"):  # fmt: skip
        assert said in text, said
    assert text.count("40% (30% to 50%): undecided") == len(NAMES[1:]) * len(TASKS)
    assert "Relearning from a few examples" not in text
    old = write_comparison_report(tmp_path / "old.html", made).read_text()
    assert "Kinds of evidence" not in old
    assert "its answers among the wrong ones" not in old


def test_tables_have_counts_percentages_points_and_small_numbers(comparison: Any) -> None:
    """Nothing has more digits than a person reads."""
    made = comparison(NAMES[:2], TASKS[1:2])
    further = {"lost": 9, "won": 1, "mcnemar": 0.021484375, "spillover": 2 / 3, "spillover_low": 0.3,
               "spillover_high": 0.9, "kl_text": 0.1730002, "subtracted_gain": 1 / 3, "weight_distance": 0.0061234,
               "relearned": 1 / 7}  # fmt: skip
    rows = tuple(row | further for row in made.rows)
    asked = {"checkpoint": "after-1", "task": "reading", "n": 30, "accuracy": 1 / 3, "low": 0.2, "high": 0.5,
             "chance": 0.25, "forgetting": 1 / 6, "forgetting_low": -0.05, "forgetting_high": 0.3}  # fmt: skip
    record = dataclasses.replace(made, rows=rows, general=(asked,))
    text = "\n".join(map(str, [*measured_tables(record), general_table(record)])).replace("\u00a0", " ")
    for shown in (">9<", ">1<", ">0.021<", ">67% (30% to 90%)<", ">33 points<", ">0.6%<", ">14%<", ">0.173<", ">25%<",
                  ">33% (20% to 50%)<", ">17 points (-5 to 30)<"):  # fmt: skip
        assert shown in text, shown
    assert not re.search(r"\d\.\d{4}", text)
