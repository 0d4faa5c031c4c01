"""The record of a sequence: its measures, against numbers that were computed by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

import ivlens as iv
from ivlens.stats import mean_over_tasks, ratio_over_tasks
from sequences import made_up_sequence


def test_measures_of_the_whole_sequence() -> None:
    found = made_up_sequence().summary().set_index("measure")
    after = {"AP": 0.875, "FP": 0.625, "kept": 0.5, "retained": 0.5, "still right": 0.5, "GP": 0.0, "IP": 1.0}
    before = {"AP": 0.125, "FP": 0.875, "kept": 1.0, "retained": 1.0, "still right": 1.0, "GP": 0.25, "IP": 0.5}
    after |= {"instruction probability": 0.25, "knowledge probability": 0.125, "cosine": 0.8, "norm_ratio": 1.2}
    before |= {"instruction probability": 0.5, "knowledge probability": 0.25, "cosine": 1.0, "norm_ratio": 1.0}
    for name in after:
        assert found.loc[name, "after"] == pytest.approx(after[name])
        assert found.loc[name, "before"] == pytest.approx(before[name])
        assert found.loc[name, "change"] == pytest.approx(after[name] - before[name])
    assert found.loc["AP", "tasks"] == 2
    assert found.loc["instruction probability", ["low", "high"]].isna().all()  # of four prompts
    measured = found.drop(index=["instruction probability"])
    assert ((measured["low"] <= measured["change"]) & (measured["change"] <= measured["high"])).all()


def test_the_change_from_ap_to_fp_is_paired_prompt_by_prompt() -> None:
    """None of many prompts changes: drawn apart, right and wrong ones would vary by a tenth and more."""
    half = [1.0, 0.0] * 50
    run = made_up_sequence()
    run = replace(run, measured=tuple(row | {"scores": half} for row in run.measured))
    low, high = run.summary().set_index("measure").loc["FP", ["low", "high"]]
    assert -0.03 < low < 0 < high < 0.03


def test_measures_of_vectors_have_intervals_over_the_watched_prompts() -> None:
    run = made_up_sequence()
    curves = run.curves().set_index(["measure", "stage"])
    assert curves.loc["cosine", "value"].tolist() == pytest.approx([1.0, 0.9, 0.8])
    assert (curves.loc["cosine", "low"] < curves.loc["cosine", "value"]).all()
    change = run.summary().set_index("measure").loc["cosine", ["change", "low", "high"]]
    assert change.tolist() == pytest.approx([-0.2] * 3)  # each prompt's is the same: paired


@pytest.mark.parametrize("stages", [(0, 1, 2), (0,)])
def test_a_sequence_of_an_older_version_has_measures_of_vectors_without_intervals(stages: tuple[int, ...]) -> None:
    run = made_up_sequence()
    rows = [
        {name: each for name, each in row.items() if name != "cosines" or row["stage"] not in stages}
        for row in run.measured
    ]
    found = replace(run, measured=tuple(rows)).summary().set_index("measure")
    assert found.loc["cosine", ["before", "after", "change"]].tolist() == pytest.approx([1.0, 0.8, -0.2])
    assert found.loc["cosine", ["low", "high"]].isna().all()


def test_what_is_newly_right_does_not_make_up_for_what_is_lost() -> None:
    run = made_up_sequence()
    answers = {0: "1100", 2: "0110"}
    rows = [
        row | ({"correct": answers[row["stage"]], "scores": [float(each) for each in answers[row["stage"]]]}
               if row["role"] == "keep" and row["stage"] in answers else {})
        for row in run.measured
    ]  # fmt: skip
    found = replace(run, measured=tuple(rows)).summary().set_index("measure")
    assert found.loc["retained", "after"] == 1.0
    assert found.loc["still right", ["after", "change"]].tolist() == [0.5, -0.5]
    low, high = found.loc["still right", ["low", "high"]]
    assert (low, high) == pytest.approx([bound - 1 for bound in iv.stats.wilson_interval(1, 2)])
    none = [row | ({"correct": "0000"} if row["role"] == "keep" else {}) for row in run.measured]
    assert "still right" not in replace(run, measured=tuple(none)).summary()["measure"].tolist()


def test_curves_have_the_tasks_learned_so_far() -> None:
    curves = made_up_sequence().curves().set_index(["measure", "stage"])["value"]
    assert curves["learned"].tolist() == [0.125, 1.0, 0.625]
    assert curves["kept"].tolist() == [1.0, 0.75, 0.5]
    assert curves["AP"].tolist() == [1.0, 0.875]
    assert curves["Forget"].tolist() == [0.25]


def test_curves_leave_out_stages_at_which_not_all_was_measured() -> None:
    run = made_up_sequence()
    second = ("new", "second")
    ends = [row for row in run.measured if row["stage"] != 2 or (row["role"], row["ability"]) == second]
    curves = replace(run, measured=tuple(ends)).curves()
    assert curves.query("measure == 'learned'")["stage"].tolist() == [0, 1]
    assert curves.query("measure == 'kept'")["stage"].tolist() == [0, 1]


def test_a_matrix_has_a_row_per_stage() -> None:
    matrix = made_up_sequence().matrix()
    assert matrix.index.tolist() == [0, 1, 2]
    assert matrix["first"].tolist() == [0.0, 1.0, 0.5]
    assert made_up_sequence().matrix("knowledge", "probabilities")["old"].tolist() == [0.25, 0.25, 0.125]


def test_a_run_that_was_interrupted_has_the_measures_of_what_is_learned() -> None:
    run = made_up_sequence()
    begun = replace(run, measured=tuple(row for row in run.measured if row["stage"] < 2))
    found = begun.summary().set_index("measure")
    assert begun.stages == 1
    assert (found.loc["AP", "after"], found.loc["AP", "tasks"]) == (1.0, 1)
    assert iv.ContinualRun(("first",)).summary().empty


@pytest.mark.parametrize("measured", [1, 3, 7, 8, 9, 10, 11])
def test_a_stage_that_is_half_measured_does_not_count(measured: int) -> None:
    """A run's record is written after every ability; here there are seven, two old ones among them."""
    run = made_up_sequence()
    others = [row | {"ability": "older"} for row in run.measured if row["role"] == "keep"]
    rows = sorted((*run.measured, *others), key=lambda row: row["stage"])
    begun, base = (replace(run, measured=tuple(rows[:n])) for n in (measured, 7))
    assert begun.stages == 0
    if measured >= 7:
        assert begun.summary().equals(base.summary())
        assert begun.curves().equals(base.curves())
    assert set(begun.curves()["stage"]) == {0}
    assert "ContinualRun" in begun._repr_html_()
    assert iv.compare_sequences({"begun": begun})["run"].tolist() == ["begun"]


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    run = made_up_sequence(model={"source": "made up"})
    path = run.save(tmp_path / "run.safetensors")
    assert iv.ContinualRun.load(path).measured == run.measured
    assert "2 of 2 tasks learned" in run._repr_html_()


def test_runs_side_by_side() -> None:
    frame = iv.compare_sequences({"plain": made_up_sequence(), "again": made_up_sequence()})
    assert frame["run"].tolist() == ["plain", "again"]
    assert frame["retained"].tolist() == frame["still_right"].tolist() == [0.5, 0.5]
    assert frame["Forget"].tolist() == [0.25, 0.25]


def test_variants_are_compared_with_the_first_of_their_seed() -> None:
    run = made_up_sequence()

    def fallen(n: int) -> iv.ContinualRun:
        """The run, n of the four answers to the old ability lost at the end."""
        scores = [1.0, 1.0, 0.0, 0.0][:2]
        kept = [*scores[n:], *[0.0] * (2 + n)]
        return replace(run, measured=tuple(
            row | {"scores": kept} if (row["stage"], row["role"]) == (2, "keep") else row for row in run.measured
        ))  # fmt: skip

    runs = {"whole, seed 0": run, "whole, seed 1": fallen(1), "plain, seed 0": fallen(2), "plain, seed 1": fallen(1)}
    found = iv.compare_variants(runs).set_index(["variant", "measure"])
    assert found.loc[("plain", "kept"), "difference"] == -0.25  # -0.5 with seed 0, nothing with seed 1
    assert found.loc[("plain", "kept"), "value"] == 0.125
    assert found.loc[("plain", "kept"), "seeds"] == 2
    difference, low, high = found.loc[("plain", "FP"), ["difference", "low", "high"]]
    assert low < difference == 0.0 < high  # no prompt changed, of eight
    with pytest.raises(iv.ArgumentError, match="with seed 2"):
        iv.compare_variants({"whole, seed 0": run, "plain, seed 2": run})
    assert iv.compare_variants({"whole": run}).empty


def test_means_over_tasks_weigh_tasks_alike() -> None:
    import torch

    few, many = torch.ones(2), torch.zeros(98)
    assert mean_over_tasks([few, many]).value == 0.5
    assert ratio_over_tasks([few, many], [2 * few, many]).value == 0.5
    assert math.isnan(mean_over_tasks([]).value)
    assert math.isnan(ratio_over_tasks([few], [0 * few]).value)
