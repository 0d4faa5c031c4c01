"""``ivlens report``, called as a person would: real records, what is no record, what is broken or missing."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ivlens import Stability, cli

RECORDS = Path(__file__).parents[1] / "figures" / "laboratory" / "records"
STABLE = Stability(torch.rand(4, 3), 0.5, 3, 7, 100, "a task")


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = cli.main([str(each) for each in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["report", "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert text.startswith("usage: ivlens report")
    assert max(map(len, text.splitlines())) <= 80


def test_the_records_of_the_figures_become_one_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = run(capsys, "report", RECORDS / "smollm2", "--out", tmp_path / "report.html")
    assert status == 0
    assert out.count("HeadEffects") == out.count("SteeringSweep") == 6
    assert "wrote" in err
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 10_000_000
    records = re.findall('<details class="section" id="(?!section-)', text)
    assert len(records) == len([*(RECORDS / "smollm2").glob("*.safetensors")]) == 25
    assert text.count("Plotly.newPlot(") == 31  # two figures for each of the head maps
    assert ">antonym.necessity</h3>" in text
    assert str(RECORDS) not in text


def test_what_cannot_be_shown_is_said_and_the_others_go_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    STABLE.save(tmp_path / "run" / "good.safetensors")
    (tmp_path / "run" / "cut.safetensors").write_bytes(b"cut")
    save_file({"weight": torch.ones(2)}, tmp_path / "run" / "model.safetensors")
    out = tmp_path / "new" / "page.html"
    status, said, err = run(capsys, "report", tmp_path / "run", "--out", out, "--title", "My run", "--json")
    assert status == 0
    assert json.loads(said) == {"records": [{"file": "good.safetensors", "record": "Stability"}]}
    assert "cut.safetensors could not be read: expected cut.safetensors to be an ivlens record" in err
    assert "passed over 1 safetensors file " in err
    text = out.read_text(encoding="utf-8")
    assert "<title>My run</title>" in text
    assert "<td>cut.safetensors</td>" in text
    assert "Passed over: 1 safetensors file " in text


def test_a_missing_path_and_a_folder_of_nothing_are_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = run(capsys, "report", tmp_path / "nowhere", "--out", tmp_path / "report.html")
    assert (status, out) == (1, "")
    assert "nowhere: no such file or folder" in err
    assert err.count("\n") == 1
    (tmp_path / "empty").mkdir()
    status, _, err = run(capsys, "report", tmp_path / "empty", "--out", tmp_path / "report.html")
    assert status == 1
    assert "expected one record or more to show; got none in" in err
    assert not (tmp_path / "report.html").exists()
