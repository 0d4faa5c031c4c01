"""Folders with odd files: each is named, the others are shown; so are folders that cannot be read."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ivlens import cli, list_vectors
from ivlens.records import gather_records

CHANGES: dict[str, dict[str, Any]] = {
    "provenance": {"provenance": None}, "heads": {"heads": "abc"}, "task": {"task": [1, {}]}, "list": {"heads": None},
}  # fmt: skip


@pytest.fixture
def odd(workshop: Path, tmp_path: Path) -> Path:
    """A folder with one good vector, and files that differ from it in one fact or are no record at all."""
    good = workshop / "foreign.safetensors"
    with safe_open(good, "pt") as file:
        facts = json.loads(file.metadata()["ivlens"])
    for name, change in CHANGES.items():
        save_file(load_file(good), tmp_path / f"{name}.safetensors", metadata={"ivlens": json.dumps(facts | change)})
    save_file(load_file(good), tmp_path / "header.safetensors", metadata={"ivlens": "[1]"})
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-5])
    (tmp_path / "good.safetensors").write_bytes(good.read_bytes())
    return tmp_path


def test_a_report_goes_on(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = odd / "report.html"
    assert cli.main(["report", str(odd), "--out", str(page), "--json"]) == 0
    said = capsys.readouterr()
    shown = [row["file"] for row in json.loads(said.out)["records"]]
    assert "good.safetensors" in shown
    text = page.read_text(encoding="utf-8")
    for name in (*CHANGES, "header", "cut"):
        file = f"{name}.safetensors"
        assert (f"<td>{file}</td>" in text and f"{file} could not be" in said.err) != (file in shown), name
    assert {"cut.safetensors", "header.safetensors", "provenance.safetensors"}.isdisjoint(shown)


def test_a_list_of_vectors_goes_on(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vectors", str(odd)]) == 0
    said = capsys.readouterr()
    assert "good.safetensors" in said.out
    assert "cut.safetensors could not be read" in said.err
    assert "header.safetensors could not be read" in said.err
    assert "good.safetensors" in [*list_vectors(odd)["file"]]


def test_folders_that_cannot_be_read_are_named(
    odd: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Root reads every folder, so the system is made to refuse."""
    (odd / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    list_vectors(odd)
    assert "locked could not be read: Permission denied" in caplog.messages
    assert gather_records([odd]).broken["locked"] == "Permission denied"
