"""The laboratory's pictures and tables, from saved records alone."""

from pathlib import Path
from typing import Any

import pytest

from figures.laboratory import study
from ivlens import LabConfig, laboratory, load_task

HOME = Path(__file__).parents[2] / "figures" / "laboratory"


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "load_model", lambda name: pytest.fail("a model was loaded"))


def test_pictures_and_tables_are_made_of_saved_records(tiny_hooked: Any, tmp_path: Path) -> None:
    rows = [(f"the {i}", f"fox {i}") for i in range(60)]
    tasks = [load_task(rows, name=name, instructions="What is it?") for name in ("one", "two")]
    config = LabConfig(scales=(1.0,), ks=(2,), n_clean=3, n_corrupted=12, n_validation=2, n_test=3, random_seeds=(0,))
    laboratory(tiny_hooked(num_attention_heads=8), tasks, config, out=tmp_path / "records" / "tiny")
    written = study.write(tmp_path, models=("tiny",), tasks=("one", "two"), config=config, kind="html")
    drawn = {f"tiny-{what}.html" for what in ("sweep", "controls", "transfer", "stability")}
    assert {path.name for path in written} == drawn | {"tiny-tables.md"}
    assert "| one | " in (tmp_path / "tiny-tables.md").read_text()


def test_the_committed_tables_are_those_of_the_records(tmp_path: Path) -> None:
    (tmp_path / "records").symlink_to(HOME / "records")
    tables = [path for path in study.write(tmp_path, kind="html") if path.name.endswith("tables.md")]
    assert len(tables) == 2
    for path in tables:
        assert path.read_text() == (HOME / path.name).read_text()
