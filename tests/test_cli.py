"""The command line, called as a person would."""

import json
from pathlib import Path
from typing import Any

import pytest

from ivlens import HeadEffects, cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(arguments)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, smollm2: Any) -> None:
    """The verbs use the model that the tests share."""
    monkeypatch.setattr(cli, "load_model", lambda source, **options: smollm2)


@pytest.mark.parametrize("verb", [[], ["demo"], ["heads"], ["tasks"]])
def test_help_reads_well(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([*verb, "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert text.startswith("usage: ivlens")
    assert max(map(len, text.splitlines())) <= 80


def test_tasks_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "tasks")
    assert status == 0
    assert "country-capital" in out
    _, out, _ = run(capsys, "tasks", "--json")
    assert {"task": "capitalize", "kind": "lexical"}.items() <= next(
        row for row in json.loads(out) if row["task"] == "capitalize"
    ).items()
    _, out, _ = run(capsys, "tasks", "present-past")
    assert "Write the past tense of the verb." in out
    assert "Past tense:" in out


def test_heads_prints_saves_and_gives_json(capsys: pytest.CaptureFixture[str], loaded: None, tmp_path: Path) -> None:
    small = ("heads", "smollm2", "present-past", "antonym", "--clean", "8", "--corrupted", "2", "--top", "3")
    status, out, err = run(capsys, *small, "--out", str(tmp_path))
    assert status == 0
    assert out.count("aie") == 3
    assert "present-past: indirect effects of 270 heads" in err
    effects = HeadEffects.load(tmp_path / "antonym.effects.safetensors")
    assert effects.n == 2
    assert (tmp_path / "heads.html").stat().st_size > 1_000_000
    _, out, _ = run(capsys, *small[:3], *small[4:], "--json")
    rows = json.loads(out)["present-past"]
    assert [row["rank"] for row in rows] == [1, 2, 3]


def test_own_task_file_with_its_instruction(capsys: pytest.CaptureFixture[str], loaded: None, tmp_path: Path) -> None:
    file = tmp_path / "colours.csv"
    names = ["sky,blue", "grass,green", "coal,black", "snow,white", "blood,red", "sun,yellow", "carrot,orange"]
    file.write_text("input,output\n" + "\n".join(names) + "\n")
    small = ("heads", "smollm2", str(file), "--clean", "3", "--corrupted", "1", "--top", "1")
    status, _, err = run(capsys, *small)
    assert status == 1
    assert "pass instructions=" in err or "--instruction" in err
    status, out, _ = run(capsys, *small, "--instruction", "Name the colour of the thing.")
    assert status == 0
    assert "colours (log-probability)" in out


def test_errors_are_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = run(capsys, "heads", str(tmp_path / "no-such-model"), "no-such-task")
    assert (status, out) == (1, "")
    assert err.startswith("ivlens: ")
    assert err.count("\n") == 1
    status, _, err = run(capsys, "heads", str(tmp_path), "antonym")
    assert status == 1
    assert "SourceError: expected a Hugging Face model folder" in err


def test_interrupt_is_said_and_has_its_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "list_tasks", interrupted)
    status, _, err = run(capsys, "tasks")
    assert status == 130
    assert "interrupted" in err
