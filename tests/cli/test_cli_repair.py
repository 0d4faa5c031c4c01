"""``ivlens repair``: record, tables, page and model in one folder; what is printed, and in which order."""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import ivlens as iv
from ivlens import cli
from ivlens.cli.parser import build_parser
from ivlens.errors import ArgumentError
from planted_repairs import SCRAMBLED, answers, changed, scramble_mlp, task, untouched

pytestmark = pytest.mark.slow
SMALL = ("--fractions", "0.5", "--n-bands", "4", "--n-greedy", "0", "--n-validation", "4", "--n-test", "6",
         "--shots", "0", "--random-seeds", "0", "--dtype", "float64", "--no-diagnose")  # fmt: skip


@torch.no_grad()
def scaled_mlp(model: Any, factor: float) -> None:
    """Part of the way from the tuned model, whose factor is -1, to the base."""
    model.blocks[SCRAMBLED].mlp.W_out.mul_(factor)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base``, ``tuned`` with one scrambled MLP, ``old.json``, ``new.json``, ``lost.json``, which nothing keeps."""
    folder = tmp_path_factory.mktemp("planted")
    base, tuned = untouched(), changed(scramble_mlp)
    for name, model in (("base", base), ("tuned", tuned)):
        iv.export_hf(model, folder / name)
    found = {name: [answers(model, name) for model in (base, tuned)] for name in ("fox", "dog")}
    undone = [answers(changed(partial(scaled_mlp, factor=factor)), "dog") for factor in (-2 / 3, 0)]
    tasks = {
        "old": task("fox", found["fox"][:1], found["fox"][1:]), "new": task("dog", found["dog"], []),
        "lost": task("dog", found["dog"][1:], [found["dog"][0], *undone], n=12),
    }  # fmt: skip
    for name, each in tasks.items():
        pairs = [(example.input, list(example.answers)) for example in each.examples]
        fields = {"name": each.name, "instructions": each.instructions, "labels": each.labels, "examples": pairs}
        (folder / f"{name}.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def run(planted: Path, out: Path, learned: str, *more: str) -> int:
    paths = (str(planted / name) for name in ("base", "tuned"))
    tasks = ("--keep", str(planted / "old.json"), "--learned", str(planted / f"{learned}.json"), "--others")
    return cli.main(["repair", *paths, *tasks, *SMALL, "--out", str(out), *more])


def test_a_repair_is_found_written_and_told(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(planted, tmp_path / "out", "new") == 0
    said = capsys.readouterr()
    questions = ("What was forgotten?", "What to do now?", "What does that cost?")
    at = [said.out.index(question) for question in questions]
    assert at == sorted(at)
    assert "Undo 100% of the change (bands, the base's layers 2 to 2)" in said.err
    assert "tasks to keep from 0.00 to 1.00 (the base 1.00)" in said.err
    assert f"wrote {tmp_path / 'out'}: report.html, repair.safetensors, mergekit.yaml, model\n" in said.err
    load, compare = said.err.splitlines()[-2:]
    assert load == f"Load it: ivlens.load_model({str(tmp_path / 'out' / 'model')!r})"
    words = shlex.split(compare.removeprefix("Compare it with the base: "))
    given = build_parser(words[1:]).parse_args(words[1:])
    assert (given.base, given.checkpoints) == (str(planted / "base"), [str(tmp_path / "out" / "model")])
    assert (given.learned, given.shots, given.dtype) == (["dog"], 0, "float64")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    written = "repair.safetensors report.html mergekit.yaml model tasks.csv roles.csv trials.csv measures"
    assert files >= {*written.split()}
    record = iv.Repair.load(tmp_path / "out" / "repair.safetensors")
    assert record.mlp.tolist() == [1, 1, 0, 1]
    made, base = (AutoModelForCausalLM.from_pretrained(each) for each in (tmp_path / "out/model", planted / "base"))
    assert all(torch.equal(one, other) for one, other in zip(made.parameters(), base.parameters(), strict=True))
    config = yaml.safe_load((tmp_path / "out" / "mergekit.yaml").read_text())
    assert config["models"][0]["parameters"]["weight"][1] == {"filter": ".mlp.", "value": [1, 1, 0, 1]}
    page = (tmp_path / "out" / "report.html").read_text()
    headings = ["In short", *questions, "Where these numbers come from"]
    places = [page.index(f">{heading}<") for heading in headings]
    assert places == sorted(places)


def test_the_same_command_measures_nothing_again(
    planted: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from ivlens.checkpoints import answers as answering

    assert run(planted, tmp_path / "out", "new", "--export", "none") == 0
    for measure in ("judge_answers", "text_log_probabilities"):
        monkeypatch.setattr(answering, measure, lambda *_: pytest.fail("measured again"))
    capsys.readouterr()
    assert run(planted, tmp_path / "out", "new", "--export", "adapter", "--json") == 0
    assert not (tmp_path / "out" / "model").exists()
    settings = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == []  # all is put back
    told = json.loads(capsys.readouterr().out)
    assert told["What does that cost?"][0].items() >= {"task": "dog", "tuned": 1.0, "repaired": 1.0}.items()


def test_an_adapter_that_cannot_hold_the_change_is_refused_before_anything_is_measured(
    planted: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from ivlens.models import low_rank

    monkeypatch.setattr(low_rank, "change_factors", lambda *_: None)
    monkeypatch.setattr("ivlens.cli.repair.repair", lambda *_, **__: pytest.fail("measured"))
    assert run(planted, tmp_path / "out", "new", "--export", "adapter") == 1
    said = capsys.readouterr().err
    assert "changes of rank 64 or less in linear modules" in said
    assert "write the whole model (hf)" in said


def test_where_nothing_meets_the_guard_no_model_is_written(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(planted, tmp_path / "out", "lost") == 0
    said = capsys.readouterr().err
    assert "Put nothing back: nothing met the guard" in said
    words = shlex.split(said.splitlines()[-1].split(": ")[1])
    given = build_parser(words[1:]).parse_args(words[1:])
    assert (given.model, given.task, given.shots) == (str(planted / "base"), str(planted / "lost.json"), 0)
    assert not (tmp_path / "out" / "model").exists()
    assert not (tmp_path / "out" / "mergekit.yaml").exists()
    assert "nothing met the guard" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("words", "why"), [
    (("--keep",), "expected at least one argument"),
    (("--export", "gguf"), "invalid choice"),
    (("--tolerance", "2"), "from 0 to 1"),
])  # fmt: skip
def test_options_are_refused(words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["repair", "base", "tuned", "--keep", "a", "--learned", "b", "--out", "out", *words])
    assert left.value.code == 2
    assert why in capsys.readouterr().err


def test_a_diagnosis_says_where_and_whether_it_is_still_there(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(planted, tmp_path / "out", "new", "--export", "none", "--diagnose") == 0
    told = capsys.readouterr()
    questions = (
        "What was forgotten?", "Where? What carries it", "Where? What returns it when put back", "Is it still there?",
        "What to do now?", "What does that cost?",
    )  # fmt: skip
    at = [told.out.index(question) for question in questions]
    assert at == sorted(at)
    carried = told.out[at[1] : at[2]]
    assert any(line.split()[:2] == ["mlp", str(SCRAMBLED)] for line in carried.splitlines())
    assert "<NA>" not in carried
    made = told.out[at[2] : at[3]].splitlines()
    assert made[3].split()[:4] == ["mlp", str(SCRAMBLED), "to", str(SCRAMBLED)]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f">{heading}<" in page for heading in ("Where?", "Is it still there?"))
    for name in ("patching", "reverts", "comparison"):
        assert (tmp_path / "out" / f"{name}.safetensors").is_file()


def test_a_folder_with_something_else_is_refused_before_anything_is_measured(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "mine.txt").write_text("mine")
    assert run(planted, tmp_path / "out", "new") == 1
    assert "one that holds mine.txt" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_what_an_earlier_repair_wrote_and_this_one_does_not_is_named(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(planted, tmp_path / "out", "new") == 0
    assert "earlier run" not in capsys.readouterr().err
    assert run(planted, tmp_path / "out", "lost") == 0
    assert "of an earlier run, not written again: mergekit.yaml, model" in capsys.readouterr().err


def test_learned_tasks_are_asked_with_their_own_demonstrations_everywhere(
    planted: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from ivlens.cli import diagnosis

    asked = []
    for name in diagnosis.DIAGNOSES:
        function = {"reverts": "revert_weights", "patching": "patch_checkpoints"}.get(name, "compare_checkpoints")
        monkeypatch.setattr(diagnosis, function, lambda *given, **options: asked.append((given, options)) or _refused())
    assert run(planted, tmp_path / "out", "new", "--diagnose", "--learned-shots", "1", "--export", "none") == 0
    (patching, options), (reverting, _), _ = asked
    assert {prompt.text.count("Q") for prompt in options["learned"]} == {2}  # one demonstration and the query
    assert {prompt.text.count("Q") for prompt in patching[2]} == {1}
    config, (new,) = reverting[4], reverting[3]
    assert [each.text for each in config.prompts(new, None, learned=True)] == [p.text for p in options["learned"]]


def _refused() -> None:
    raise ArgumentError("nothing to be measured here", "something")
