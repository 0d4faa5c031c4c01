"""The agreement study: a record per condition, measured where it is missing; its table is that of the saved records."""

from pathlib import Path
from typing import Any

import pytest

from figures.agreement import study
from figures.agreement.study import AgreementConfig, write

AGREEMENT = Path(__file__).parents[2] / "figures" / "agreement"
SMALL = AgreementConfig(
    tasks=("present-past",), corruptions=(("no-instruction", 1),), n_clean=2, n_corrupted=2,
    position_tasks=("present-past",), parts=("mlp",), n_bare=1,
)  # fmt: skip


def test_missing_records_alone_are_measured(tmp_path: Path, smollm2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "load_model", lambda name: smollm2)
    (path,) = write(tmp_path, config=SMALL)
    heads, positions = (table.splitlines()[2].split(" | ") for table in path.read_text().split("\n\n"))
    assert float(heads[3]) > 0.9
    assert positions[:2] == ["| present-past", "mlp"]
    assert 0.3 < float(positions[2]) < 1
    monkeypatch.setattr(study, "load_model", lambda name: pytest.fail("a model was loaded"))
    before = path.read_text()
    (path,) = write(tmp_path, config=SMALL)
    assert path.read_text() == before


def test_the_committed_table_is_that_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "load_model", lambda name: pytest.fail("a model was loaded"))
    (tmp_path / "records").symlink_to(AGREEMENT / "records")
    (path,) = write(tmp_path)
    assert path.read_text() == (AGREEMENT / path.name).read_text()
