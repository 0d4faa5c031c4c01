"""The growth study: its arithmetic by hand, its tables from its records, a run of it on tiny models."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ivlens as iv
from figures.growth import measure as measuring
from figures.growth import study
from figures.growth.machines import H100, SHAPES, Machine, machines_table, one_gpu
from figures.growth.measure import GrowthConfig

GROWTH = Path(study.__file__).parent
TINY = GrowthConfig(
    layers=4, heads=4, width=32, shots=2, n_prompts=2, rounds=1, rates=((2, 2, 32, 64),),
    axes=(("prompts", (1, 2)), ("tokens", (2, 3)), ("answers", (1, 3)), ("tasks", (1,))),
)  # fmt: skip


def test_a_power_is_the_slope_of_logarithms() -> None:
    sizes = pd.Series([1, 2, 4])
    assert study.slope(sizes, 3.0 * sizes**2) == pytest.approx(2)
    unknown = study.slope(sizes, pd.Series([None, 1.0, 2.0]))
    assert unknown != unknown


def test_parameters_are_those_of_the_models() -> None:
    sizes = {shape.name: shape.parameters for shape in SHAPES}
    published = {"135M": 134.5e6, "1B": 1.236e9, "7B": 6.607e9, "70B": 69.5e9}  # 7B and 70B without their embeddings
    for name, count in published.items():
        assert sizes[name] == pytest.approx(count, rel=0.01)


def test_a_machine_divides_work_by_its_workers_or_cannot_hold_the_weights() -> None:
    [large] = [shape for shape in SHAPES if shape.name == "70B"]
    assert Machine("one", 1, 1e12, 80, "").seconds(large, 5e12) is None
    assert Machine("eight", 8, 1e12, 90, "").seconds(large, 4e12) == pytest.approx(1.0)  # four groups of two
    assert Machine("eight", 8, 1e12, 800, "").seconds(large, 8e12) == pytest.approx(1.0)


def test_the_rate_of_a_gpu_is_measured_where_there_was_one_and_else_marked_as_assumed() -> None:
    small, large = (
        {"model": model, "weights": "bfloat16", "prompts": 50, "sweep, s": seconds}
        for model, seconds in (("SmolLM2", 3.0), ("random, 32 layers x 32 heads, d_model 4096", 10.0))
    )
    cpu = {"device": "CPU, 2 threads", "racing": [small, large]}
    gpu = one_gpu([cpu, {"device": "NVIDIA H100", "racing": [small, large]}])
    tiny, _, shape, _ = SHAPES
    assert gpu.rate == pytest.approx(5 * shape.sweep_flops())
    assert gpu.seconds(shape, 50 * shape.sweep_flops()) == pytest.approx(10)
    assert gpu.seconds(tiny, 50 * tiny.sweep_flops()) == 3  # it waits for launches
    assert gpu.basis == "measured on one NVIDIA H100, 7B in bfloat16"
    half = large | {"model": "random, 16 layers x 32 heads, d_model 4096"}
    assumed = one_gpu([cpu, {"device": "NVIDIA H100", "racing": [small, half]}])
    assert assumed.rate < H100
    assert assumed.basis.startswith("assumed")


def test_tables_and_picture_are_made_of_the_records_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "measure", lambda *given: pytest.fail("something was measured"))
    (tmp_path / "records").symlink_to(GROWTH / "records")
    _, tables = study.write(tmp_path, kind="html")
    assert tables.read_text() == (GROWTH / "tables.md").read_text()


def test_a_run_measures_what_is_missing_and_keeps_what_is_there(
    smollm2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model = iv.load_model
    kept = {"smollm2": smollm2}
    monkeypatch.setattr(iv, "load_model", lambda model, **more: kept.get(str(model)) or load_model(model, **more))
    records = measuring.measure(TINY, tmp_path)
    assert records["answers"]["rows"][0]["size"] == 1
    assert all(row["seconds"] > 0 for record in records.values() for row in record["rows"])
    operations = [row["GFLOP"] for row in records["prompts"]["rows"]]
    assert operations[1] > operations[0]
    (tmp_path / "tokens.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = measuring.measure(TINY, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again["prompts"] == records["prompts"]
    assert set(machines_table(again, [])["70B"][:2]) == {"does not fit"}
