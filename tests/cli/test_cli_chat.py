"""A chat model from the first heads to a repair, on the command line: prompts, records and kept results."""

from pathlib import Path
from typing import Any

import pytest

import ivlens as iv
from ivlens import cli
from ivlens.cli import training
from ivlens.cli.options import template_option
from ivlens.cli.verbs import VERBS

pytestmark = pytest.mark.slow
TEMPLATE = (
    "{{ strftime_now('%d %B %Y') }}{% if thinking %}<|im_start|>thinks{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = ("--format", "chat", "--system", "Be brief.", "--template-option", "thinking=true", "--date", "2025-01-09")
CHAT = iv.Chat("Be brief.", date="2025-01-09", template_options={"thinking": True})
FACTS = {"system": "Be brief.", "date": "2025-01-09", "template_options": {"thinking": True}}
FEW = ("--n-clean", "2", "--n-corrupted", "2", "--shots", "1")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, tiny_hf: Any, tiny_tokenizer: Any, task_file: Any) -> Path:
    """``model`` and ``tuned`` with a chat template, ``task.json`` and ``old.json``."""
    folder = tmp_path_factory.mktemp("chat")
    for seed, name in enumerate(("model", "tuned")):
        tiny_hf("llama", seed=seed, num_hidden_layers=2, max_position_embeddings=512).save_pretrained(folder / name)
        tiny_tokenizer(chat_template=TEMPLATE).save_pretrained(folder / name)
    for name in ("task", "old"):
        task_file(folder / f"{name}.json", name)
    return folder


def test_every_command_asks_a_chat_model_as_it_is_told(
    chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tuned, task, old = (str(chat / name) for name in ("model", "tuned", "task.json", "old.json"))
    loaded, read = iv.load_model(model), iv.load_task(task)

    assert cli.main(["heads", model, task, *FEW, *ASKED, "--out", str(tmp_path / "heads")]) == 0
    effects = iv.HeadEffects.load(tmp_path / "heads" / "task.effects.safetensors")
    assert effects.provenance["settings"] | {"format": "chat", "chat": FACTS} == effects.provenance["settings"]
    again = iv.locate_heads(loaded, read, n_clean=2, n_corrupted=2, shots=1, format=CHAT)
    assert again.values.equal(effects.values)
    labelled = iv.locate_heads(loaded, read, n_clean=2, n_corrupted=2, shots=1)
    assert not labelled.values.equal(effects.values)

    vector = str(tmp_path / "task.vector.safetensors")
    assert cli.main(["vector", model, task, *FEW, *ASKED, "--k", "2", "--out", vector]) == 0
    sweep = ("--task", task, "--layers", "1", "--scales", "1", "--n-validation", "2", "--n-test", "2")
    assert cli.main(["sweep", model, vector, *sweep, *ASKED, "--out", str(tmp_path / "sweep")]) == 0
    conditions = iv.ConditionComparison.load(tmp_path / "sweep" / "comparison.safetensors").to_frame()
    clean = iv.evaluate(loaded, read.prompts(2, split="test", format=CHAT, tokenizer=loaded.tokenizer))
    found = conditions.set_index("condition")["probability"]["clean"]
    assert found == pytest.approx(clean.probability, rel=1e-4)

    compare = ("compare", model, tuned, "--tasks", task, old, "--n-clean", "2", "--groups", "2", "--n-corrupted", "2",
               "--k", "2", "--shots", "1", "--n-test", "2", "--n-validation", "2", "--layers", "1", "--scales", "1",
               "--random-seeds", "0", "--out", str(tmp_path / "compared"))  # fmt: skip
    assert cli.main([*compare, *ASKED]) == 0
    compared = iv.CheckpointComparison.load(tmp_path / "compared" / "comparison.safetensors")
    settings = compared.provenance["settings"]["comparison"]
    assert (settings["format"], settings["chat"]) == ("chat", FACTS)
    measures = len([*(tmp_path / "compared" / "measures").iterdir()])
    assert cli.main([*compare, *ASKED]) == 0
    assert len([*(tmp_path / "compared" / "measures").iterdir()]) == measures
    assert cli.main([*compare, *ASKED, "--template-option", "thinking=false"]) == 0
    assert len([*(tmp_path / "compared" / "measures").iterdir()]) > measures

    train = ("train", model, "--task", task, "--keep", old, "--guidance", "rehearsal", "--steps", "1", "--k", "2",
             "--shots", "0", "--batch-size", "2", "--evaluate-every", "0", "--out", str(tmp_path / "run"))  # fmt: skip
    assert cli.main([*train, *ASKED]) == 0
    assert iv.TrainingRun.load(tmp_path / "run" / "run.safetensors").steps == 1
    capsys.readouterr()
    assert cli.main([*train, "--format", "chat"]) == 1
    assert "other prompts" in capsys.readouterr().err

    repair = ("repair", model, tuned, "--keep", old, "--learned", task, "--others", "--fractions", "0.5", "--n-bands",
              "1", "--n-greedy", "0", "--n-validation", "2", "--n-test", "2", "--shots", "0", "--random-seeds", "0",
              "--no-diagnose", "--export", "none", "--out", str(tmp_path / "repaired"))  # fmt: skip
    assert cli.main([*repair, *ASKED]) == 0
    found = iv.Repair.load(tmp_path / "repaired" / "repair.safetensors").provenance["settings"]
    assert (found["format"], found["chat"]) == ("chat", FACTS)


def test_what_is_trained_on_rehearsed_and_measured_is_asked_as_told(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def caught(model: Any, data: Any, config: Any, **more: Any) -> Any:
        asked.update(more, data=data)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fine_tune", caught)
    monkeypatch.setattr(training, "_vector", lambda *_: None)
    train = ("train", str(chat / "model"), "--task", str(chat / "task.json"), "--keep", str(chat / "old.json"),
             "--k", "2", "--out", str(tmp_path / "run"))  # fmt: skip
    for guidance in ("rehearsal", "replay"):
        cli.main([*train, "--guidance", guidance, *ASKED])
        measured = [*asked["new"], *asked["keep"]]
        prompts = [*asked["data"], *asked["rehearse"], *asked["replay"]]
        prompts += [prompt for each in measured for prompt in each.prompts]
        assert len(prompts) > 20
        assert bool(asked["rehearse"]) == (guidance == "rehearsal")
        assert all(prompt.text.startswith("09 January 2025<|im_start|>thinks<|im_start|>system") for prompt in prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--system", "Be brief."), "expected --system only with --format chat; got --format labelled"),
        (("--template-option", "x=1"), "expected --template-option only with --format chat"),
        (("--format", "chat", "--date", "9 Jan"), "expected --date to be a day, YYYY-MM-DD; got '9 Jan'"),
        (("--format", "chat", "--template-option", "x=1"), "the model's chat template mentions; got 'x'"),
    ],
)
def test_options_of_a_chat_that_are_refused(
    chat: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert cli.main(["heads", str(chat / "model"), str(chat / "task.json"), *FEW, *options]) == 1
    assert message in capsys.readouterr().err


def test_every_command_with_a_format_takes_the_settings_of_a_chat() -> None:
    for verb in VERBS.values():
        taken = {name for each in verb.generated().values() for name in each}
        own = {argument.name for argument in verb.arguments}
        assert ("format" in taken) == ({"system", "assistant_prefix", "date"} <= taken) == ("template_option" in own)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a=false", False), ("a=1.5", 1.5), ("a=so so", "so so"), ('a="1"', "1"), ("a=", ""), ("a=b=c", "b=c")],
)
def test_values_of_template_options(text: str, expected: Any) -> None:
    assert template_option(text) == ("a", expected)
