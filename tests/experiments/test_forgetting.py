"""The forgetting study on the real model, as small as it gets: complete, resumable, ending with the base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from ivlens.experiments import figures
from ivlens.experiments.forgetting import (
    Setting,
    StudyConfig,
    choose,
    correlations,
    load_study,
    methods_table,
    run_study,
    shown,
    trials_table,
)
from ivlens.records import TrainingRun
from ivlens.training import PRESETS

ROOT = Path(__file__).parents[2]

CONFIG = StudyConfig(
    new=("word-topic", "choose-last-of-3"), old=("antonym", "verb-gerund"), trial_new="lowercase-first-letter",
    trial_old=("capitalize",), settings={"plain": (Setting(),), "guided": (Setting(),)}, seeds=(0,), steps=1,
    batch_size=2, n_test=2, n_test_new=2, watched=2, n_clean=2, n_corrupted=1,
)  # fmt: skip


def test_the_study_is_complete_resumable_and_leaves_the_base(smollm2: Any, tmp_path: Path) -> None:
    model = ivlens.load_model("smollm2", verify=False)  # it is trained: not the shared one
    said: list[str] = []
    study = run_study(model, tmp_path, CONFIG, said.append)
    assert set(study.runs) == {(m, 0, stage) for m in ("plain", "guided") for stage in (0, 1)}
    for one, two in zip(model.parameters(), smollm2.parameters(), strict=True):
        assert torch.equal(one, two)
    frame = study.runs["guided", 0, 1].abilities().set_index("ability")
    assert list(frame.index) == ["word-topic", "choose-last-of-3", "antonym", "verb-gerund"]
    assert frame.loc["antonym", ["knowledge", "recovered", "cosine", "norm_ratio", "alignment"]].notna().all()
    assert 0 < frame["distance"].iloc[0] < 1
    base = study.base.abilities().set_index("ability")
    assert base.loc["antonym", "distance"] == 0
    assert study.runs["plain", 0, 0].abilities()["distance"].iloc[0] > 0
    table = methods_table(study, CONFIG)
    assert table["method"].tolist() == ["plain", "guided"]
    assert table["of plain"].iloc[0] == 1 or table["learned"].iloc[0] == 0
    assert trials_table(study, CONFIG)["chosen"].all()
    assert len(correlations(study, CONFIG)) == 6

    (tmp_path / "guided-0-1.safetensors").unlink()
    first, said[:] = study.runs["guided", 0, 1], []
    again = run_study(model, tmp_path, CONFIG, said.append)
    learned = [line for line in said if "seed" in line]
    assert learned == ["guided, seed 0: word-topic", "guided, seed 0: choose-last-of-3"]
    second = again.runs["guided", 0, 1]
    assert torch.equal(first.values[:, :3], second.values[:, :3])
    assert first.abilities().equals(second.abilities())


def trial(learned: float, kept: float) -> TrainingRun:
    rows = ({"ability": "new", "accuracy": learned}, {"ability": "old", "accuracy": kept})
    return TrainingRun(torch.zeros(0, 0), (), rows)


def test_settings_are_chosen_by_what_is_kept_among_those_that_learn() -> None:
    slow, fast = Setting(5e-5), Setting(1e-4)
    weak, middle, strong = (Setting(1e-4, factor) for factor in (1.0, 2.0, 3.0))
    config = replace(CONFIG, trial_new="new", trial_old=("old",),
                     settings={"plain": (slow, fast), "l2": (weak, middle, strong)})  # fmt: skip
    trials = {
        ("plain", slow): trial(0.5, 0.9), ("plain", fast): trial(1.0, 0.1),
        ("l2", weak): trial(1.0, 0.3), ("l2", middle): trial(0.99, 0.6), ("l2", strong): trial(0.9, 0.9),
    }  # fmt: skip
    assert choose(trials, config) == {"plain": fast, "l2": middle}
    trials["l2", weak], trials["l2", middle] = trial(0.8, 0.9), trial(0.7, 0.9)
    assert choose(trials, config)["l2"] == strong  # none learns enough: the one that learns most


def test_tasks_that_are_chosen_on_are_not_reported() -> None:
    with pytest.raises(ivlens.ArgumentError, match="different tasks"):
        replace(CONFIG, trial_old=("antonym",))


def test_readme_tables_are_those_of_the_records() -> None:
    """A README number that differs from its record is an error; ``ivlens figures`` writes the tables anew."""
    study = load_study(ROOT / "figures" / "records" / "forgetting", StudyConfig())
    readme = (ROOT / "README.md").read_text()
    for table in (shown(study), correlations(study)):
        assert figures.markdown(table) in readme
    assert len(study.runs) == 8 * 3 * 3
    assert {method: len(settings) for method, settings in StudyConfig().settings.items()} == dict.fromkeys(PRESETS, 4)
