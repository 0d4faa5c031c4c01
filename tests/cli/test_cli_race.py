"""``ivlens heads --race`` and ``ivlens vector --race``."""

import json
from pathlib import Path

import pytest

from ivlens import RacedEffects, cli

FEW = ("--n-clean", "4", "--n-corrupted", "10")


def test_heads_race_save_and_print(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = (str(workshop / "task.json"), str(workshop / "old.json"))
    heads = ("heads", str(workshop / "model"), *tasks, *FEW, "--race", "--k", "2", "--json", "--out", str(tmp_path))
    assert cli.main(heads) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [*shown] == ["task", "old"]  # no mean over tasks, of which a race does not know the strongest
    assert [row["rank"] for row in shown["task"]] == [1, 2]
    found = RacedEffects.load(tmp_path / "task.effects.safetensors")
    assert (found.k, found.n, found.rounds) == (2, 10, (5, 10))
    assert "(a race)" in (tmp_path / "heads.html").read_text(encoding="utf-8")
    assert cli.main([*heads[:4], *FEW, "--out", str(tmp_path)]) == 1  # a race's file is no sweep's
    assert "RacedEffects" in capsys.readouterr().err


def test_a_vector_is_that_of_the_raced_heads(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = ("vector", str(workshop / "model"), str(workshop / "task.json"), *FEW, "--k", "3", "--json")
    rows = []
    for race in ([], ["--race"]):
        assert cli.main([*vector, *race, "--out", str(tmp_path / f"{len(race)}.safetensors")]) == 0
        shown = json.loads(capsys.readouterr().out)
        rows.append([(row["layer"], row["head"]) for row in shown["task: heads"]])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--method", "attribution"), "--race only with --method 'exact' or 'loop'; got --method 'attribution'; leave"),
        (("--k", "9"), "--k to be at most 8"),
    ],
)
@pytest.mark.parametrize("verb", ["heads", "vector"])
def test_races_that_cannot_be_are_refused_before_weights_are_read(
    workshop: Path, capsys: pytest.CaptureFixture[str], verb: str, options: tuple[str, str], text: str
) -> None:
    assert cli.main((verb, str(workshop / "model"), str(workshop / "task.json"), *FEW, "--race", *options)) == 1
    said = capsys.readouterr().err
    assert text in said
    assert "loading" not in said
