"""The command line, called as a person would."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ivlens import ConditionComparison, HeadEffects, InstructionVector, SteeringSweep, TrainingRun, cli
from ivlens.cli import loading, tasks, training


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(arguments)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, smollm2: Any) -> None:
    """The verbs use the model that the tests share."""
    monkeypatch.setattr(loading, "load_model", lambda source, **options: smollm2)


@pytest.mark.parametrize("verb", ["", "demo", "heads", "vector", "sweep", "vectors", "tasks", "train"])
def test_help_reads_well(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([*verb.split(), "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert text.startswith("usage: ivlens")
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("verb", ["heads", "vector", "sweep", "train", "compare"])
def test_every_verb_that_loads_a_model_takes_a_tokenizer(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    assert "--tokenizer" in capsys.readouterr().out


def test_a_tokenizer_is_given_by_its_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    tiny_hf("llama", num_hidden_layers=1).save_pretrained(tmp_path / "bare")
    tiny_tokenizer().save_pretrained(tmp_path / "tokens")
    words = [
        "the",
        "capital",
        "of",
        "France",
        "is",
        "Paris",
        "and",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "lazy",
        "dog",
    ]
    task = tmp_path / "next.csv"
    task.write_text("input,output\n" + "".join(f"{one},{two}\n" for one, two in pairwise(words)))
    asked = ("--instruction", "the quick fox jumps", "--n-corrupted", "1")
    heads = ("heads", str(tmp_path / "bare"), str(task), "--n-clean", "2", *asked)
    status, out, err = run(capsys, *heads)
    assert (status, out) == (1, "")
    assert "got no tokenizer there; pass --tokenizer" in err
    status, out, _ = run(capsys, *heads, "--tokenizer", str(tmp_path / "tokens"))
    assert (status, "aie" in out) == (0, True)
    compare = ("compare", str(tmp_path / "bare"), f"same={tmp_path / 'bare'}", "--tasks", str(task), *asked,
               "--n-clean", "5", "--n-test", "2", "--k", "2", "--out", str(tmp_path / "out"))  # fmt: skip
    assert run(capsys, *compare)[0] == 1
    status, _, err = run(capsys, *compare, "--tokenizer", str(tmp_path / "tokens"))
    assert (status, "was not compared" in err) == (0, False)


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
    small = ("heads", "smollm2", "present-past", "antonym", "--n-clean", "8", "--n-corrupted", "2", "--k", "3")
    status, out, err = run(capsys, *small, "--out", str(tmp_path))
    assert status == 0
    assert out.count("aie") == 3
    assert "present-past: indirect effects of 270 heads" in err
    effects = HeadEffects.load(tmp_path / "antonym.effects.safetensors")
    assert effects.n == 2
    assert (tmp_path / "heads.html").stat().st_size > 1_000_000
    _, out, _ = run(capsys, *small[:3], *small[4:], "--method", "attribution", "--json")
    rows = json.loads(out)["present-past"]
    assert [row["rank"] for row in rows] == [1, 2, 3]


def test_vector_is_built_listed_and_steers(capsys: pytest.CaptureFixture[str], loaded: None, tmp_path: Path) -> None:
    file = tmp_path / "past.safetensors"
    small = ("--n-clean", "20", "--n-corrupted", "4", "--k", "20", "--out", str(file))
    status, out, err = run(capsys, "vector", "smollm2", "present-past", *small)
    assert status == 0
    assert "20 heads, norm" in err
    assert "reads as" in out
    assert len(InstructionVector.load(file).heads) == 20
    _, out, _ = run(capsys, "vectors", str(tmp_path), "--json")
    (rows,) = json.loads(out).values()
    assert [(row["file"], row["task"], row["heads"]) for row in rows] == [("past.safetensors", "present-past", 20)]
    options = (
        "--layers",
        "9-12",
        "--scales",
        "4",
        "--n-validation",
        "6",
        "--n-test",
        "12",
        "--out",
        str(tmp_path / "steered"),
    )
    status, out, _ = run(capsys, "sweep", "smollm2", str(file), "--task", "present-past", *options)
    assert status == 0
    assert "bare + vector" in out
    assert SteeringSweep.load(tmp_path / "steered" / "sweep.safetensors").layers == (9, 10, 11, 12)
    found = ConditionComparison.load(tmp_path / "steered" / "comparison.safetensors")
    assert found.accuracy("bare") == found.accuracy("bare + random vector 0") == 0
    assert found.accuracy("bare + vector") > 0.4
    assert (tmp_path / "steered" / "steering.html").is_file()
    with pytest.raises(SystemExit) as left:
        cli.main(["sweep", "smollm2", str(file), "--task", "antonym", "--layers", "x"])
    assert left.value.code == 2
    assert "argument --layers: expected a whole number; got 'x'" in capsys.readouterr().err


def test_own_task_file_with_its_instruction(capsys: pytest.CaptureFixture[str], loaded: None, tmp_path: Path) -> None:
    file = tmp_path / "colours.csv"
    names = ["sky,blue", "grass,green", "coal,black", "snow,white", "blood,red", "sun,yellow", "carrot,orange"]
    file.write_text("input,output\n" + "\n".join(names) + "\n")
    small = ("heads", "smollm2", str(file), "--n-clean", "3", "--n-corrupted", "1", "--k", "1")
    status, demonstrated, _ = run(capsys, *small)  # demonstrations show a task that holds no instruction
    assert status == 0
    status, _, err = run(capsys, *small, "--shots", "0")
    assert status == 1
    assert "clean prompts that show the task" in err
    status, out, _ = run(capsys, *small, "--instruction", "Name the colour of the thing.")
    assert status == 0
    assert "colours\n\n" in out
    assert out != demonstrated
    status, _, err = run(capsys, "heads", "smollm2", "antonym", "--instruction", "Name the colour.")
    assert status == 1
    assert "expected --instruction for a task that holds none; got 'antonym', which has 'Write a word" in err


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

    monkeypatch.setattr(tasks, "built_in", interrupted)
    status, _, err = run(capsys, "tasks")
    assert status == 130
    assert "interrupted" in err


@pytest.mark.model
def test_train_learns_writes_and_resumes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps with LoRA on the real model: record, log, adapter and model; the same command runs nothing again."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(training.Ability.of.__func__, "__defaults__", (4, None, 2))  # four prompts an ability
    train = ("train", "smollm2", "--task", "capitalize", "--guidance", "plain", "--out", str(tmp_path), "--lora", "2")
    train += ("--steps", "2", "--batch-size", "2", "--warmup", "0", "--evaluate-every", "1")
    status, out, err = run(capsys, *train)
    assert status == 0, err
    assert "capitalize, plain, after 2 steps" in out
    record = TrainingRun.load(tmp_path / "run.safetensors")
    assert record.abilities()["step"].tolist() == [0, 1, 2]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.model_type == "llama"
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json"}
    log = (tmp_path / "log.jsonl").read_text()
    assert run(capsys, *train)[0] == 0
    assert (tmp_path / "log.jsonl").read_text().count('"loss"') == log.count('"loss"') == 2
    status, _, err = run(capsys, *train, "--learning-rate", "1e-5")
    assert status == 1
    assert "learning_rate" in err or "settings" in err


def test_train_says_what_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = run(
        capsys, "train", "smollm2", "--task", "capitalize", "--guidance", "replay", "--out", str(tmp_path)
    )
    assert status == 1
    assert "--keep" in err
