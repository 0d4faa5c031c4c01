"""Kept work from the command line: the same command again, after something was changed, damaged or moved."""

import html
import json
import os
import re
import shlex
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ivlens import CheckpointConfig, LoRA, Stability, TrainingConfig, TrainingRun, load_model
from ivlens.cli import main, sizes
from ivlens.cli.parser import build_parser
from ivlens.files import held
from ivlens.training.sequence_files import SequenceFiles
from tiny_models import WORDS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture
def tiny(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the model ``tiny`` and the tasks ``new.json`` and ``old.json`` in it."""
    tiny_hf("llama", num_hidden_layers=1).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    write_task(tmp_path / "new.json", "new", 1)
    write_task(tmp_path / "old.json", "old", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_task(path: Path, name: str, by: int) -> None:
    examples = [[word, WORDS[(at + by) % len(WORDS)]] for at, word in enumerate(WORDS)]
    task = {"name": name, "instructions": ["the quick fox jumps"], "labels": ["Q", "A"], "examples": examples}
    path.write_text(json.dumps(task))


@pytest.fixture
def train(tiny: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``train(model)``: the exit status and the last line of ``ivlens train``."""

    def run(model: str = "tiny", *more: str) -> tuple[int, str]:
        capsys.readouterr()
        options = "--guidance plain --shots 1 --steps 4 --batch-size 2 --evaluate-every 2 --save-every 2 --k 2"
        words = ["train", model, "--task", "new.json", "--keep", "old.json", "--out", "run", *options.split(), *more]
        status = main(words)
        return status, capsys.readouterr().err.strip().split("\n")[-1]

    return run


def test_a_changed_task_to_keep_is_noticed_and_another_path_is_not(train: Any, tiny: Path) -> None:
    assert train() == (0, "wrote run")
    before = TrainingRun.load("run/run.safetensors")
    assert train(str(tiny / "tiny")) == (0, "wrote run")
    assert TrainingRun.load("run/run.safetensors").values.equal(before.values)
    write_task(tiny / "old.json", "old", 3)
    status, said = train()
    assert status != 0
    assert "MismatchError" in said
    assert "ability 'old'" in said


def test_a_task_to_keep_without_an_instruction_is_refused_before_anything_is_measured(train: Any, tiny: Path) -> None:
    bare = json.loads(Path("old.json").read_text())
    Path("old.json").write_text(json.dumps(bare["examples"]))
    status, said = train()
    assert status == 1
    assert said.startswith("ivlens: ArgumentError: expected tasks with instructions, from which vectors are made; got")
    assert not list(Path("run").glob("vectors/*"))
    assert train("tiny", "--instruction", "the quick fox jumps") == (0, "wrote run")


def test_a_damaged_log_is_put_back(train: Any) -> None:
    assert train()[0] == 0
    before = TrainingRun.load("run/run.safetensors")
    log = Path("run/log.jsonl")
    whole = log.read_bytes()
    for data in (whole + b"5\n", b"\xff\n", whole[: len(whole) // 2], whole + whole, b"{}\n"):
        log.write_bytes(data)
        assert train()[0] == 0
        again = TrainingRun.load("run/run.safetensors")
        assert (again.measured, again.values.tolist()) == (before.measured, before.values.tolist())


def test_train_prints_before_and_after_and_the_comparison_that_fits(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--guidance plain --shots 1 --steps 4 --batch-size 2 --evaluate-every 2 --save-every 2 --k 2"
    words = ["train", "tiny", "--task", "new.json", "--keep", "old.json", "--out", "run", *options.split()]
    assert main(words) == 0
    said = capsys.readouterr()
    table, command = said.out.split("\n\nWhat was forgotten, and is it still in there?\n")
    begun = [
        "reading the weights",
        "converting the weights for TransformerLens",
        "checking the logits against Hugging Face's",
    ]
    assert [line for line in said.err.splitlines() if line.startswith("tiny: ")] == [f"tiny: {each}" for each in begun]
    measured = re.findall(r"^step (\d) of 4: accuracy [\d.]+ on new, [\d.]+ on 1 task to keep$", said.err, re.MULTILINE)
    assert "measuring 2 tasks before the first step" in said.err
    assert measured == ["0", "2", "4"]
    assert "accuracy_before accuracy" in " ".join(table.split())
    again = shlex.split(command)
    assert again[:4] == ["ivlens", "compare", "tiny", "run"]
    given = build_parser(again[1:]).parse_args(again[1:])
    assert (given.tasks, given.learned, given.k) == (["new.json", "old.json"], ["new"], 2)
    assert main(again[1:]) == 0
    _, steps = capsys.readouterr().err.split("\nWhat to do next:\n")
    page = Path("run-compared/report.html").read_text()
    for line in steps.splitlines():
        verdict, advised = line.strip().split(": ", 1)
        tasks, next_step = advised.split(". ", 1)
        assert f"<strong>{verdict}</strong>: {tasks}." in page
        assert next_step in re.sub("</?span>", "", html.unescape(page))
    assert main([*words, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    run = TrainingRun.load("run/run.safetensors").abilities()
    before = run[run["step"] == 0].set_index("ability")["accuracy"].to_dict()
    rows = next(iter(measured.values()))
    assert {row["ability"]: row["accuracy_before"] for row in rows} == pytest.approx(before)


def test_the_comparison_that_is_printed_has_no_option_that_was_not_given(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--task new.json --guidance plain --shots 1 --steps 1 --batch-size 2 --out plain"
    assert main(["train", "tiny", *options.split()]) == 0
    command = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    assert command[:4] == ["ivlens", "compare", "tiny", "plain"]
    assert build_parser(command[1:]).parse_args(command[1:]).k == CheckpointConfig().k


def test_a_finished_run_keeps_one_state(train: Any) -> None:
    assert train()[0] == 0
    assert [path.name for path in Path("run").glob("state*")] == ["state.safetensors"]
    before = TrainingRun.load("run/run.safetensors")
    assert train() == (0, "wrote run")
    assert TrainingRun.load("run/run.safetensors").values.equal(before.values)


def test_what_a_large_run_takes_is_said_beforehand(
    tiny_hooked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_hooked()
    with caplog.at_level("INFO", "ivlens"):
        sizes.say_training(model, TrainingConfig(), tmp_path)
        assert not caplog.messages
        monkeypatch.setattr(sizes, "LARGE", 1)
        sizes.say_training(model, TrainingConfig(lora=LoRA(1)), tmp_path)
        assert not caplog.messages
        monkeypatch.setattr(sizes.shutil, "disk_usage", lambda folder: Namespace(free=0))
        sizes.say_training(model, TrainingConfig(), tmp_path)
    assert "of memory for weights, gradients and optimiser, and up to" in caplog.messages[0]
    assert "has 0.0 GB free" in caplog.messages[1]


@pytest.fixture
def big(tiny: Path, tiny_hf: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose weights are most of a run's folder, embeddings untied and frozen; sizes are said in bytes."""
    model = tiny_hf("llama", num_hidden_layers=2, hidden_size=512, intermediate_size=2048, vocab_size=2048)
    model.save_pretrained("big")
    tiny_tokenizer().save_pretrained("big")
    monkeypatch.setattr(sizes, "_gigabytes", lambda count: f"{count:.0f} bytes")
    monkeypatch.setattr(sizes, "LARGE", 1)
    return "big"


def test_what_is_said_of_the_disk_is_what_a_run_keeps(tiny: Path, big: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = load_model(big), []
    monkeypatch.setattr(sizes.log, "info", said.append)
    sizes.say_training(model, TrainingConfig(), Path("run"))
    monkeypatch.undo()
    monkeypatch.chdir(tiny)
    options = "--guidance plain --shots 1 --steps 1 --batch-size 1 --evaluate-every 0 --out run"
    assert main(["train", big, "--task", "new.json", *options.split()]) == 0
    kept = sum(path.stat().st_size for path in Path("run").rglob("*") if path.is_file())
    promised = int(re.search(r"(\d+) bytes of it when the run is done", said[0])[1])
    assert promised == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize("runs", [1, 2])
def test_what_is_said_of_the_disk_is_what_a_sequence_keeps(
    big: str, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    said, most, save = [], [], SequenceFiles.save_weights

    def watched(*given: Any) -> None:
        save(*given)
        most.append(sum(path.stat().st_size for path in Path("run").rglob("*") if path.is_file()))

    monkeypatch.setattr(SequenceFiles, "save_weights", watched)
    monkeypatch.setattr(sizes.log, "info", lambda text, *_: said.append(text))
    options = "--guidance plain --shots 1 --steps 2 --save-every 1 --batch-size 1 --n-test 1 --no-vectors --out run"
    seeds = ["--ablate-seeds", "0,1"] if runs == 2 else []
    assert main(["continual", big, "--sequence", "new.json", "old.json", *options.split(), *seeds]) == 0
    promised = next(line for line in said if "bytes of it when the run is done" in line)
    disk, kept = (int(re.search(pattern, promised)[1]) for pattern in (r"up to (\d+) bytes in", r"(\d+) bytes of it"))
    assert kept == pytest.approx(sum(path.stat().st_size for path in Path("run").rglob("*") if path.is_file()), rel=0.1)
    assert max(most) <= disk <= 1.3 * max(most)


def test_a_second_command_on_one_folder_is_refused(train: Any, tiny: Path) -> None:
    import threading

    found: list[tuple[int, str]] = []
    with held(tiny / "run"):
        thread = threading.Thread(target=lambda: found.append(train()))
        thread.start()
        thread.join()
    assert found[0][0] != 0
    assert "another process is at work" in found[0][1]


def test_a_task_s_name_writes_nowhere_else(train: Any, tiny: Path) -> None:
    write_task(tiny / "old.json", "../../escaped", 2)
    assert train()[0] == 0
    assert {path.name for path in tiny.iterdir()} == {"tiny", "new.json", "old.json", "run"}
    assert not [path for path in tiny.parent.iterdir() if "escaped" in path.name]


@pytest.mark.parametrize("kind", ["null", "fifo", "link"])
def test_reports_go_through_links_and_into_no_device(tiny: Path, kind: str) -> None:
    Stability(torch.ones(1, 2), 0.5, 1, 2, 3).save("record")
    if kind == "link":
        Path("real").write_text("mine")
    Path("link").symlink_to({"null": os.devnull, "link": "real", "fifo": "fifo"}[kind])
    if kind == "fifo":
        os.mkfifo("fifo")
    assert (main(["report", "record", "--out", "link"]) == 0) == (kind == "link")
    assert Path("link").is_symlink()
    if kind == "link":
        assert Path("real").read_text(encoding="utf-8").lower().startswith("<!doctype html")
    if kind == "fifo":
        assert Path("fifo").is_fifo()


def test_an_empty_attention_file_is_written_again(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--n-clean 5 --n-corrupted 2 --n-test 2 --k 2 --out out"
    command = ["compare", "tiny", "again=tiny", "--tasks", "new.json", *options.split()]
    assert main(command) == 0
    first = (tiny / "out" / "tasks.csv").read_text()
    next((tiny / "out" / "measures").glob("attention-*")).write_bytes(b"")
    for path in (tiny / "out" / "measures").glob("*weights*"):
        path.unlink()
    for _ in range(2):
        assert main(command) == 0
        assert (tiny / "out" / "tasks.csv").read_text() == first
    assert main(["report", "out", "--out", "page.html"]) == 0
    assert "passed over" not in capsys.readouterr().err
