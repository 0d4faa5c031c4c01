"""``ivlens export`` and ``ivlens import``: what is lost is measured, files are written, names are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from ivlens.cli import main


@pytest.fixture
def vector(workshop: Path, tmp_path: Path) -> Path:
    values = torch.randn(32, generator=torch.Generator().manual_seed(0))
    return iv.InstructionVector(values, torch.zeros(0, 32), (), "task").save(tmp_path / "own.safetensors")


def exported(workshop: Path, vector: Path, out: Path, *more: str) -> int:
    words = ["export", str(workshop / "model"), str(vector), "--layer", "1", "--scale", "2", "--out", str(out), *more]
    return main(words)


def test_an_export_measures_and_an_import_says_how_it_is_added(
    workshop: Path, vector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = tmp_path / "v.pt", tmp_path / "back.safetensors"
    task = ["--task", str(workshop / "task.json"), "--n-validation", "3"]
    assert exported(workshop, vector, out, "--to", "lm-eval", "--json", *task) == 0
    ((title, rows),) = json.loads(capsys.readouterr().out).items()
    assert "3 validation prompts" in title
    assert [row["condition"] for row in rows] == ["no vector", "as steered", "at all positions"]
    assert main(["import", str(out), "--out", str(back), "--json"]) == 0
    ((_, (row,)),) = json.loads(capsys.readouterr().out).items()
    assert {name: row[name] for name in ("layer", "site", "scale", "position", "assumed")} == {
        "layer": 0, "site": "resid_post", "scale": 2.0, "position": "last", "assumed": "nothing",
    }  # fmt: skip
    assert iv.InstructionVector.load(back).values.equal(iv.InstructionVector.load(vector).values)
    assert main(["import", str(out), "--position", "all", "--scale", "3", "--out", str(back), "--json"]) == 0
    ((_, (row,)),) = json.loads(capsys.readouterr().out).items()
    assert (row["position"], row["scale"]) == ("all", 3.0)


def test_a_baked_model_is_a_folder(workshop: Path, vector: Path, tmp_path: Path) -> None:
    assert exported(workshop, vector, tmp_path / "baked", "--to", "hf", "--position", "all") == 0
    assert json.loads((tmp_path / "baked/config.json").read_text())["mlp_bias"] is True


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--to", "lm-eval"], "expected --task, to measure what is lost"),
        (["--to", "gguf", "--position", "all"], "llama.cpp begins"),
        (["--to", "hf", "--position", "all", "--layer", "7"], "--layer"),
    ],
)
def test_what_cannot_work_is_one_line(
    workshop: Path, vector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], match: str
) -> None:
    assert exported(workshop, vector, tmp_path / "v", *more) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert match in last
    assert not (tmp_path / "v").exists()


def test_formats_of_the_command_line_are_those_of_python(capsys: Any) -> None:
    from ivlens.cli.verbs import EXPORTS
    from ivlens.integrations.vector_formats import FORMATS

    assert tuple(FORMATS) == EXPORTS
