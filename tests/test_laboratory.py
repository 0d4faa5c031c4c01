"""The laboratory end to end: on the real model, small, and on a tiny model with tasks of one's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ivlens import ArgumentError, LabConfig, Laboratory, RecordError, Task, _laboratory, laboratory, load_task

TASKS = ("present-past", "singular-plural")
SMALL = LabConfig(
    layers=(9, 12), scales=(4.0,), ks=(10, 20),
    n_clean=12, n_corrupted=3, n_validation=4, n_test=8, random_seeds=(0,),
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(smollm2: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("lab")
    return laboratory(smollm2, TASKS, SMALL, out=folder), folder


def test_controls_stand_beside_the_vector(measured: Any) -> None:
    found = measured[0].controls["present-past"]
    assert found.conditions == (
        "bare", "clean", "bare + vector", "bare + random vector 0", "bare + random heads 0",
        "bare + vector of singular-plural", "bare + mean difference", "clean + vector",
    )  # fmt: skip
    assert found.accuracy("bare") == found.accuracy("bare + random vector 0") == 0
    assert found.accuracy("bare + vector") > found.accuracy("bare + vector of singular-plural")
    steering = found.provenance["settings"]["steering"]
    assert (steering["layer"], steering["scale"], steering["k"]) == measured[0].sweeps["present-past"].best()
    assert found.n == 8


def test_necessity_asks_clean_prompts_with_own_and_other_heads_silenced(measured: Any) -> None:
    found = measured[0].necessity["singular-plural"]
    assert found.accuracy("clean") > 0.6
    wanted = {"zero: heads of present-past", "mean: heads of singular-plural", "minus vector of present-past"}
    assert wanted < set(found.conditions)


def test_transfer_has_ones_on_its_diagonal(measured: Any) -> None:
    matrix = measured[0].transfer
    assert matrix.overlap.diag().tolist() == [1, 1]
    assert matrix.cosine.diag().tolist() == pytest.approx([1, 1])
    assert matrix.accuracy[0, 0] > matrix.accuracy[1, 0]


def test_a_second_run_measures_nothing(smollm2: Any, measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, folder = measured
    for name in ("compare_conditions", "locate_heads", "steering_sweep"):
        monkeypatch.setattr(_laboratory, name, lambda *args, **options: pytest.fail("measured again"))
    for again in (laboratory(smollm2, TASKS, SMALL, out=folder), Laboratory.load(folder, TASKS)):
        assert again.transfer.correct.equal(lab.transfer.correct)
        assert again.controls["present-past"].correct.equal(lab.controls["present-past"].correct)


def test_a_missing_record_is_an_error_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="a saved HeadEffects"):
        Laboratory.load(tmp_path, TASKS)


TINY = LabConfig(scales=(1.0, 2.0), ks=(1, 2), n_clean=3, n_corrupted=2, n_validation=2, n_test=3, random_seeds=(0,))


@pytest.fixture
def own_tasks() -> list[Task]:
    rows = [(f"the {i}", f"fox {i}") for i in range(40)]
    return [load_task(rows, name=name, instructions="What is it?") for name in ("one", "two", "three")]


def test_any_model_and_tasks_have_a_laboratory(tiny_hooked: Any, own_tasks: list[Task], tmp_path: Path) -> None:
    model = tiny_hooked(num_hidden_layers=3)
    found = laboratory(model, own_tasks, TINY)
    assert [*found.effects] == ["one", "two", "three"]
    assert found.sweeps["one"].layers == (0, 1, 2)
    controls, necessity = found.controls_frame(), found.necessity_frame()
    assert controls["task"].tolist() == necessity["task"].tolist() == ["one", "two", "three"]
    assert controls[["layer", "scale", "k"]].to_numpy().tolist() == [[*sweep.best()] for sweep in found.sweeps.values()]
    assert controls["bare + vector of another task"][0] == pytest.approx(
        sum(found.controls["one"].accuracy(f"bare + vector of {other}") for other in ("two", "three")) / 2
    )
    assert necessity["vector subtracted, own"][0] == found.necessity["one"].accuracy("minus vector of one")
    assert repr(found) == "Laboratory(3 tasks: one, two, three)"
    assert not [*tmp_path.iterdir()]


def test_kept_records_are_those_of_the_task_and_the_settings(
    tiny_hooked: Any, own_tasks: list[Task], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A task of the same name with other examples, or another setting, is measured; what it does not touch is not."""
    caplog.set_level("INFO", logger="ivlens")
    model, tasks = tiny_hooked(), own_tasks[:2]
    laboratory(model, tasks, TINY, out=tmp_path)
    measured = [record for record in caplog.records if record.name == "ivlens"]
    assert len(measured) == 9  # four of each task, and what they share
    caplog.clear()
    laboratory(model, tasks, TINY, out=tmp_path)
    assert caplog.messages == []
    laboratory(model, tasks, replace(TINY, n_test=2), out=tmp_path)
    assert not [line for line in caplog.messages if line.endswith("effects")]
    caplog.clear()
    other = load_task([(f"quick {i}", f"dog {i}") for i in range(40)], name="two", instructions="What is it?")
    laboratory(model, [tasks[0], other], replace(TINY, n_test=2), out=tmp_path)
    assert "two: effects" in caplog.messages
    assert "one: effects" not in caplog.messages
    assert "one: controls" in caplog.messages


def test_tasks_without_instructions_are_told_by_their_demonstrations(tiny_hooked: Any, own_tasks: list[Task]) -> None:
    found = laboratory(tiny_hooked(), [replace(task, instructions=()) for task in own_tasks[:2]], TINY)
    assert len(found.controls_frame()) == 2


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"layers": (0, 2)}, r"layers from 0 to 1, one or more; got \(0, 2\)"),
        ({"layers": ()}, "layers from 0 to 1, one or more"),
        ({"ks": (1, 5)}, "ks to be at most 4, half of the model's heads"),
        ({"n_clean": 21}, "n_clean to be at most 20"),
        ({"n_validation": 9}, "n_validation to be at most 8"),
        ({"n_test": 13}, "n_test to be at most 12"),
    ],
)
def test_what_does_not_fit_is_refused_before_effects_are_measured(
    settings: dict[str, Any], what: str, tiny_hooked: Any, own_tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_laboratory, "locate_heads", lambda *args, **options: pytest.fail("measured"))
    with pytest.raises(ArgumentError, match=what):
        laboratory(tiny_hooked(), own_tasks, replace(TINY, **settings))


@pytest.mark.parametrize(("names", "what"), [(["antonym"], "number of tasks"), (["antonym"] * 2, "different names")])
def test_tasks_are_two_or_more_of_different_names(names: list[str], what: str, tiny_hooked: Any) -> None:
    with pytest.raises(ArgumentError, match=what):
        laboratory(tiny_hooked(), names)


def test_layers_are_the_models() -> None:
    """By default they are those that the committed records were measured at."""
    assert LabConfig().tried_layers(30) == (6, 9, 12, 15, 18, 21)
    assert LabConfig().tried_layers(18) == (3, 5, 7, 9, 11, 13)
    assert LabConfig().tried_layers(1) == (0,)
    with pytest.raises(ArgumentError, match="number of ks"):
        LabConfig(ks=())
