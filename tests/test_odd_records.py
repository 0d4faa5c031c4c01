"""Readable files whose record is odd: refused as a record, and never the end of a report or of a list of vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ivlens import InstructionVector, list_vectors
from ivlens.cli import main
from ivlens.errors import RecordError
from ivlens.records import Record, gather_records, load_record
from ivlens.tensor_files import save_tensors
from ivlens.vocabulary import Head
from test_records import EXAMPLES

VECTOR = InstructionVector(
    torch.ones(4), torch.ones(2, 4), (Head(0, 1), Head(1, 0)), "a task", provenance={"model": {}}
)
RECORDS = EXAMPLES | {"InstructionVector": VECTOR}
ODD: tuple[Any, ...] = (None, [], {}, "x", -7, 0.5, [1], ["x", None], [[1, "x"]], {"a": 1}, True, [[10**9, -1]])
PARTS = [(name, part) for name, record in RECORDS.items() for part in (*record._pack("")[1], *record._pack("")[0])]


def packed(record: Record) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, facts = record._pack("")
    return tensors, {"record": type(record).__name__, **facts}


def other_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor in other shapes and types."""
    return [
        tensor[None], tensor[..., :0], tensor.flatten()[0], torch.cat([tensor, tensor]), tensor.to(torch.int64),
        tensor.to(torch.complex64), ~tensor if tensor.dtype == torch.bool else tensor > 0,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), PARTS)
def test_an_odd_part_is_refused_or_does_no_harm(tmp_path: Path, name: str, part: str) -> None:
    whole, facts = packed(RECORDS[name])
    files = []
    for at, odd in enumerate(other_tensors(whole[part]) if part in whole else ODD):
        changed = (whole | {part: odd}, facts) if part in whole else (whole, facts | {part: odd})
        files.append(save_tensors(tmp_path / f"{at}.safetensors", changed[0], changed[1]))
    for without in ({"tensors": part}, {"facts": part}):
        tensors = {key: value for key, value in whole.items() if key != without.get("tensors")}
        kept = {key: value for key, value in facts.items() if key != without.get("facts")}
        files.append(save_tensors(tmp_path / f"no-{'-'.join(without)}.safetensors", tensors, kept))
    for path in files:
        try:
            load_record(path)
        except RecordError:
            continue
    found = gather_records([tmp_path])
    assert len(found.records) + len(found.passed_over) + len(found.broken) == len(files)
    for record in found.records.values():
        record._repr_html_()
    list_vectors(tmp_path)


@pytest.mark.parametrize("name", RECORDS)
def test_wrong_shapes_types_and_lengths_are_refused_by_their_field(tmp_path: Path, name: str) -> None:
    record = RECORDS[name]
    whole, facts = packed(record)
    for part, tensor in whole.items():
        save_tensors(tmp_path / "odd", whole | {part: tensor[None]}, facts)
        with pytest.raises(RecordError, match=rf"fields of a \w+ in .*{part.rpartition('.')[2]}.*shape"):
            type(record).load(tmp_path / "odd")
    for part, value in facts.items():
        if part not in ("record", "provenance", "failures", "means") and value:
            save_tensors(tmp_path / "odd", whole, facts | {part: {"not": "this"}})
            with pytest.raises(RecordError, match="fields of a"):
                type(record).load(tmp_path / "odd")


def test_one_odd_record_ends_neither_a_report_nor_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    VECTOR.save(tmp_path / "good.safetensors")
    EXAMPLES["HeadEffects"].save(tmp_path / "effects.safetensors")
    whole, facts = packed(VECTOR)
    save_tensors(tmp_path / "odd.safetensors", whole, facts | {"provenance": None})
    save_tensors(tmp_path / "odder.safetensors", whole, facts | {"provenance": {"model": None, "settings": 3}})
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report.html")]) == 0
    assert main(["vectors", str(tmp_path)]) == 0
    assert "good.safetensors" in capsys.readouterr().out
    assert "good" in (tmp_path / "report.html").read_text(encoding="utf-8")
