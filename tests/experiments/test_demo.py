"""The demo end to end on the real model, small: its files, its tables, its resumption."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ivlens import ArgumentError, HeadEffects, InstructionVector, SteeringSweep
from ivlens.experiments import DemoConfig, demo, run_demo
from ivlens.experiments.demo_report import heads_table, steering_table, write_demo
from ivlens.records import load_or_compute

SMALL = DemoConfig(
    tasks=("present-past", "singular-plural"),
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
    result = run_demo(smollm2, folder, SMALL)
    write_demo(smollm2, result, SMALL, folder)
    return result, folder


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
    heads, steering = heads_table(result), steering_table(result.steering)
    layer, head = result.universal.top(1)[0]
    assert heads["head"][0] == f"{layer}.{head}"
    assert list(steering.columns[3:-1]) == list(demo.CONDITIONS)
    rows = result.steering.set_index(["task", "condition"])
    assert rows.loc[("present-past", "bare"), "accuracy"] == 0
    assert rows.loc[("present-past", "clean"), "accuracy"] > 0.7
    assert rows.loc[("present-past", "bare + random vector"), "repeats"] == 3


def test_second_run_reuses_the_effects(smollm2: Any, found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, folder = found
    monkeypatch.setattr(demo, "locate_heads", lambda *args, **options: pytest.fail("computed again"))
    again = run_demo(smollm2, folder, SMALL)
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
    with pytest.raises(ArgumentError, match="number of tasks"):
        DemoConfig(tasks=("antonym",))
