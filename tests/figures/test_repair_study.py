"""The repair study on a tiny model, end to end and resumed; the committed tables."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ivlens
from figures.repair import study
from figures.repair.measure import RepairStudyConfig, Setting, TaskSequence, load_repairs, measured
from ivlens.checkpoints import RepairConfig

REPAIR = Path(__file__).parents[2] / "figures" / "repair"


def test_checkpoints_are_trained_repaired_and_found_again(
    tiny_hf: Any, smollm2: Any, tmp_path: Path, caplog: Any
) -> None:
    source = tmp_path / "base"
    tiny_hf("llama", vocab_size=len(smollm2.tokenizer)).save_pretrained(source)
    smollm2.tokenizer.save_pretrained(source)
    config = RepairStudyConfig(
        settings=(Setting(str(source), "plain", 1e-4), Setting(str(source), "l2", 1e-4)), seeds=(0,),
        sequences={"two": TaskSequence(("word-topic", "choose-last-of-3"), shots=1)}, keep=("antonym",),
        others=("capitalize",), steps=2, batch_size=2, warmup=0,
        repair=RepairConfig(fractions=(0.5,), depths=(), n_greedy=0, n_validation=2, n_test=3, random_seeds=(0,)),
    )  # fmt: skip
    caplog.set_level("INFO", logger="ivlens")
    found = measured(tmp_path / "records", tmp_path / "work", config)
    assert [(each.method, each.sequence) for each in found] == [("plain", "two"), ("l2", "two")]
    assert {*next(iter(found.values())).tasks} == {"antonym", "capitalize", "word-topic", "choose-last-of-3"}
    caplog.clear()
    again = measured(tmp_path / "records", tmp_path / "work", config)
    assert caplog.messages == []
    loaded = load_repairs(tmp_path / "records", config)
    for key, repair in found.items():
        assert again[key].gains().equals(repair.gains())
        assert loaded[key].gains().equals(repair.gains())
    with pytest.raises(ivlens.RecordError):
        load_repairs(tmp_path / "records", RepairStudyConfig())


def test_a_task_has_one_role() -> None:
    with pytest.raises(ivlens.ArgumentError, match="different tasks to learn, to keep and to report in one"):
        RepairStudyConfig(sequences={"one": TaskSequence(("antonym",))})


def test_the_goal_is_for_the_plain_checkpoints_that_lost_half() -> None:
    def row(method: str, seed: int, before: float, after: float, learned: float) -> dict[str, Any]:
        return {"source": "smollm2", "method": method, "rate": 2e-4, "seed": seed, "of base before": before,
                "of base after": after, "of learned": learned}  # fmt: skip

    rows = [row("plain", 0, 0.5, 0.96, 0.99), row("plain", 1, 0.4, 0.96, 0.96), row("plain", 2, 0.51, 0.99, 1.0),
            row("l2", 1, 0.4, 0.99, 1.0), row("plain", 2, 0.3, 0.95, 0.98)]  # fmt: skip
    table = study.goal_table(pd.DataFrame(rows))
    assert table["checkpoints"].to_list() == [3, 2]
    assert table["each reached 95% at 98%"].to_list() == [2, 1]
    assert table["of learned"].iloc[1].startswith("0.97")


def test_the_committed_tables_are_those_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "measured", lambda *args: pytest.fail("measured again"))
    (tmp_path / "records").symlink_to(REPAIR / "records")
    *_, tables = study.write(tmp_path, kind="html")
    assert tables.read_text() == (REPAIR / "tables.md").read_text()
