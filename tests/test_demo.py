"""The demo end to end on the real model, small: its files, its tables, its resumption."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ivlens import ArgumentError, HeadEffects, InstructionVector, SteeringSweep, demo, load_task
from ivlens.demo import DemoConfig, run_demo
from ivlens.records import load_or_compute
from ivlens.stats import wilson_interval
from ivlens.steering import layer_grid

TASKS = ("present-past", "singular-plural")
SMALL = DemoConfig(
    n_clean=12,
    n_corrupted=3,
    layers=(12,),
    scales=(4.0,),
    n_validation=4,
    n_test=8,
)


@pytest.fixture(scope="module")
def found(smollm2: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("demo")
    return run_demo(smollm2, TASKS, SMALL, out=folder), folder


def test_records_page_csv_and_json_are_written(found: Any) -> None:
    result, folder = found
    effects = HeadEffects.load(folder / "records" / "present-past.effects.safetensors")
    assert effects.values.equal(result.effects["present-past"].values)
    assert effects.means is not None
    assert effects.means.n == 12
    assert InstructionVector.load(folder / "records" / "singular-plural.vector.safetensors").norm > 0
    assert SteeringSweep.load(folder / "records" / "present-past.sweep.safetensors").best() == (12, 4.0, 20)
    heads = pd.read_csv(folder / "heads.csv")
    assert len(heads) == 3 * 270
    steering = json.loads((folder / "steering.json").read_text())
    assert steering["provenance"]["model"]["source"] == "smollm2"
    assert len(steering["rows"]) == 10
    page = (folder / "index.html").read_text()
    assert "Heads that carry the instructions" in page
    assert 'src="http' not in page


def test_tables_say_what_was_found(found: Any) -> None:
    result, _ = found
    heads, steering = result.heads_table(), result.steering_table()
    layer, head = result.universal.top(1)[0]
    assert heads["head"][0] == f"{layer}.{head}"
    assert list(steering.columns[3:-1]) == list(demo.CONDITIONS)
    rows = result.steering.set_index(["task", "condition"])
    assert rows.loc[("present-past", "bare"), "accuracy"] == 0
    n = rows.loc[("present-past", "bare"), "n"]
    assert tuple(rows.loc[("present-past", "bare"), ["low", "high"]]) == wilson_interval(0, n)
    assert steering["bare"][0] == f"0.00 (0.00 to {wilson_interval(0, n)[1]:.2f})"
    assert rows.loc[("present-past", "clean"), "accuracy"] > 0.7
    assert rows.loc[("present-past", "bare + random vector"), "repeats"] == 3


def test_second_run_reuses_the_effects(smollm2: Any, found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, folder = found
    monkeypatch.setattr(demo, "locate_heads", lambda *args, **options: pytest.fail("computed again"))
    again = run_demo(smollm2, TASKS, SMALL, out=folder)
    pd.testing.assert_frame_equal(again.steering, first.steering)


def test_a_record_is_recalled_only_under_its_key(tmp_path: Path, found: Any) -> None:
    effects, path = found[0].effects["present-past"], tmp_path / "effects.safetensors"
    calls: list[int] = []

    def compute() -> HeadEffects:
        calls.append(1)
        return effects

    for key, expected in (({"a": (1,)}, 1), ({"a": [1]}, 1), ({"a": [2]}, 2), ({"a": [2]}, 2)):
        assert load_or_compute(path, HeadEffects, key, compute).values.equal(effects.values)
        assert len(calls) == expected
    path.write_bytes(path.read_bytes()[:100])
    load_or_compute(path, HeadEffects, {"a": [2]}, compute)
    assert len(calls) == 3


def test_configuration_checks_itself() -> None:
    with pytest.raises(ArgumentError, match="corrupted to be a whole number of 1 or more; got 0"):
        DemoConfig(n_corrupted=0)
    with pytest.raises(ArgumentError, match="the number of scales"):
        DemoConfig(scales=())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"layers": (0, 2)}, r"layers from 0 to 1, one or more; got \(0, 2\)"),
        ({"layers": ()}, "layers from 0 to 1, one or more"),
        ({"k": 9}, "k to be at most 8, the number of heads"),
        ({"k": 8, "n_validation": 999}, "n_validation to be at most"),
    ],
)
def test_what_does_not_fit_is_refused_before_effects_are_measured(
    settings: dict[str, Any], what: str, tiny_hooked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "locate_heads", lambda *args, **options: pytest.fail("measured"))
    with pytest.raises(ArgumentError, match=what):
        run_demo(tiny_hooked(), TASKS, DemoConfig(**settings), out=tmp_path)


@pytest.mark.parametrize(("tasks", "what"), [(["antonym"], "number of tasks"), (["antonym"] * 2, "different names")])
def test_tasks_are_two_or_more_of_different_names(
    tasks: list[str], what: str, tiny_hooked: Any, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=what):
        run_demo(tiny_hooked(), tasks, out=tmp_path)


def test_any_model_and_tasks_have_a_demo(tiny_hooked: Any, tmp_path: Path) -> None:
    """Layers are those of the model; rows in memory are a task."""
    model, rows = tiny_hooked(num_hidden_layers=3), [(f"the {i}", f"fox {i}") for i in range(40)]
    tasks = [load_task(rows, name=name, instructions="What is it?") for name in ("one", "two")]
    config = DemoConfig(n_clean=4, n_corrupted=2, k=2, n_validation=2, n_test=3)
    found = run_demo(model, tasks, config, out=tmp_path)
    assert found.sweeps["one"].layers == (0, 1)
    assert found.steering_table()["task"].tolist() == ["one", "two"]
    assert (tmp_path / "index.html").stat().st_size > 10_000
    assert repr(found) == "Demo(2 tasks: one, two)"


def test_the_default_models_layers_are_those_of_the_committed_demo() -> None:
    assert layer_grid(30, 30, 60) == (9, 12, 15, 18)
