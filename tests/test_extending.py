"""Adding a family, a reader, a record with its figure: each touches two places at most.

Each test makes the addition with its own definition and at most one row of a table of ours: the two places. The tests
of training add a term of one's own, which needs no row.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import ivlens
from ivlens import views
from ivlens.models.families import FAMILIES
from ivlens.records import Record, load_record
from ivlens.tasks import readers
from ivlens.views import report, sections


class NewConfig(LlamaConfig):
    model_type = "newcomer"


class NewForCausalLM(LlamaForCausalLM):
    config_class = NewConfig


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch, tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A model of a family that Hugging Face knows and ivlens does not."""
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "newcomer", NewConfig)
    monkeypatch.setitem(MODEL_FOR_CAUSAL_LM_MAPPING._extra_content, NewConfig, NewForCausalLM)
    tiny_hf("newcomer").save_pretrained(tmp_path / "newcomer")
    tiny_tokenizer().save_pretrained(tmp_path / "newcomer")
    return tmp_path / "newcomer"


def test_a_family_is_a_row(newcomer: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ivlens.UnsupportedError, match="newcomer"):
        ivlens.load_model(newcomer, engine="hooked")
    monkeypatch.setitem(FAMILIES, "newcomer", replace(FAMILIES["llama"], architecture="NewForCausalLM"))
    model = ivlens.load_model(newcomer)
    theirs = AutoModelForCausalLM.from_pretrained(newcomer)
    tokens = model.to_tokens("the capital of France is")
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
    exported = AutoModelForCausalLM.from_pretrained(ivlens.export_hf(model, tmp_path / "exported"))
    assert type(exported) is NewForCausalLM
    assert all(torch.equal(each, theirs.state_dict()[name]) for name, each in exported.state_dict().items())


def read_arrows(source: readers.Source) -> readers.Parsed | None:
    """Lines such as ``hot -> cold``."""
    if source.suffix != ".arrows":
        return None
    lines = enumerate(source.text.splitlines(), 1)
    return readers.Parsed([(f"line {number} of {source.origin}", line.split(" -> ")) for number, line in lines])


def test_a_reader_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(readers, "READERS", {"arrows": read_arrows, **readers.READERS})
    path = tmp_path / "opposites.arrows"
    path.write_text("hot -> cold\nbig -> small\nold -> \n", encoding="utf-8")
    with pytest.raises(ivlens.TaskError, match=r"line 3 of .*opposites\.arrows"):
        ivlens.load_task(path)
    path.write_text("hot -> cold\nbig -> small\n", encoding="utf-8")
    task = ivlens.load_task(path)
    assert task.name == "opposites"
    assert [(example.input, example.answers) for example in task.examples] == [("hot", ("cold",)), ("big", ("small",))]


@dataclass(frozen=True, eq=False)
class Scores(Record):
    """A score of each layer."""

    values: Float[Tensor, " layer"]
    task: str = ""

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"layer": range(len(self.values)), "score": self.values.tolist()})


def score_parts(scores: Scores) -> list[Any]:
    return [go.Figure(go.Bar(y=scores.values.tolist(), name="planted bars"))]


def test_a_record_with_its_figure_is_a_class_and_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores = Scores(torch.tensor([0.5, 2.0]), task="antonym")
    found = load_record(scores.save(tmp_path / "scores.safetensors"))
    assert isinstance(found, Scores)
    assert found.values.equal(scores.values)
    assert repr(found) == "Scores(task='antonym', values=f32[2])"
    monkeypatch.setattr(sections, "SECTIONS", sections.SECTIONS[:])
    monkeypatch.setattr(report, "SECTIONS", sections.SECTIONS)
    views.add_section(Scores, "Scores of layers", "What layers score.", score_parts)
    page = views.write_report(tmp_path / "report.html", {"scores": found}).read_text(encoding="utf-8")
    assert "Scores of layers" in page
    assert "planted bars" in page
