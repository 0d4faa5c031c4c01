"""A folder is one command's: what another left there is neither replaced nor mixed with."""

from pathlib import Path

import pytest

import ivlens as iv
from comparisons import made
from ivlens import cli
from ivlens.cli.checkpoints import say_replaced
from ivlens.records.folders import FILES, check_folder

OWN = ("train", "continual", "compare", "repair")


def test_a_folder_is_of_the_command_whose_files_it_holds(tmp_path: Path) -> None:
    assert set(FILES) == set(OWN)
    for owner in OWN:
        folder = tmp_path / owner
        for command in OWN:
            check_folder(folder, command)  # not there yet
        folder.mkdir()
        (folder / FILES[owner][-1]).write_text("results")
        check_folder(folder, owner)
        for command in set(OWN) - {owner}:
            with pytest.raises(iv.RecordError, match=f"one of 'ivlens {command}', .* results of 'ivlens {owner}'"):
                check_folder(folder, command)
    check_folder(None, "train")


def test_a_repair_keeps_its_folder_with_the_comparison_that_it_leaves_there(tmp_path: Path) -> None:
    for name in ("repair", "comparison"):
        (tmp_path / f"{name}.safetensors").write_text("results")
    check_folder(tmp_path, "repair")
    with pytest.raises(iv.RecordError, match="results of 'ivlens repair'"):
        check_folder(tmp_path, "compare")


@pytest.mark.parametrize("words", [
    "train model --task task.json --guidance plain --steps 1 --batch-size 2 --warmup 0 --k 2",
    "continual model --sequence task.json --guidance plain --steps 1 --batch-size 2 --warmup 0 --no-vectors",
    "compare model other --tasks task.json --n-clean 6 --n-corrupted 2 --n-test 2 --k 2",
    "repair model other --keep task.json --learned antonym",
])  # fmt: skip
def test_every_command_refuses_anothers_folder_before_it_loads_a_model(
    words: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop)
    owner = "compare" if words.startswith("train") else "train"
    theirs = tmp_path / FILES[owner][0]
    theirs.write_text("results")
    assert cli.main([*words.split(), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"results of 'ivlens {owner}'; choose another folder" in said
    assert "loading" not in said
    assert [*tmp_path.iterdir()] == [theirs]
    assert theirs.read_text() == "results"


def test_a_comparison_says_what_an_earlier_one_had_that_it_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(("base", "one", "two"), ("antonym", "capitalize")).save(tmp_path / "comparison.safetensors")
    say_replaced(tmp_path, made(("base", "one", "two"), ("antonym", "capitalize", "synonym")))
    assert not caplog.messages
    say_replaced(tmp_path, made(("base", "one"), ("antonym",)))
    assert caplog.messages == [
        f"the comparison in {tmp_path} is replaced by one without capitalize, two, whose measures stay there"
    ]


def test_python_refuses_it_too(workshop: Path, tmp_path: Path) -> None:
    model, task = iv.load_model(workshop / "model"), iv.load_task(workshop / "task.json")
    config = iv.TrainingConfig(iv.Guidance(), steps=1, warmup=0, batch_size=2)
    (tmp_path / "state.safetensors").write_text("results")
    with pytest.raises(iv.RecordError, match="results of 'ivlens train'"):
        iv.continual(model, [task], iv.ContinualConfig(config, vectors=False), out=tmp_path)
    (tmp_path / "state.safetensors").rename(tmp_path / "continual.safetensors")
    with pytest.raises(iv.RecordError, match="results of 'ivlens continual'"):
        iv.fine_tune(model, task, config, out=tmp_path)
