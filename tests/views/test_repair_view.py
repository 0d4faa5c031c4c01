"""A repair's figures, tables and page, of a made-up record whose every number is known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ivlens.views import repair_fractions, repair_tradeoff, write_repair_report
from ivlens.views.checkpoints.repair import (
    cost_frame,
    forgotten_frame,
    repair_headline,
    repair_parts,
    returned_frame,
)
from ivlens.views.checkpoints.repair_report import QUESTIONS
from patchings import patched
from repairs import RIGHT, N, nothing, repaired
from reverted import reverted


def test_the_headline_says_what_to_do_and_what_it_costs() -> None:
    assert repair_headline(repaired()) == (
        "Undo 60% of the change (greedy, mlp at 0.25). Accuracy on test prompts: tasks to keep from 0.45 to 0.78 "
        "(the base 0.85); other abilities from 0.25 to 0.60 (the base 0.70); learned tasks from 0.90 to 0.85, a "
        "change of -0.05 (-0.17\u00a0to\u00a0+0.08), 95% interval."
    )
    assert repair_headline(nothing()) == "Put nothing back: nothing met the guard: the tuned model stays as it is."


def test_a_tuned_model_below_the_base_on_what_it_learned_is_to_be_asked_as_it_was_trained() -> None:
    correct = repaired().correct.clone()
    correct[0, -N:] = True
    doubt = "The tuned model answers fewer prompts of the learned tasks than the base (0.90, the base 1.00)"
    assert doubt in repair_headline(repaired(correct=correct))
    assert doubt in repair_headline(replace(nothing(), correct=correct))


def test_a_random_control_that_returns_as_much_is_said_at_once() -> None:
    correct = repaired().correct.clone()
    correct[3] = correct[2]
    said = "A random control (random bands 0) returns as much, 0.78 on the tasks to keep"
    assert said in repair_headline(repaired(correct=correct))
    assert said not in repair_headline(repaired())


def test_tables_have_the_accuracies_with_paired_intervals() -> None:
    forgotten, cost, returned = forgotten_frame(repaired()), cost_frame(repaired()), returned_frame(repaired())
    assert forgotten["task"].tolist() == ["antonym", "capitalize", "synonym"]
    assert forgotten[["base", "tuned", "repaired"]].to_numpy().tolist()[0] == [0.9, 0.4, 0.85]
    assert forgotten["lost"].iloc[0].startswith("+0.50 (+")
    assert forgotten["returned"].iloc[0].startswith("+0.45 (+")
    assert cost[["task", "tuned", "repaired"]].to_numpy().tolist() == [["word-topic", 0.9, 0.85]]
    assert returned["model"].tolist() == [*RIGHT]
    assert [text[:4] for text in returned["tasks to keep"]] == ["0.85", "0.45", "0.78", "0.53", "0.42"]
    assert returned["learned tasks"].iloc[3].startswith("0.80, -0.10 (")
    assert returned["learned tasks"].iloc[1] == "0.90"
    assert not [text for text in forgotten["returned"] if "-0.00" in text]


def test_trials_lie_at_what_they_learn_and_keep() -> None:
    figure = repair_tradeoff(repaired())
    traces = {trace.name: trace for trace in figure.data}
    assert [*traces] == ["tuned", "interpolation", "by depth", "bands", "greedy", "refused by the guard", "chosen"]
    assert (list(traces["interpolation"].x), list(traces["interpolation"].y)) == (
        [0.92, 0.9],
        pytest.approx([0.6, 0.72]),
    )
    refused = traces["refused by the guard"]
    assert (list(refused.x), list(refused.y)) == ([0.8, 0.55], [0, 0])
    assert all("not measured" in text for text in refused.hovertext)
    assert (list(traces["chosen"].x), list(traces["chosen"].y)) == ([0.89], pytest.approx([0.8]))
    (guard,) = figure.layout.shapes
    assert guard.x0 == guard.x1 == pytest.approx(0.88)
    assert figure.layout.xaxis.range[0] < 0.5 < figure.layout.xaxis.range[1]
    assert "the horizontal axis starts at 0.5" in figure.layout.title.text


def test_a_trial_is_hovered_by_its_mixture() -> None:
    (text,) = repair_tradeoff(repaired()).data[0].hovertext
    assert text.split("<br>") == [
        "<b>tuned</b>", "as it is", "learned tasks 0.900", "tasks to keep 0.450, mean P(answer) 0.350",
        "0% of the change undone, 0.1000 nats from the base",
    ]  # fmt: skip


def test_the_map_has_a_row_for_attention_and_one_for_mlps() -> None:
    (heatmap,) = repair_fractions(repaired()).data
    assert list(heatmap.y) == ["MLP", "attention"]
    assert heatmap.z[1].tolist() == repaired().attention.tolist()
    assert (heatmap.zmin, heatmap.zmax) == (0, 1)
    large = torch.ones(80, dtype=torch.float64)
    assert repair_fractions(repaired(attention=large, mlp=large)).layout.width <= 600
    assert "embeddings and norms: 0.5" in repair_fractions(repaired()).layout.title.text


def test_the_page_answers_in_order_and_leaves_out_what_no_record_answers(tmp_path: Path) -> None:
    page = write_repair_report(tmp_path / "report.html", repaired()).read_text()
    headings = [*QUESTIONS]
    assert headings == [
        "What was forgotten?", "Where?", "Is it still there?", "What to do now?", "What does that cost?",
    ]  # fmt: skip
    shown = ["In short", *(each for each in headings if each not in ("Where?", "Is it still there?"))]
    at = [page.index(f">{heading}<") for heading in shown]
    assert at == sorted(at)
    assert ">Where?<" not in page
    assert "&lt;tuned&gt;" in page


def test_where_is_answered_by_records_of_activations_and_of_weights(tmp_path: Path) -> None:
    for records, figures in (([patched()], 2), ([reverted()], 2), ([patched(), reverted()], 2)):
        page = write_repair_report(tmp_path / "report.html", repaired(), records).read_text()
        assert ">Where?<" in page
        assert page.count("Plotly.newPlot(") - 2 == figures
    assert "need not be where it was made" in page


def test_a_repair_that_found_nothing_is_shown(tmp_path: Path) -> None:
    page = write_repair_report(tmp_path / "report.html", nothing()).read_text()
    assert "Put nothing back" in page
    assert len(repair_parts(nothing())) == len(repair_parts(repaired())) - 1  # no map of what is put back


def test_without_other_abilities_there_is_no_word_of_them() -> None:
    record = repaired()
    kept = [at for at, role in enumerate(record.roles) if role != "other"]
    record = replace(
        record, correct=record.correct[:, kept], log_probability=record.log_probability[:, kept],
        tasks=tuple(record.tasks[at] for at in kept), roles=tuple(record.roles[at] for at in kept),
    )  # fmt: skip
    assert "other abilities" not in repair_headline(record)
    assert [name for name in returned_frame(record) if "other" in name] == []
