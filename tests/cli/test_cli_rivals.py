"""Rivals of guided training on the command line: tasks in turn by O-LoRA, a vector from a file, what is refused."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

import ivlens as iv
from ivlens import cli
from ivlens.training.loop import vector_digest
from tiny_models import WORDS

ASKED = ("--instruction", "the quick fox jumps", "--labels", "Q", "A")
STEPS = ("--steps", "2", "--batch-size", "2", "--warmup", "0", "--k", "2", "--shots", "1")


@pytest.fixture
def home(tmp_path: Path, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with ``model`` and two tables in it."""
    shutil.copytree(workshop / "model", tmp_path / "model")
    for name, words in (("next.csv", WORDS), ("back.csv", WORDS[::-1])):
        rows = [f"{one},{two}\n" for one, two in pairwise(words)]
        (tmp_path / name).write_text("input,output\n" + "".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*words: str) -> int:
    return cli.main(["train", *words, *ASKED, *STEPS])


def test_tasks_in_turn_by_o_lora(home: Path) -> None:
    by_o_lora = ("--guidance", "o-lora", "--lora", "2")
    assert train("model", "--task", "next.csv", *by_o_lora, "--out", "first") == 0
    second = ("first/model", "--task", "back.csv", *by_o_lora, "--adapters", "first", "--out", "second")
    assert train(*second) == 1  # with the first one's seed
    assert train(*second, "--seed", "1") == 0
    first, after = (
        iv.TrainingRun.load(home / name / "run.safetensors").to_frame()["o_lora"] for name in ("first", "second")
    )
    assert (first == 0).all()
    assert (after > 0).all()


def test_a_vector_from_a_file_is_what_is_added(home: Path) -> None:
    model = iv.load_model(home / "model")
    means = iv.mean_head_activations(model, [iv.Prompt("Q: the fox A:", (" x",))])
    vector = iv.instruction_vector(model, means, [(0, 1), (1, 0)])
    vector.save(home / "any.safetensors")
    given = ("model", "--task", "next.csv", "--guidance", "preventative", "--vector-scale", "9")
    assert train(*given, "--vector", "any.safetensors", "--out", "steered") == 0
    assert not (home / "steered" / "vectors").exists()
    run = iv.TrainingRun.load(home / "steered" / "run.safetensors")
    settings = run.provenance["settings"]
    assert settings["training"]["guidance"]["PreventativeSteering"]["scale"] == 9
    assert settings["vector"] == vector_digest(vector)


def test_a_vector_from_a_file_is_what_a_sequence_adds(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = iv.load_model(home / "model")
    means = iv.mean_head_activations(model, [iv.Prompt("Q: the fox A:", (" x",))])
    vector = iv.instruction_vector(model, means, [(0, 1), (1, 0)])
    vector.save(home / "any.safetensors")
    words = ("continual", "model", "--sequence", "next.csv", "--keep", "back.csv", *ASKED, *STEPS, "--keep-shots", "1")
    few = ("--n-clean", "4", "--n-corrupted", "2", "--vector", "any.safetensors")
    assert cli.main([*words, *few, "--guidance", "plain", "--out", "refused"]) == 1
    assert "--vector with guidance that adds one" in capsys.readouterr().err
    assert cli.main([*words, *few, "--guidance", "preventative", "--ablate-ks", "1,2", "--out", "refused"]) == 1
    assert "--ablate-ks with a vector whose heads can vary; got --vector" in capsys.readouterr().err
    assert cli.main([*words, *few, "--guidance", "preventative", "--ablate-terms", "--out", "steered"]) == 0
    whole, plain = (
        iv.ContinualRun.load(home / "steered" / name / "continual.safetensors") for name in ("whole", "plain")
    )
    assert whole.provenance["settings"]["vector"] == vector_digest(vector)
    assert "vector" not in plain.provenance["settings"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--guidance o-lora", "--lora with guidance by earlier adapters"),
        ("--guidance kl --lora-dropout .1", "--lora-dropout with --lora"),
        ("--guidance kl --lora 2 --adapters first", "--adapters with --guidance o-lora"),
        ("--guidance ewc", "--keep tasks for guidance by old examples"),
        ("--guidance ewc-own --vector any.safetensors", "--vector with guidance that adds one"),
    ],
)
def test_what_a_preset_lacks_is_refused_before_the_model_is_read(
    home: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("nowhere", "--task", "next.csv", *words.split(), "--out", "run") == 1
    assert message in capsys.readouterr().err
    assert not (home / "run").exists()
