"""The forgetting study, as small as it gets: complete, resumable, ending with the base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from figures.forgetting import study as page
from figures.forgetting.config import READINGS, SEQUENCES, Setting, StudyConfig
from figures.forgetting.runs import choose, load_study, run_study
from figures.forgetting.tables import correlations, methods_table, trials_table
from ivlens.records import TrainingRun
from ivlens.training import DEFAULT_PRESET, PRESETS

FORGETTING = Path(__file__).parents[2] / "figures" / "forgetting"

CONFIG = StudyConfig(
    new=("word-topic", "choose-last-of-3"), old=("antonym", "verb-gerund"), trial_new="lowercase-first-letter",
    trial_old=("capitalize",), settings={"plain": (Setting(),), "guided": (Setting(),)}, seeds=(0,), steps=1,
    batch_size=2, n_test=2, n_test_new=2, watched=2, n_clean=2, n_corrupted=1,
)  # fmt: skip


def test_the_study_is_complete_resumable_and_leaves_the_base(
    tiny_hf: Any, smollm2: Any, tmp_path: Path, caplog: Any
) -> None:
    """On a tiny model that reads real prompts."""
    shape = {"num_hidden_layers": 14, "max_position_embeddings": 512}  # the study steers in layer 12
    theirs = tiny_hf("llama", vocab_size=len(smollm2.tokenizer), **shape)
    model = ivlens.load_model(theirs, tokenizer=smollm2.tokenizer)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    caplog.set_level("INFO", logger="ivlens")
    study = run_study(model, tmp_path, CONFIG)
    assert set(study.runs) == {(m, 0, stage) for m in ("plain", "guided") for stage in (0, 1)}
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
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
    first = study.runs["guided", 0, 1]
    caplog.clear()
    again = run_study(model, tmp_path, CONFIG)
    learned = [line for line in caplog.messages if "seed" in line]
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


def test_the_committed_tables_are_those_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "load_model", lambda name: pytest.fail("a model was loaded"))
    (tmp_path / "records").symlink_to(FORGETTING / "records")
    _, tables = page.write(tmp_path, kind="html")
    assert tables.read_text() == (FORGETTING / "tables.md").read_text()
    study = load_study(FORGETTING / "records", StudyConfig())
    assert len(study.runs) == 8 * 3 * 3
    # the default is "l2" at the setting that the study chose; "fv" was another preset when it was run
    since = {"ewc", "ewc-own", "o-lora", "self-rehearsal", "freeze-lower", "freeze-middle"}
    since |= {"average", "interpolate", "preventative", "rehearsal-l2", DEFAULT_PRESET, "fv", "fv-code"}
    studied = (PRESETS.keys() - since) | {"fv-before"}
    assert {method: len(settings) for method, settings in StudyConfig().settings.items()} == dict.fromkeys(studied, 4)
    readings = load_study(FORGETTING / "records" / "readings", READINGS)
    assert {method for method, _ in readings.trials} == {"fv-before", "fv", "fv-code"}
    assert len(load_study(FORGETTING / "records" / "readings", SEQUENCES).runs) == 3 * 3 * 3
