"""The first hour on the command line: an own file and a model's folder, from the first look to a repaired model."""

import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

import ivlens as iv
from ivlens import cli
from tiny_models import WORDS

pytestmark = pytest.mark.slow
ASKED = ("--instruction", "the quick fox jumps", "--labels", "Q", "A")
FEW = ("--n-clean", "6", "--n-corrupted", "2", "--shots", "1")
MEASURED = ("--n-validation", "3", "--n-test", "4", "--shots", "1", "--random-seeds", "0")


@pytest.fixture
def home(tmp_path: Path, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with ``model`` and two tables in it."""
    shutil.copytree(workshop / "model", tmp_path / "model")
    for name, words in (("next.csv", WORDS), ("back.csv", WORDS[::-1])):
        rows = [f"{one},{two}\n" for one, two in pairwise(words)]
        (tmp_path / name).write_text("input,output\n" + "".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_an_own_table_to_a_repair(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[str, str]:
        assert cli.main(words) == 0, capsys.readouterr().err
        said = capsys.readouterr()
        return said.out, said.err

    def refused(*words: str) -> str:
        before = set(home.rglob("*"))
        assert cli.main(words) == 1
        assert set(home.rglob("*")) == before
        return capsys.readouterr().err.splitlines()[-1]

    assert "did you mean 'next.csv'?" in refused("tasks", "nxt.csv")
    assert "did you mean 'antonym'?" in refused("tasks", "antonim")
    assert "read as: input, output rows in CSV" in run("tasks", "next.csv", "--labels", "Q", "A")[0]

    assert "did you mean 'model'?" in refused("heads", "modl", "next.csv", *ASKED, *FEW)
    assert "no such folder" in refused("heads", "./missing", "next.csv", *ASKED, *FEW)
    assert "clean prompts that show the task" in refused("heads", "model", "next.csv", "--shots", "0")
    out, err = run("heads", "model", "next.csv", *ASKED, *FEW, "--out", "heads")
    assert "rank" in out
    assert "loading model" in err
    run("vector", "model", "next.csv", *ASKED, *FEW, "--k", "2", "--out", "next.vector.safetensors")
    tried = ("--layers", "0-1", "--scales", "1,2", "--n-validation", "99", "--n-test", "2", "--out", "swept")
    out, err = run("sweep", "model", "next.vector.safetensors", "--task", "next.csv", *ASKED, *tried)
    assert "bare + vector" in out
    assert "next: --n-validation is cut from 99 to" in err

    steps = ("--guidance", "plain", "--steps", "2", "--batch-size", "2", "--warmup", "0", "--k", "2", "--shots", "1")
    assert "did you mean 'back.csv'?" in refused(
        "train", "model", "--task", "next.csv", "--keep", "bak.csv", *ASKED, *steps, "--out", "run"
    )
    out, _ = run("train", "model", "--task", "next.csv", "--keep", "back.csv", *ASKED, *steps, "--out", "run")
    assert "accuracy_before" in out
    compare = shlex.split(out.splitlines()[-1])
    assert compare[:4] == ["ivlens", "compare", "model", "run"]
    assert "run=./rnu" not in compare
    few = (*FEW, *MEASURED, "--groups", "2", "--layers", "1", "--scales", "1")
    assert "no such folder" in refused("compare", "model", "run", "typo=./rnu", *compare[4:], *few)
    assert "did you mean 'run'?" in refused("compare", "model", "rnu", *compare[4:], *few)
    out, err = run(*compare[1:], *few)
    assert "verdict" in out
    assert "wrote run-compared/report.html" in err

    search = (*MEASURED, "--fractions", "0.5", "--n-bands", "1", "--n-greedy", "0", "--others", "--out", "repaired")
    asked = ("--keep", "back.csv", "--learned", "next.csv", *ASKED, *search)
    assert "no such folder" in refused("repair", "model", "./rnu", *asked)
    out, _ = run("repair", "model", "run", *asked)
    assert "What was forgotten?" in out
    assert not [*Path("repaired").rglob("attention-*")]
    found = iv.Repair.load("repaired/repair.safetensors")
    if found.found:
        run("heads", "repaired/model", "back.csv", *ASKED, *FEW)

    run("report", "heads", "swept", "run", "run-compared", "repaired", "--out", "all.html")
    pages = ("heads/heads", "swept/steering", "run/training", "run-compared/report", "repaired/report", "all")
    for page in pages:
        assert (home / f"{page}.html").read_text(encoding="utf-8").lower().startswith("<!doctype html")
