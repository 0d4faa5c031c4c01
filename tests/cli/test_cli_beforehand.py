"""What is said before a comparison or a repair measures anything: other architectures, sizes; and how it ends."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from ivlens import CheckpointComparison, cli
from ivlens.cli import sizes
from ivlens.cli.parser import build_parser

SMALL = ("--n-clean", "4", "--groups", "2", "--n-corrupted", "2", "--k", "2", "--n-test", "2", "--n-validation", "2")


def parsed(*words: str) -> Namespace:
    options: Namespace = build_parser(words).parse_args(words)
    return options


COMPARE = ("compare", "model", "other", "--tasks", "task.json", "--k", "2", "--out", "new")
REPAIR = ("repair", "model", "other", "--keep", "old.json", "--learned", "task.json", "--out", "new")


@pytest.mark.parametrize("words", [COMPARE, REPAIR])
def test_checkpoints_of_another_shape_are_refused_and_nothing_is_written(
    words: tuple[str, ...], workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(workshop)
    deeper = shutil.copytree(workshop / "other", tmp_path / "deeper")
    config = json.loads((deeper / "config.json").read_text())
    (deeper / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))
    out = str(tmp_path / "out")
    assert cli.main([words[0], "model", str(deeper), *words[3:-1], out, "--n-test", "2"]) == 1
    err = capsys.readouterr().err
    assert f"expected checkpoints of model, which has {config['num_hidden_layers']} layers" in err
    assert " with 7 and" in err
    assert not Path(out).exists()


def test_what_large_models_take_is_said(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(workshop)
    compare, repair = parsed(*COMPARE), parsed(*REPAIR)
    weights, matrices = sizes.weight_bytes(compare)
    file = (workshop / "model" / "model.safetensors").stat().st_size
    assert 0.9 * file < weights < file
    assert 0 < matrices < weights
    assert sizes.weight_bytes(parsed(*COMPARE, "--dtype", "float64")) == (2 * weights, 2 * matrices)
    with caplog.at_level("INFO", "ivlens"):
        sizes.say_comparison(compare)
        sizes.say_repair(repair)
        assert not caplog.messages
        monkeypatch.setattr(sizes, "LARGE", 1)
        monkeypatch.setattr(sizes.shutil, "disk_usage", lambda folder: Namespace(free=0))
        sizes.say_comparison(compare)
        sizes.say_repair(repair)
    assert "of the base's matrices are written into new" in caplog.messages[0]
    assert "for the time of the run" in caplog.messages[2]
    assert [text for text in caplog.messages if "has 0.0 GB free" in text] == [
        caplog.messages[1], *caplog.messages[3:]
    ]  # fmt: skip


@pytest.mark.slow
def test_a_comparison_that_lacks_a_checkpoint_shows_the_others_and_fails(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop)
    damaged = shutil.copytree(workshop / "other", tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"no tensors")
    out = tmp_path / "out"
    command = ("compare", "model", "other", str(damaged), "--tasks", "task.json", *SMALL, "--out", str(out))
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert "verdict" in said.out
    assert said.err.splitlines()[-1].endswith("expected checkpoints that can all be compared; got damaged, which "
                                              "cannot; see above")  # fmt: skip
    record = CheckpointComparison.load(out / "comparison.safetensors")
    assert record.checkpoints == ("base", "other")
    assert [*record.failures] == ["damaged"]
    assert (out / "report.html").is_file()
