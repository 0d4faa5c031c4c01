"""General abilities beside the tasks of a comparison: asked of the base and each checkpoint, and shown."""

import logging
from pathlib import Path
from typing import Any

import pytest

import ivlens as iv
from ivlens.checkpoints import CheckpointConfig, compare_checkpoints
from ivlens.checkpoints.general import general_prompts
from ivlens.checkpoints.sources import CheckpointSource, CheckpointUnderTest
from ivlens.cli import main
from ivlens.records import CheckpointComparison
from tiny_models import WORDS

pytestmark = pytest.mark.slow

CONFIG = CheckpointConfig(
    n_clean=4, groups=2, n_corrupted=2, k=2, shots=1, n_test=2, n_validation=2, layers=(0,), scales=(1.0,),
    random_seeds=(0,),
)  # fmt: skip
SHIFT = iv.Task("shift", tuple(zip(WORDS, WORDS[1:] + WORDS[:1], strict=True)), ("the quick fox jumps",), ("Q", "A"))
GENERAL = iv.list_tasks("general ability")


@pytest.fixture(scope="module")
def folders(tiny_hf: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> dict[str, Path]:
    """Two models that take prompts of some hundred tokens, and one that does not."""
    made = {}
    for seed, (name, length) in enumerate({"base": 2048, "tuned": 2048, "short": 128}.items()):
        made[name] = tmp_path_factory.mktemp(name)
        model = tiny_hf("llama", seed=seed, num_hidden_layers=1, max_position_embeddings=length)
        model.save_pretrained(made[name])
        tiny_tokenizer().save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def compared(folders: dict[str, Path], tmp_path_factory: Any) -> CheckpointComparison:
    out = tmp_path_factory.mktemp("out")
    checkpoints = {"same": folders["base"], "tuned": folders["tuned"]}
    return compare_checkpoints(folders["base"], checkpoints, [SHIFT], CONFIG, out=out)


def under_test(folder: Path, facts: Path) -> CheckpointUnderTest:
    return CheckpointUnderTest(CheckpointSource("one", folder), {}, facts)


def test_every_ability_is_asked_of_every_checkpoint(
    compared: CheckpointComparison, folders: dict[str, Path], tmp_path: Path
) -> None:
    frame = compared.general_frame()
    assert frame["checkpoint"].unique().tolist() == ["base", "same", "tuned"]
    assert all(group["task"].tolist() == GENERAL for _, group in frame.groupby("checkpoint"))
    assert set(compared.tasks) == {"shift"}
    tuned = iv.load_model(folders["tuned"])
    for task, prompts in general_prompts(CONFIG, under_test(folders["base"], tmp_path)).items():
        answers, row = iv.evaluate(tuned, prompts), frame[(frame["checkpoint"] == "tuned") & (frame["task"] == task)]
        assert row["accuracy"].item() == answers.accuracy
        assert (row["low"].item(), row["high"].item()) == answers.accuracy_interval()
        assert row["chance"].item() == (1 / 4 if prompts[0].options else 0)
        assert row["n"].item() == CONFIG.n_test
    same = frame[frame["checkpoint"] == "same"]
    assert (same["forgetting"] == 0).all()
    saved = CheckpointComparison.load(compared.save(tmp_path / "comparison.safetensors"))
    assert saved.general_frame().equals(frame)


def test_prompts_have_an_instruction_whatever_the_tasks_have(folders: dict[str, Path], tmp_path: Path) -> None:
    config = CheckpointConfig(instruction="the quick fox jumps", n_test=3, shots=0)
    base = under_test(folders["base"], tmp_path)
    prompts = general_prompts(config, base)
    assert list(prompts) == GENERAL
    for task, asked in prompts.items():
        assert len(asked) == 3
        assert all(prompt.text.startswith(iv.load_task(task).instructions[0]) for prompt in asked)
    assert general_prompts(CheckpointConfig(general=False), base) == {}


def test_what_does_not_fit_the_context_is_left_out_by_name(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="ivlens"):
        comparison = compare_checkpoints(folders["short"], {"same": folders["short"]}, [SHIFT], CONFIG)
    assert "reading" not in comparison.general_frame()["task"].tolist()
    assert len(comparison.to_frame()) == 2
    assert [text for text in caplog.messages if "general abilities are left out" in text and "reading" in text]


def test_the_page_has_them(compared: CheckpointComparison, tmp_path: Path) -> None:
    page = iv.views.write_comparison_report(tmp_path / "page.html", compared).read_text(encoding="utf-8")
    assert "General abilities" in page
    assert "code-output" in page


def test_the_command_takes_them_together(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def compare(base: str, sources: Any, tasks: list[iv.Task], *_: Any, **__: Any) -> Any:
        asked.extend(task.name for task in tasks)
        raise iv.errors.SourceError("to be asked", "asked", "stop")

    monkeypatch.setattr("ivlens.cli.checkpoints.compare_checkpoints", compare)
    words = ["compare", str(folders["base"]), str(folders["tuned"]), "--tasks", "antonym", "general"]
    assert main([*words, "--k", "2", "--layers", "0", "--out", str(tmp_path / "out")]) == 1
    assert asked == ["antonym", *GENERAL]
