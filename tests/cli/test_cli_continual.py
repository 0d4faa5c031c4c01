"""``ivlens continual``: one run with its page and model, an ablation, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ivlens as iv
from ivlens import cli
from ivlens.files import safe_name

WORDS = ["the", "capital", "of", "France", "is", "Paris", "and", "quick", "brown", "fox", "jumps", "over", "lazy"]
FEW = [
    *("--steps", "2", "--warmup", "1", "--batch-size", "4", "--n-test", "4", "--k", "3", "--n-clean", "4"),
    *("--n-corrupted", "2", "--keep-shots", "1", "--shots", "0"),
]


@pytest.fixture
def base(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A model's folder, and beside it three tasks."""
    tiny_hf("llama", max_position_embeddings=256).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    for by in (1, 2, 3):
        pairs = list(zip(WORDS, WORDS[by:] + WORDS[:by], strict=True))
        task = {"instructions": ["the quick fox jumps"], "examples": [{"input": a, "output": b} for a, b in pairs]}
        (tmp_path / f"shift-{by}.json").write_text(json.dumps(task))
    return tmp_path / "base"


def words(base: Path, out: str, *more: str) -> list[str]:
    first, second, old = (str(base.parent / f"shift-{by}.json") for by in (1, 2, 3))
    return [
        "continual",
        str(base),
        "--sequence",
        first,
        second,
        "--keep",
        old,
        "--out",
        str(base.parent / out),
        *FEW,
        *more,
    ]


def test_one_run_has_a_record_a_page_and_a_model(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(base, "out", "--guidance", "plain", "--json")) == 0
    shown = json.loads(capsys.readouterr().out)["after 2 tasks"]
    out = base.parent / "out"
    run = iv.ContinualRun.load(out / "continual.safetensors")
    assert [row["measure"] for row in shown] == run.summary()["measure"].tolist()
    assert run.tasks == ("shift-1", "shift-2")
    assert "Every ability after each task" in (out / "continual.html").read_text()
    model = iv.load_model(str(out / "model"))
    prompts = iv.load_task(str(base.parent / "shift-2.json")).prompts(4, shots=0, split="test")
    last = next(row for row in run.measured if (row["stage"], row["ability"]) == (2, "shift-2"))
    assert iv.evaluate(model, prompts).probabilities.tolist() == pytest.approx(last["probabilities"], rel=1e-4)


def test_an_ablation_has_a_record_of_each_run_and_one_page(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words(base, "out", "--guidance", "l2", "--ablate-terms", "--ablate-seeds", "0,1", "--lora", "2")
    assert cli.main(given) == 0
    out = base.parent / "out"
    names = {safe_name(f"{name}, seed {seed}") for name in ("whole", "plain") for seed in (0, 1)}
    assert {path.parent.name for path in out.glob("*/continual.safetensors")} == names
    assert "4 runs" in capsys.readouterr().out
    assert (out / "runs.csv").read_text().count("\n") == 5
    assert not list(out.rglob("model.safetensors"))


def test_an_ablation_varies_terms_heads_and_layers(base: Path) -> None:
    given = words(base, "out", "--guidance", "iv", "--ablate-terms", "--ablate-ks", "2", "--ablate-layers", "1")
    assert cli.main(given) == 0
    out = base.parent / "out"
    only = {f"only {term}" for term in ("ProgressiveVector", "KLToGuidedTeacher")}
    assert {*pd.read_csv(out / "runs.csv")["run"]} == {"whole", "plain", "2 heads", "layer 1"} | only
    asked = {}
    for name in ("whole", "2 heads", "layer 1"):
        run = iv.ContinualRun.load(out / safe_name(name) / "continual.safetensors")
        asked[name] = run.provenance["settings"]["continual"]
    assert (asked["whole"]["k"], asked["2 heads"]["k"]) == (3, 2)
    assert asked["layer 1"]["training"]["guidance"]["KLToGuidedTeacher"]["layer"] == 1


@pytest.mark.parametrize(
    ("bad", "left_out"), [("plain, seed 0", ["plain, seed 0"]), ("whole, seed 1", ["whole, seed 1", "plain, seed 1"])]
)
def test_variants_that_diverge_are_left_out_and_the_others_compared(
    base: Path, bad: str, left_out: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverging(*given: Any, out: Path, **named: Any) -> iv.ContinualRun:
        if out.name == safe_name(bad):
            raise iv.DivergedError("a finite loss on task 1, shift-1", "step 1: loss nan", "lower the learning rate")
        return iv.continual(*given, out=out, **named)

    monkeypatch.setattr("ivlens.cli.continual.continual", diverging)
    assert cli.main(words(base, "out", "--guidance", "l2", "--ablate-terms", "--ablate-seeds", "0,1,2")) == 1
    said = capsys.readouterr().err
    assert f"{bad} is left out: expected a finite loss on task 1" in said
    assert (
        f"DivergedError: expected runs whose loss stays finite; got {', '.join(map(repr, left_out))} left out" in said
    )
    every = {f"{name}, seed {seed}" for name in ("whole", "plain") for seed in (0, 1, 2)}
    assert {*pd.read_csv(base.parent / "out" / "runs.csv")["run"]} == every - {*left_out}
    assert {"plain"} == {*pd.read_csv(base.parent / "out" / "variants.csv")["variant"]}


def test_weights_that_answer_nothing_are_left_out(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are finite after the last step, but no logit is; l2 takes them back."""
    (base.parent / "out").mkdir()
    (base.parent / "out" / "variants.csv").write_text("of an earlier ablation")
    steps = ("--steps", "1", "--warmup", "0", "--learning-rate", "1e19")
    assert cli.main(words(base, "out", "--guidance", "l2", "--ablate-terms", *steps)) == 1
    assert "plain is left out: expected" in capsys.readouterr().err
    assert pd.read_csv(base.parent / "out" / "runs.csv")["run"].tolist() == ["whole"]
    assert not (base.parent / "out" / "variants.csv").exists()


def test_a_first_run_that_diverges_ends_the_command(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivlens.training.terms.cross_entropy", lambda logits, targets: logits.sum(-1) * torch.nan)
    with pytest.warns(UserWarning, match="training stopped"):
        assert cli.main(words(base, "out", "--guidance", "l2", "--ablate-terms")) == 1
    assert not list((base.parent / "out").glob("*.csv"))


@pytest.mark.parametrize(("more", "why"), [
    (("--data", "somewhere"), "--data with one sequence by its name"),
    (("--ablate-ks", "5"), "guidance with a vector"),
    (("--ablate-ks", "0"), "a whole number of 1 or more"),
    (("--k", "99"), "at most 8"),
    (("--fields", "input"), "names of two columns"),
])  # fmt: skip
def test_what_cannot_work_is_refused_first(
    base: Path, more: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = cli.main([*words(base, "out", "--guidance", "plain"), *more])
    except SystemExit as left:
        status = int(str(left.code))
    assert status in (1, 2)
    assert why in capsys.readouterr().err
    assert not (base.parent / "out").exists()


def test_what_is_said_of_files_holds_for_them_beside_built_in_tasks(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for by in (1, 2):
        tables.append(base.parent / f"table-{by}.csv")
        rows = zip(WORDS, WORDS[by:] + WORDS[:by], strict=True)
        tables[-1].write_text("asked,right\n" + "".join(f"{one},{other}\n" for one, other in rows))
    said = ["--fields", "asked", "right", "--instruction", "the quick fox jumps"]
    given = ["continual", str(base), "--sequence", *map(str, tables), "--keep", "antonym", *said, "--out"]
    assert cli.main([*given, str(base.parent / "out"), *FEW, "--guidance", "plain", "--no-vectors"]) == 0
    run = iv.ContinualRun.load(base.parent / "out" / "continual.safetensors")
    assert {row["ability"] for row in run.measured} == {"table-1", "table-2", "antonym"}
    for wrong in (["--sequence", "words-a"], ["--sequence", "words-a", "--keep", "antonym"]):
        assert cli.main(["continual", str(base), *wrong, *said, "--out", str(base.parent / "none")]) == 1
        assert "--fields with a task file" in capsys.readouterr().err


def test_a_sequence_whose_data_is_missing_is_refused(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["continual", str(base), "--sequence", "NI-Seq-C1", "--out", str(base.parent / "out")]) == 1
    assert "your copy of Super-NaturalInstructions" in capsys.readouterr().err


def test_a_folder_of_others_for_the_model_is_refused_before_the_run(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = base.parent / "out" / "model" / "mine.txt"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    assert cli.main(words(base, "out", "--guidance", "plain")) == 1
    assert "an earlier export" in capsys.readouterr().err
    assert [*taken.parent.parent.iterdir()] == [taken.parent]
