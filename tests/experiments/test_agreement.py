"""The agreement study: a record a cell, measured where it is missing; its table is that of the saved records."""

from pathlib import Path
from typing import Any

import pytest

from ivlens.experiments import agreement
from ivlens.experiments.agreement import AgreementConfig, make_agreement_table

ROOT = Path(__file__).parents[2]
SMALL = AgreementConfig(tasks=("present-past",), corruptions=(("no-instruction", 1),), n_clean=2, n_corrupted=2)


def test_missing_records_alone_are_measured(tmp_path: Path, smollm2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(agreement, "load_model", lambda name: smollm2)
    (path,) = make_agreement_table(tmp_path, config=SMALL, say=said.append)
    cells = path.read_text().splitlines()[2].split(" | ")
    assert float(cells[3]) > 0.9
    monkeypatch.setattr(agreement, "load_model", lambda name: pytest.fail("a model was loaded"))
    before = path.read_text()
    (path,) = make_agreement_table(tmp_path, config=SMALL, say=said.append)
    assert path.read_text() == before
    assert len(said) == 1


def test_the_committed_table_is_that_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "load_model", lambda name: pytest.fail("a model was loaded"))
    (tmp_path / "records").symlink_to(ROOT / "figures" / "records")
    (path,) = make_agreement_table(tmp_path)
    assert path.read_text() == (ROOT / "figures" / path.name).read_text()
