"""The benchmarks' records as tables and a picture."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from figures.benchmark import study as benchmark
from figures.benchmark import verbs
from figures.benchmark.floor import Product
from figures.pages import markdown

BENCHMARK = Path(__file__).parents[2] / "figures" / "benchmark"


def contender(name: str, weights: str, threads: int, sweeps: float, run: int, exact: bool) -> dict[str, Any]:
    return {"contender": name, "weights": weights, "threads": threads, "heads run": run, "times the sweep": sweeps,
            "seconds for all heads": sweeps, "largest difference": 2.4e-6, "exact": exact}  # fmt: skip


def along(what: str, at: int) -> dict[str, Any]:
    facts = {"tokens": 51, "prompts": 1, "heads": 12} | {what: at}
    return {"along": what, **facts, "sweep, s": 0.5, "sweep / forward": 2.0, "loop / sweep": 100.0 + at}


SMALL: dict[str, Any] = {
    "model": {"source": "small", "weights_sha256": "", "dtype": "float32", "n_layers": 3, "n_heads": 4},
    "task": "present-past", "tokens": 51, "rounds": 5, "sweep, GFLOP": 1.0,
    "machine": {"processor": "a processor", "cores": 2}, "versions": {"torch": "2.0"},
    "contenders": [
        contender(name, weights, threads, sweeps, run, exact)
        for threads, name, weights, sweeps, run, exact in (
            (1, "ours", "a", 1.0, 12, True), (1, "loop", "b", 90.0, 4, True), (1, "loop", "a", 80.0, 4, True),
            (1, "rough", "a", 0.7, 12, False),
            (2, "ours", "a", 1.0, 12, True), (2, "loop", "b", 99.0, 4, True), (2, "loop", "a", 88.0, 4, True),
            (2, "rough", "a", 0.6, 12, False),
        )
    ],
    "ratios": [{"ratio": "sweep / floor", "forward pass": layout, "threads": count, "value": count + 0.5}
               for count in (1, 2) for layout in ("b", "")],
    "scaling": [along(what, at) for what in ("tokens", "prompts", "heads") for at in (1, 2)],
    "memory": {"sweep": 0.0123},
}  # fmt: skip

LARGE: dict[str, Any] = {
    "device": "a device",
    "scale": [
        {"model": "small", "peak memory / weights": 0.125},
        {"model": "unmeasured", "peak memory / weights": None},
    ],
    "precision": [{"weights": "bfloat16", "rank correlation of AIEs": 0.9}],
}


def test_tables_have_a_column_for_each_number_of_threads_and_rows_in_their_order() -> None:
    table = benchmark.contenders_table(SMALL)
    assert table["contender"].tolist() == ["ours", "loop", "loop", "rough"]
    assert table["weights"].tolist() == ["a", "b", "a", "a"]
    assert table["time, in sweeps, 1 thread"].tolist() == [1.0, 90.0, 80.0, 0.7]
    assert table["time, in sweeps, 2 threads"].tolist() == [1.0, 99.0, 88.0, 0.6]
    assert table["heads run"].tolist() == ["12 of 12", "4 of 12", "4 of 12", "12 of 12"]
    assert table["largest difference"].tolist() == ["2e-06"] * 3 + ["2e-06 (approximate)"]
    ratios = benchmark.ratios_table(SMALL)
    assert ratios[["ratio, 1 thread", "ratio, 2 threads"]].to_numpy().tolist() == [[1.5, 2.5]] * 2
    assert benchmark.memory_table(SMALL).to_numpy().tolist() == [["sweep", "1.2%"]]
    assert benchmark.memory_table(SMALL | {"memory": None}).empty


def test_figure_and_tables_are_drawn_from_the_record_alone(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    with pytest.raises(ivlens.RecordError, match=re.escape(benchmark.COMMAND)):
        benchmark.write(tmp_path, kind="html")
    (records / benchmark.RECORD).write_text(json.dumps(SMALL))
    with pytest.raises(ivlens.RecordError, match=re.escape(benchmark.SCALE_COMMAND)):
        benchmark.write(tmp_path, kind="html")
    (records / benchmark.SCALE_RECORD).write_text(json.dumps(LARGE))
    verbs = [{"verb": "demo", "CPU seconds": 3.0, "matrix products alone": 2.0, "ratio": 1.5, "TFLOP": 0.1}]
    (records / benchmark.VERBS_RECORD).write_text(json.dumps({"verbs": verbs}))
    image, tables = benchmark.write(tmp_path, kind="html")
    assert "2 threads" in image.read_text(encoding="utf-8")
    assert markdown(benchmark.contenders_table(SMALL)) in tables.read_text()
    assert "| a device | small | 12.5% |" in tables.read_text()
    assert "| a device | unmeasured | not measured |" in tables.read_text()


def test_another_device_has_its_own_record_beside_the_cpus(tmp_path: Path) -> None:
    (tmp_path / benchmark.SCALE_RECORD).write_text(json.dumps(LARGE))
    of_gpu = {"device": "a GPU", "scale": [{"model": "large", "peak memory / weights": 0.5}], "precision": [],
              "racing": [{"race / sweep": 0.25}], "compare": []}  # fmt: skip
    (tmp_path / "scale-gpu.json").write_text(json.dumps(of_gpu))
    records = benchmark.load_scales(tmp_path)
    scale, precision = benchmark.scale_tables(*records)
    assert scale["device"].tolist() == ["a device", "a device", "a GPU"]
    assert scale["peak memory / weights"].tolist() == ["12.5%", "not measured", "50.0%"]
    assert precision["device"].tolist() == ["a device"]
    [racing] = benchmark.further_tables(*records)  # what no record has is no table
    assert racing.to_numpy().tolist() == [["a GPU", 0.25]]
    assert benchmark.further_tables(LARGE) == []


@pytest.mark.parametrize("text", ["", "[]", '{"contenders": []}'])
def test_what_is_no_record_of_the_benchmark_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / benchmark.RECORD
    path.write_text(text)
    with pytest.raises(ivlens.RecordError, match=r"figures\.benchmark\.sweep"):
        benchmark.load_benchmark(path)


def test_the_committed_tables_are_those_of_the_records(tmp_path: Path) -> None:
    (tmp_path / "records").symlink_to(BENCHMARK / "records")
    _, tables = benchmark.write(tmp_path, kind="html")
    assert tables.read_text() == (BENCHMARK / "tables.md").read_text()


def test_matrix_products_are_counted_by_shape_those_of_attention_and_gradients_too() -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    with verbs.Counted() as counted:
        torch.nn.functional.linear(torch.randn(2, 3), weight, torch.zeros(5)).sum().backward()
        q, k = torch.randn(1, 4, 6, 8), torch.randn(1, 4, 7, 8)
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert counted.products == {
        Product(1, 2, 3, 5): 1, Product(1, 5, 2, 3): 1,  # the product, and the weight's gradient
        Product(4, 6, 8, 7): 1, Product(4, 6, 7, 8): 1,  # scores and values of four heads
    }  # fmt: skip
    assert verbs.seconds_alone(counted.products) >= 0
