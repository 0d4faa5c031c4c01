"""The study of races: a record per task, measured where it is missing; its table is that of the saved records."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from figures.racing import study
from figures.racing.study import RacingConfig, write
from ivlens import RecordError
from ivlens.records import HeadEffects
from ivlens.vocabulary import Corruption

RACING = Path(__file__).parents[2] / "figures" / "racing"
BARE: Corruption = "no-instruction"
SMALL = RacingConfig(tasks=((BARE, 2, ("antonym",)),), k=3, swept=8, raced=6, draws=1, resamples=1, n_clean=2)


def rows_of(table: str) -> list[dict[str, str]]:
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_missing_records_alone_are_measured(tmp_path: Path, smollm2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "load_model", lambda name: smollm2)
    (path,) = write(tmp_path, config=SMALL)
    row, every = rows_of(path.read_text())
    assert (row["task"], every["task"]) == ("antonym", "all")
    seconds = json.loads((tmp_path / "records" / study.TIMES).read_text())["antonym.no-instruction"]["seconds"]
    assert float(row["race / sweep"]) == pytest.approx(seconds["race"] / seconds["sweep"], abs=0.01)
    monkeypatch.setattr(study, "load_model", lambda name: pytest.fail("a model was loaded"))
    before = path.read_text()
    (path,) = write(tmp_path, config=SMALL)
    assert path.read_text() == before
    monkeypatch.setattr(study, "load_model", lambda name: smollm2)
    with pytest.raises(RecordError, match=r"antonym\.no-instruction with the numbers"):
        write(tmp_path, config=replace(SMALL, raced=7))


def test_the_committed_table_is_that_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "load_model", lambda name: pytest.fail("a model was loaded"))
    (tmp_path / "records").symlink_to(RACING / "records")
    (path,) = write(tmp_path)
    assert path.read_text() == (RACING / path.name).read_text()
    assert [len(rows_of(table)) for table in path.read_text().split("\n\n")] == [11, 5]


def test_the_last_row_has_means_and_the_worst() -> None:
    rows = pd.DataFrame({"task": ["a", "b"], "found": [0.5, 1.0], "fewest found": [0.4, 0.9], "at most": [0.1, 0.3]})
    last = study._with_all(rows).to_dict("records")[-1]
    assert last == {"task": "all", "found": 0.75, "fewest found": 0.4, "at most": 0.3}


@pytest.mark.parametrize("apart", [True, False])
def test_heads_and_streams_are_counted(apart: bool) -> None:
    """Where two heads stand apart the others drop out after five prompts; where nothing tells them apart none does."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 2, 4, generator=generator) + (50 * torch.eye(8)[:2].sum(0).view(2, 4) if apart else 0)
    effects = HeadEffects(values, torch.zeros(20), "log-probability", "exact")
    config = replace(SMALL, k=2, swept=20, raced=10, draws=3, resamples=20)
    found, held = study._found(effects, config), study._held(effects, config)
    if apart:
        assert found["found"] == found["fewest found"] == 1
        assert found["of the sweep's streams"] == found["at most"] == pytest.approx((2 * 10 + 6 * 5) / 80)
    else:
        assert found["of the sweep's streams"] > 0.6
        assert found["fewest found"] == 1  # of those on the same prompts, whatever all prompts say
    assert held["of finalists"] > 0.9
    assert held["intervals that hold"] > 0.9
    assert 0.8 < held["the sweep's"] < 0.97


def test_costs_are_ratios_of_cpu_time() -> None:
    assert study._costs({"means": 5.0, "sweep": 20.0, "race": 5.0}) == {"race / sweep": 0.25, "with means": 0.4}
