"""Records found by what their files say: every class, whole folders, and what is no record or broken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ivlens import ConditionComparison, HeadMeans, InstructionVector, Stability
from ivlens.errors import ArgumentError, RecordError
from ivlens.records import CheckpointComparison, HiddenStates, gather_records, load_record
from ivlens.vocabulary import Head

STABLE = Stability(torch.ones(2, 3), 0.5, 3, 7, 100, "a task")
ANSWERS = ConditionComparison(torch.ones(1, 2).bool(), torch.ones(1, 2), ("bare",), "a task")
VECTOR = InstructionVector(torch.ones(4), torch.ones(1, 4), (Head(0, 1),), "a task")
COMPARED = CheckpointComparison(
    (),
    (),
    *(torch.ones(1, 1, 2, 3),) * 3,
    *(torch.ones(1, 1, 2),) * 5,
    ("base",),
    ("t",),
    ((Head(0, 1),),),
    "probability",
)


def other(path: Path, **header: str) -> Path:
    """A safetensors file that holds no record."""
    save_file({"weight": torch.ones(2)}, path, metadata=header or None)
    return path


@pytest.mark.parametrize("record", [STABLE, ANSWERS, VECTOR, COMPARED, HeadMeans(torch.ones(1, 1, 1), 1)])
def test_a_record_is_read_as_its_own_class(record: Stability, tmp_path: Path) -> None:
    assert type(load_record(record.save(tmp_path / "record.safetensors"))) is type(record)


def test_what_is_no_record_or_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="got no such file"):
        load_record(tmp_path / "none")
    with pytest.raises(RecordError, match="got another safetensors file"):
        load_record(other(tmp_path / "weights"))
    state = json.dumps({"step": 3, "key": {}})
    with pytest.raises(RecordError, match="got another safetensors file"):
        load_record(other(tmp_path / "state", ivlens=state))
    with pytest.raises(RecordError, match=r"of a known class in .*; got a Tomorrow"):
        load_record(other(tmp_path / "new", ivlens=json.dumps({"record": "Tomorrow"})))
    for text in ("", "not json", "[1]"):
        (tmp_path / "text").write_text(text)
        with pytest.raises(RecordError, match="got an unreadable file"):
            load_record(tmp_path / "text")
        with pytest.raises(RecordError, match="got an unreadable file"):
            load_record(other(tmp_path / "odd", ivlens=text))


def test_a_folder_gives_its_records_passes_others_over_and_names_the_broken(tmp_path: Path) -> None:
    STABLE.save(tmp_path / "b.safetensors")
    VECTOR.save(tmp_path / "deep" / "er" / "a.safetensors")
    HeadMeans(torch.ones(1, 1, 1), 1).save(tmp_path / "means.safetensors")
    other(tmp_path / "weights.safetensors", format="pt")
    cut = ANSWERS.save(tmp_path / "deep" / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:-1])
    missing_field = other(tmp_path / "old.safetensors", ivlens=json.dumps({"record": "Stability"}))
    (tmp_path / "notes.txt").write_text("no record")
    found = gather_records([tmp_path])
    assert {name: type(record) for name, record in found.records.items()} == {
        "b.safetensors": Stability, "deep/er/a.safetensors": InstructionVector
    }  # fmt: skip
    assert found.passed_over == ("means.safetensors", "weights.safetensors")
    assert list(found.broken) == ["deep/cut.safetensors", missing_field.name]
    assert "unreadable" in found.broken["deep/cut.safetensors"]
    assert str(tmp_path) not in "".join(found.broken.values())


def test_files_and_folders_are_read_once_and_named_below_what_they_share(tmp_path: Path) -> None:
    one = STABLE.save(tmp_path / "one" / "record.safetensors")
    ANSWERS.save(tmp_path / "two" / "record.safetensors")
    found = gather_records([one, tmp_path / "two", tmp_path / "one", tmp_path / "two" / ".." / "two"])
    assert list(found.records) == ["one/record.safetensors", "two/record.safetensors"]
    assert list(gather_records([one]).records) == ["record.safetensors"]


def test_the_measures_of_a_comparison_stand_back_behind_it(tmp_path: Path) -> None:
    ANSWERS.save(tmp_path / "measures" / "recovery.safetensors")
    HiddenStates(torch.ones(1, 1, 1)).save(tmp_path / "measures" / "hidden.safetensors")
    assert list(gather_records([tmp_path]).records) == ["measures/recovery.safetensors"]
    COMPARED.save(tmp_path / "comparison.safetensors")
    found = gather_records([tmp_path])
    assert list(found.records) == ["comparison.safetensors"]
    assert found.passed_over == ("measures/hidden.safetensors", "measures/recovery.safetensors")


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="nowhere: no such file or folder"):
        gather_records([tmp_path, tmp_path / "nowhere"])
    with pytest.raises(ArgumentError, match="got none"):
        gather_records([])
