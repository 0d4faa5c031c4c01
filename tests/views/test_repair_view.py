"""A repair's figures, tables and page, of a made-up record whose every number is known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ivlens.records import Repair
from ivlens.views import repair_fractions, repair_tradeoff, write_repair_report
from ivlens.views.checkpoints.repair import (
    cost_frame,
    forgotten_frame,
    repair_headline,
    repair_parts,
    returned_frame,
)
from ivlens.views.checkpoints.repair_report import QUESTIONS

N, LAYERS = 20, 12
TASKS = (("antonym", "keep"), ("capitalize", "keep"), ("synonym", "other"), ("word-topic", "learned"))
RIGHT = {  # of N prompts of each task
    "base": (18, 16, 14, 2), "tuned": (8, 10, 5, 18), "repaired": (17, 14, 12, 17),
    "random bands 0": (11, 10, 7, 16), "random change 0": (8, 9, 5, 17),
}  # fmt: skip
TRIALS = (
    ("tuned", "as it is", 0.0, 0.90, True, 0.45), ("interpolation", "0.7 of the change", 0.3, 0.92, True, 0.60),
    ("interpolation", "0.5 of the change", 0.5, 0.90, True, 0.72), ("interpolation", "0.3", 0.7, 0.80, False, math.nan),
    ("by depth", "0 to 1 of the change", 0.58, 0.88, True, 0.66), ("bands", "layers 4 to 7", 0.57, 0.9, True, 0.7),
    ("bands", "layers 0 to 3", 0.6, 0.55, False, math.nan), ("greedy", "mlp at 0.25", 0.6, 0.89, True, 0.80),
)  # fmt: skip


def trial(step: str, what: str, undone: float, learned: float, allowed: bool, kept: float) -> dict[str, Any]:
    return {
        "step": step, "what": what, "undone": undone, "learned": learned, "allowed": allowed, "kept": kept,
        "probability": kept, "chosen": what == "mlp at 0.25",
    }  # fmt: skip


def made(**fields: Any) -> Repair:
    correct = torch.cat([torch.arange(N) < torch.tensor(list(RIGHT.values()))[:, each, None] for each in range(4)], 1)
    depth = torch.linspace(0, 1, LAYERS, dtype=torch.float64)
    known = {
        "attention": depth, "mlp": 1 - depth / 2, "rest": 0.5, "correct": correct,
        "log_probability": torch.zeros(correct.shape), "models": tuple(RIGHT),
        "tasks": tuple(task for task, _ in TASKS for _ in range(N)),
        "roles": tuple(role for _, role in TASKS for _ in range(N)), "trials": tuple(trial(*each) for each in TRIALS),
        "step": "greedy", "tolerance": 0.02, "undone": 0.6, "provenance": {"model": {"source": "<tuned>"}},
    }  # fmt: skip
    return Repair(**known | fields)


def nothing() -> Repair:
    """A repair that found nothing."""
    trials = tuple(trial(*each) | {"chosen": each[0] == "tuned"} for each in TRIALS[:1])
    whole = torch.ones(LAYERS, dtype=torch.float64)
    return made(attention=whole, mlp=whole, rest=1.0, trials=trials, step="", undone=0.0)


def test_the_headline_says_what_to_do_and_what_it_costs() -> None:
    assert repair_headline(made()) == (
        "Undo 60% of the change (greedy, mlp at 0.25). Accuracy on test prompts: tasks to keep from 0.45 to 0.78 "
        "(the base 0.85); other abilities from 0.25 to 0.60 (the base 0.70); learned tasks from 0.90 to 0.85, a "
        "change of -0.05 (-0.17\u00a0to\u00a0+0.08), 95% interval."
    )
    assert repair_headline(nothing()) == "Put nothing back: nothing met the guard: the tuned model stays as it is."


def test_tables_have_the_accuracies_with_paired_intervals() -> None:
    forgotten, cost, returned = forgotten_frame(made()), cost_frame(made()), returned_frame(made())
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
    figure = repair_tradeoff(made())
    traces = {trace.name: trace for trace in figure.data}
    assert [*traces] == ["tuned", "interpolation", "by depth", "bands", "greedy", "refused by the guard", "chosen"]
    assert (list(traces["interpolation"].x), list(traces["interpolation"].y)) == ([0.92, 0.9], [0.6, 0.72])
    refused = traces["refused by the guard"]
    assert (list(refused.x), list(refused.y)) == ([0.8, 0.55], [0, 0])
    assert all("not measured" in text for text in refused.hovertext)
    assert (list(traces["chosen"].x), list(traces["chosen"].y)) == ([0.89], [0.8])
    (guard,) = figure.layout.shapes
    assert guard.x0 == guard.x1 == pytest.approx(0.88)
    assert figure.layout.xaxis.range[0] < 0.5 < figure.layout.xaxis.range[1]
    assert "the horizontal axis starts at 0.5" in figure.layout.title.text


def test_a_trial_is_hovered_by_its_mixture() -> None:
    (text,) = repair_tradeoff(made()).data[0].hovertext
    assert text == "<b>tuned</b><br>as it is<br>learned tasks 0.900<br>tasks to keep 0.450<br>0% of the change undone"


def test_the_map_has_a_row_for_attention_and_one_for_mlps() -> None:
    (heatmap,) = repair_fractions(made()).data
    assert list(heatmap.y) == ["MLP", "attention"]
    assert heatmap.z[1].tolist() == made().attention.tolist()
    assert (heatmap.zmin, heatmap.zmax) == (0, 1)
    large = torch.ones(80, dtype=torch.float64)
    assert repair_fractions(made(attention=large, mlp=large)).layout.width <= 600
    assert "embeddings and norms: 0.5" in repair_fractions(made()).layout.title.text


def test_the_page_answers_in_order_and_leaves_out_what_no_record_answers(tmp_path: Path) -> None:
    page = write_repair_report(tmp_path / "report.html", made()).read_text()
    headings = [*QUESTIONS]
    assert headings == [
        "What was forgotten?", "Where?", "Is it still there?", "What to do now?", "What does that cost?",
    ]  # fmt: skip
    shown = ["In short", *(each for each in headings if each not in ("Where?", "Is it still there?"))]
    at = [page.index(f">{heading}<") for heading in shown]
    assert at == sorted(at)
    assert ">Where?<" not in page
    assert "&lt;tuned&gt;" in page


def test_a_repair_that_found_nothing_is_shown(tmp_path: Path) -> None:
    page = write_repair_report(tmp_path / "report.html", nothing()).read_text()
    assert "Put nothing back" in page
    assert len(repair_parts(nothing())) == len(repair_parts(made())) - 1  # no map of what is put back


def test_without_other_abilities_there_is_no_word_of_them() -> None:
    record = made()
    kept = [at for at, role in enumerate(record.roles) if role != "other"]
    record = replace(
        record, correct=record.correct[:, kept], log_probability=record.log_probability[:, kept],
        tasks=tuple(record.tasks[at] for at in kept), roles=tuple(record.roles[at] for at in kept),
    )  # fmt: skip
    assert "other abilities" not in repair_headline(record)
    assert [name for name in returned_frame(record) if "other" in name] == []
