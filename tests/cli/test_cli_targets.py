"""Where verbs write: inside --out whatever names say, never over what is no file, and tried before the work."""

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ivlens import ArgumentError, CheckpointComparison, InstructionVector, cli
from ivlens.cli import checkpoints, demo, loading
from ivlens.cli import heads as verb_heads
from ivlens.cli import sweep as verb_sweep
from ivlens.cli.targets import check_targets

SMALL = ("--n-clean", "6", "--n-corrupted", "2")
TRAIN = ("--guidance", "plain", "--steps", "1", "--batch-size", "2", "--warmup", "0", "--k", "2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../escaped", "ABSOLUTE", "..", "a\nb", "x" * 300, ".hidden"])
def test_a_task_s_name_never_leads_out_of_the_folder(
    name: str, tmp_path: Path, workshop: Path, task_file: Callable[[Path, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors, effects, and training with its vectors; the name in the records is still the task's own."""
    name = name.replace("ABSOLUTE", str(tmp_path / "absolute"))
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    task, model = str(task_file(tmp_path / "task.json", name)), str(workshop / "model")
    assert cli.main(["vector", model, task, *SMALL, "--k", "2"]) == 0
    assert cli.main(["heads", model, task, *SMALL, "--k", "1", "--out", "out"]) == 0
    other = str(workshop / "old.json")
    assert cli.main(["train", model, "--task", other, "--keep", task, *TRAIN, "--out", "run"]) == 0
    (vector,) = inside.glob("*.vector.safetensors")
    assert InstructionVector.load(vector).task == name
    assert len([*(inside / "out").glob("*.effects.safetensors")]) == 1
    assert len([*(inside / "run" / "vectors").iterdir()]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in", "task.json"}
    assert {path.name for path in inside.parent.iterdir()} == {"side"}


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded ends the test: what is wrong should be said before."""

    def fail(*given: Any, **options: Any) -> None:
        pytest.fail("a model was loaded")

    for module, name in ((loading, "load_model"), (demo, "load_model"), (checkpoints, "compare_checkpoints")):
        monkeypatch.setattr(module, name, fail)


@pytest.fixture(params=["fifo", "socket", "device", "file/below", "folder"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What no file can be written to."""
    path = tmp_path / "target"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(path))
    elif request.param == "device":
        return Path(os.devnull)
    elif request.param == "file/below":
        path.write_text("mine")
        return path / "below"
    else:
        path.mkdir()
    return path


def test_what_is_no_file_is_refused_and_left_alone(no_file: Path) -> None:
    before = no_file.stat().st_mode if no_file.exists() else None
    with pytest.raises(ArgumentError, match="to write"):
        check_targets(no_file)
    if before is not None:
        assert stat.S_IFMT(no_file.stat().st_mode) == stat.S_IFMT(before)


@pytest.mark.parametrize(
    "command",
    [
        "vector model task.json --out OUT", "report stable.safetensors --out OUT", "heads model task.json --out OUT/x",
        "sweep model foreign.safetensors --task task.json --out OUT/x", "train model --task task.json --out OUT/x",
        "compare model other --tasks task.json --out OUT/x", "demo --out OUT/x",
    ],
)  # fmt: skip
def test_every_verb_tries_its_target_before_it_works(
    command: str, unloaded: None, workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device, and what is below one, can be no file and no folder, for root too."""
    monkeypatch.chdir(workshop)
    before = os.stat(os.devnull)
    assert cli.main(command.replace("OUT", os.devnull).split()) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert os.stat(os.devnull).st_rdev == before.st_rdev


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("vector model task.json --n-clean 6 --n-corrupted 2 --k 10000", "--k to be at most"),
        ("heads model task.json --n-clean 6 --n-corrupted 2 --corruption shuffled-labels --shots 1", "--shots to be"),
        ("sweep model foreign.safetensors --task task.json --n-test 2 --n-validation 2 --layers 99", "--layers from"),
        ("sweep model none.safetensors --task task.json --n-test 2 --n-validation 2", "none.safetensors"),
        ("sweep model stable.safetensors --task task.json --n-test 2 --n-validation 2", "InstructionVector"),
        ("heads model task.json --n-clean 6 --n-corrupted 2 --steps 3", "--steps above 1 with --method 'attribution'"),
        ("vector model task.json --dtype float64 --stream-dtype float32", "--stream-dtype to be torch.float64"),
        ("train model --task task.json --keep none.json --out new", "none.json"),
        ("train model --task task.json --out new --layers 99", "expected --layers from 0 to 1"),
        ("train model --task task.json --out new --vector-layer 99 --guidance iv", "--vector-layer to be from 0 to"),
        ("train model --task task.json --guidance guided --out new --k 10000", "--k to be at most"),
        ("train model --task task.json --keep old.json old.json --out new", "'old' twice"),
        ("compare model other --tasks task.json --out new --k 10000", "k to be at most"),
        ("compare model other --tasks task.json --out new --layers 99", "layers from 0 to"),
        ("compare model a=other a=model --tasks task.json --out new", "different names"),
    ],
)  # fmt: skip
def test_what_needs_no_weights_is_refused_before_a_model_is_loaded(
    command: str, reason: str, unloaded: None, workshop: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(workshop)
    assert cli.main(command.split()) == 1
    assert reason in capsys.readouterr().err


def test_a_tokenizer_that_is_not_there_is_called_one(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, task = str(workshop / "model"), str(workshop / "task.json")
    assert cli.main(["heads", model, task, *SMALL, "--tokenizer", "no-such/tokenizer.gguf"]) == 1
    said = capsys.readouterr().err
    assert "expected a readable tokenizer at no-such/tokenizer.gguf" in said
    assert "smollm2" not in said


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    check_targets(tmp_path / "new" / "er" / "file")
    assert not [*tmp_path.iterdir()]


def test_a_link_is_written_through(tmp_path: Path, workshop: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("mine")
    link.symlink_to(real)
    assert cli.main(["report", str(workshop / "stable.safetensors"), "--out", str(link)]) == 0
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_vector_of_another_model_is_not_written_over(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a record of another kind; a vector of the same model is."""
    monkeypatch.chdir(workshop)
    for there in ("foreign.safetensors", "stable.safetensors", "model/model.safetensors"):
        before = Path(there).read_bytes()
        assert cli.main(["vector", "model", "task.json", *SMALL, "--k", "2", "--out", there]) == 1
        assert "choose another --out" in capsys.readouterr().err
        assert Path(there).read_bytes() == before
    for _ in range(2):
        assert cli.main(["vector", "model", "task.json", *SMALL, "--k", "2", "--out", str(tmp_path / "own")]) == 0


def test_records_of_another_model_are_refused_before_anything_is_measured(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop)
    vector = str(tmp_path / "vector.safetensors")
    assert cli.main(["vector", "other", "task.json", *SMALL, "--k", "2", "--out", vector]) == 0
    heads = ["heads", "other", "task.json", *SMALL, "--out", str(tmp_path / "heads")]
    drawn = ["--task", "task.json", "--n-validation", "2", "--n-test", "2", "--out", str(tmp_path / "sweep")]
    assert cli.main(heads) == cli.main(["sweep", "other", vector, *drawn]) == 0
    for module, name in ((verb_heads, "locate_heads"), (verb_sweep, "steering_sweep")):
        monkeypatch.setattr(module, name, None)
    for command in (["heads", "model", *heads[2:]], ["sweep", "model", vector, *drawn]):
        assert cli.main(command) == 1
        assert "of the same weights" in capsys.readouterr().err


def test_a_comparison_in_which_every_checkpoint_fails_leaves_the_earlier_one(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop)
    checkpoint = shutil.copytree(workshop / "other", tmp_path / "lr=0.1")
    small = ["--n-clean", "4", "--groups", "2", "--n-corrupted", "2", "--k", "2", "--n-test", "2", "--n-validation"]
    command = ["--tasks", "task.json", *small, "2", "--out", str(tmp_path / "out")]
    assert cli.main(["compare", "model", str(checkpoint), *command]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*") if path.is_file()}
    assert CheckpointComparison.load(tmp_path / "out" / "comparison.safetensors").checkpoints == ("base", "lr=0.1")
    damaged = shutil.copytree(workshop / "other", tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"no tensors")
    assert cli.main(["compare", "model", str(damaged), *command]) == 1
    assert "one checkpoint or more that can be compared; got none (damaged: " in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*") if path.is_file()} == before


def test_a_report_is_not_written_over_a_record(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = workshop / "stable.safetensors"
    before = record.read_bytes()
    assert cli.main(["report", str(record), "--out", str(record)]) == 1
    assert "--out to be a page" in capsys.readouterr().err
    assert record.read_bytes() == before


def test_an_interrupt_says_only_what_is_kept(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load_model", interrupted)
    heads = ["heads", "model", str(workshop / "task.json"), *SMALL]
    assert cli.main(heads) == 130
    assert "without --out nothing is kept" in capsys.readouterr().err
    assert cli.main([*heads, "--out", str(tmp_path)]) == 130
    assert f"what was finished is kept in {tmp_path}" in capsys.readouterr().err
    assert cli.main(["vector", *heads[1:], "--out", str(tmp_path / "v")]) == 130
    assert "kept" not in capsys.readouterr().err


def test_a_task_of_odd_characters_is_shown_on_lines_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No control character of a file reaches the terminal."""
    path = tmp_path / "task.json"
    examples = [[f"w{at}\x1b]0;title\x07", "a"] for at in range(9)]
    path.write_text(json.dumps({"name": "a\x1b[31m\nb", "instructions": ["Say."], "examples": examples}))
    assert cli.main(["tasks", str(path)]) == 0
    said = capsys.readouterr().out
    assert not {"\x1b", "\x07"} & {*said}
    assert "name: a\\x1b[31m\\nb\n" in said
