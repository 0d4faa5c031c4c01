"""The scale benchmark on a model of its shape made tiny. Nothing is timed that anybody reads."""

from typing import Any

import pytest
import torch

from figures.benchmark import scale
from figures.benchmark.measures import seconds
from figures.benchmark.random_llama import random_llama

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch: Any) -> None:
    monkeypatch.setattr(scale, "SHAPE", {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4})


@pytest.mark.usefixtures("tiny")
def test_rows_are_of_the_shape_and_the_dtypes_asked(smollm2: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = scale.scale(smollm2.tokenizer, CPU, 3, 1)
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
