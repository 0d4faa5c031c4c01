"""The scale benchmark on a model of its shape made tiny. Nothing is timed that anybody reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from figures.benchmark import scale
from figures.benchmark.measures import seconds
from figures.benchmark.random_llama import random_llama
from ivlens.models import model_facts
from ivlens.models.facts import weights_sha256

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch: Any) -> None:
    monkeypatch.setattr(scale, "SHAPE", {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4})


@pytest.mark.usefixtures("tiny")
def test_rows_are_of_the_shape_and_the_dtypes_asked(smollm2: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(scale.scale(smollm2.tokenizer, CPU, 3, 1))
    assert [(row["weights"], row["streams"]) for row in rows] == [
        ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float32"),
    ]  # fmt: skip
    assert {row["model"] for row in rows} == {"3 layers x 4 heads, d_model 32"}
    assert all(row["sweep / forward"] > 0 and row["loop / sweep"] > 0 for row in rows)
    assert "3 layers in torch.float32" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_weights_are_random_gains_one_and_biases_zero(smollm2: Any) -> None:
    shape = scale.SHAPE | {"num_hidden_layers": 2}
    model = random_llama(smollm2.tokenizer, shape)
    weights = dict(model.named_parameters())
    assert weights["blocks.1.mlp.W_in"].std().item() == pytest.approx(0.02, rel=0.1)
    assert weights["blocks.1.attn.b_Q"].eq(0).all()
    assert weights["ln_final.w"].eq(1).all()
    assert torch.equal(weights["embed.W_E"], random_llama(smollm2.tokenizer, shape).W_E)


@pytest.mark.usefixtures("tiny")
def test_random_weights_are_named_and_those_changed_since_are_hashed(smollm2: Any) -> None:
    shape = scale.SHAPE | {"num_hidden_layers": 1}
    one, other = (random_llama(smollm2.tokenizer, shape, seed=seed) for seed in (0, 1))
    assert model_facts(one)["weights_sha256"] == "random, seed 0 of cpu" != model_facts(other)["weights_sha256"]
    with torch.no_grad():
        one.W_E.mul_(2)
    assert model_facts(one)["weights_sha256"] == weights_sha256(one)


@pytest.mark.usefixtures("tiny")
def test_a_race_stands_beside_the_sweep_of_the_same_prompts(smollm2: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(scale, "RACED", 8)
    monkeypatch.setattr(scale, "STRONGEST", 3)
    model = random_llama(smollm2.tokenizer, scale.SHAPE | {"num_hidden_layers": 3})
    [row] = scale.racing(model, model.tokenizer, CPU, 3, 1)  # the large model is raced on a GPU only
    assert row["prompts"] == 8
    assert row["the sweep's strongest found"] in {f"{found} of 3" for found in range(4)}
    assert 5 / 8 <= row["streams / sweep's"] <= 1  # all heads have five prompts
    assert row["race / sweep"] > 0


@pytest.mark.usefixtures("tiny")
def test_a_comparison_is_timed_and_scaled_to_all_matrices(smollm2: Any, monkeypatch: Any) -> None:
    config = iv.CheckpointConfig(
        n_clean=4, groups=2, n_corrupted=2, k=2, shots=1, n_test=2, n_validation=2, layers=(1,), scales=(1.0,),
        random_seeds=(0,), general=False,
    )  # fmt: skip
    monkeypatch.setattr(scale, "COMPARED", config)
    monkeypatch.setattr(scale, "seconds", lambda run: (run(), 2.0)[1])
    [row] = scale.compare(smollm2.tokenizer, CPU, 3)
    assert row["comparison, s"] == row["spectrum of a changed matrix, s"] == 2
    assert row["comparison with all matrices changed, s (scaled)"] == 2 + 2 * (3 * 7 - 1)


def test_what_is_measured_is_kept_whatever_fails_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[scale.Row]:
        yield {"first": 1}
        raise MemoryError("too large")

    record: dict[str, Any] = {"device": "a device", "scale": [], "racing": []}
    assert not scale.kept(broken, "scale", record, tmp_path / "record.json")
    assert scale.kept(lambda: iter([{"second": 2}]), "racing", record, tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == {
        "device": "a device", "scale": [{"first": 1}], "racing": [{"second": 2}],
    }  # fmt: skip
    assert "too large" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_as_many_layers_as_fit(smollm2: Any, monkeypatch: Any) -> None:
    model = random_llama(smollm2.tokenizer, scale.SHAPE | {"num_hidden_layers": 5})
    weights = sum(weight.nbytes for name, weight in model.named_parameters() if "W_" in name)
    monkeypatch.setattr(scale, "free_memory", lambda device: (weights + 1) / scale.FRACTION)
    assert scale.layers_that_fit(len(smollm2.tokenizer), CPU, torch.float32) == 5
    assert scale.layers_that_fit(len(smollm2.tokenizer), CPU, torch.bfloat16) > 5


def test_a_run_is_timed_to_its_end(monkeypatch: Any) -> None:
    told: list[str] = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: told.append("finished"))
    assert seconds(lambda: told.append("run")) >= 0
    assert told == ["finished", "run", "finished"]
