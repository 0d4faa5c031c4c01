"""The diagnosis study on a tiny model, end to end and resumed; the committed tables."""

import math
from pathlib import Path
from typing import Any

import pytest

import ivlens
from figures.diagnosis import study
from figures.diagnosis.study import DiagnosisConfig, diagnosis_table, load_diagnosis, run_diagnosis
from ivlens.checkpoints import CheckpointConfig

DIAGNOSIS = Path(__file__).parents[2] / "figures" / "diagnosis"


def test_checkpoints_are_trained_compared_and_found_again(
    tiny_hf: Any, smollm2: Any, tmp_path: Path, caplog: Any
) -> None:
    source = tmp_path / "base"
    tiny_hf("llama", vocab_size=len(smollm2.tokenizer)).save_pretrained(source)
    smollm2.tokenizer.save_pretrained(source)
    config = DiagnosisConfig(
        source=str(source), guidance=("plain", "guided"), new=("word-topic", "choose-last-of-3"),
        old=("antonym", "capitalize"), steps=2, batch_size=2, warmup=0, learning_rate=1e-2,
        comparison=CheckpointConfig(n_clean=4, groups=2, n_corrupted=2, k=2, n_test=3, n_validation=2, layers=(0,),
                                    scales=(1.0,), random_seeds=(0,), general=False),
    )  # fmt: skip
    caplog.set_level("INFO", logger="ivlens")
    found = run_diagnosis(tmp_path / "records", tmp_path / "work", config)
    assert [line for line in caplog.messages if line.startswith(("plain: ", "guided: "))] == [
        "plain: word-topic", "plain: choose-last-of-3", "guided: word-topic", "guided: choose-last-of-3"]  # fmt: skip
    assert found["plain"].checkpoints == ("base", "plain 1", "plain 2")
    assert found["guided"].learned == ("word-topic", "choose-last-of-3")
    assert found["plain"].failures == {}
    assert (found["plain"].weights[2] > found["plain"].weights[1]).double().mean() > 0.5  # it goes on from the first
    caplog.clear()
    again = run_diagnosis(tmp_path / "records", tmp_path / "work", config)
    assert caplog.messages == []
    assert again["plain"].to_frame().equals(found["plain"].to_frame())
    loaded = load_diagnosis(tmp_path / "records", config)
    table = diagnosis_table(loaded)
    assert table[["checkpoint", "task"]].to_numpy().tolist() == [
        [name, task] for name in ("plain 2", "guided 2") for task in ("antonym", "capitalize")]  # fmt: skip
    assert table["knowledge"].iloc[1] == "no cloze"
    assert "nan" not in table["accuracy"].iloc[0]
    assert math.isclose(float(table["cosine"].iloc[0]), loaded["plain"].to_frame()["cosine"].iloc[8], abs_tol=0.006)
    with pytest.raises(ivlens.RecordError, match="as it is configured"):
        load_diagnosis(tmp_path / "records", DiagnosisConfig())


def test_the_committed_tables_are_those_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "run_diagnosis", lambda *args: pytest.fail("measured again"))
    (tmp_path / "records").symlink_to(DIAGNOSIS / "records")
    *_, tables = study.write(tmp_path, kind="html")
    assert tables.read_text() == (DIAGNOSIS / "tables.md").read_text()
