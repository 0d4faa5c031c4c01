"""Planted truths: checkpoints whose change is known; what is kept, resumed, refused."""

import gc
import json
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import ivlens
from ivlens import ArgumentError, Task
from ivlens.checkpoints import CheckpointConfig, VerdictRule, compare_checkpoints
from ivlens.checkpoints import sources as checkpoint_sources
from ivlens.records import CheckpointComparison
from tiny_models import WORDS

pytestmark = pytest.mark.slow

CONFIG = CheckpointConfig(
    n_clean=6, groups=3, n_corrupted=2, k=4, shots=1, n_test=4, n_validation=2, layers=(0,), scales=(1.0,),
    random_seeds=(0,), general=False, rule=VerdictRule(known=0.0, tolerated=0.9),
)  # fmt: skip


def shifted(by: int, cloze: str | None = "{input} before") -> Task:
    """A task that asks for the word so many places on."""
    pairs = [(word, WORDS[(at + by) % len(WORDS)]) for at, word in enumerate(WORDS)]
    return Task(f"shift-{by}", tuple(pairs), ("the quick fox jumps",), ("Q", "A"), cloze)


@pytest.fixture
def tasks() -> list[Task]:
    return [shifted(1), shifted(2, cloze=None)]


@pytest.fixture
def base(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A folder with a tiny model of one layer: what its heads put out does not depend on W_O."""
    return saved(tiny_hf("llama", num_hidden_layers=1), tiny_tokenizer(), tmp_path / "base")


@pytest.fixture
def variant(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """``variant(name, change)``: a checkpoint folder whose HookedTransformer was changed in place."""

    def made(name: str, change: Callable[[Any], None]) -> Path:
        model = ivlens.load_model(base)
        with torch.no_grad():
            change(model)
        return ivlens.export_hf(model, tmp_path / name)

    return made


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reordered(tokenizer: Any) -> Any:
    """The tokenizer with the ids of two of its tokens exchanged."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = settings["model"]["vocab"]
    one, two = (token for token, at in vocabulary.items() if at in (300, 301))
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(settings)), eos_token="</s>")


def row(comparison: CheckpointComparison, checkpoint: str, task: str = "shift-1") -> Any:
    frame = comparison.to_frame()
    return frame[(frame["checkpoint"] == checkpoint) & (frame["task"] == task)].iloc[0]


def scale(factor: float) -> Callable[[Any], None]:
    return lambda model: model.blocks[0].attn.W_O.mul_(factor)


def test_an_equal_checkpoint_has_forgotten_nothing(base: Path, variant: Any, tasks: list[Task]) -> None:
    comparison = compare_checkpoints(base, {"same": variant("same", lambda model: None)}, tasks, CONFIG)
    same = row(comparison, "same")
    assert same["cosine"] == pytest.approx(1)
    assert same["norm_ratio"] == pytest.approx(1)
    assert same["centred_cosine"] == pytest.approx(1)
    assert same["reselected_cosine"] == pytest.approx(1)
    assert same["forgetting"] == 0
    assert same["alignment_change"] == pytest.approx(0, abs=1e-6)
    assert same["aie_correlation"] == pytest.approx(1)
    assert same["overlap"] == 1
    assert same["verdict"] == "kept"
    assert comparison.weights.abs().max() == 0
    assert comparison.cka.isnan().all()  # all prompts end in the same token, which alone enters the first block
    assert comparison.stream_cosine.sub(1).abs().max() < 1e-6
    assert row(comparison, "base")["verdict"] == "base"
    assert torch.isnan(torch.tensor(row(comparison, "same", "shift-2")["knowledge"]))


def test_scaled_rotated_and_zeroed_heads_give_the_known_norm_and_cosine(
    base: Path, variant: Any, tasks: list[Task]
) -> None:
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q

    def rotate(model: Any) -> None:
        model.blocks[0].attn.W_O.copy_(model.blocks[0].attn.W_O @ rotation)

    checkpoints = {"doubled": variant("doubled", scale(2.0)), "halved": variant("halved", scale(0.5)),
                   "rotated": variant("rotated", rotate), "zeroed": variant("zeroed", scale(0.0))}  # fmt: skip
    comparison = compare_checkpoints(base, checkpoints, tasks, CONFIG)
    model = ivlens.load_model(base)
    means = ivlens.mean_head_activations(model, tasks[0].prompts(6, shots=1, split="train"))
    theta = ivlens.instruction_vector(model, means, comparison.heads[0]).values
    turned = torch.cosine_similarity(theta, theta @ rotation, dim=0).item()
    assert row(comparison, "doubled")["norm_ratio"] == pytest.approx(2, rel=1e-5)
    assert row(comparison, "doubled")["cosine"] == pytest.approx(1, abs=1e-6)
    assert row(comparison, "halved")["norm_ratio"] == pytest.approx(0.5, rel=1e-5)
    assert row(comparison, "rotated")["norm_ratio"] == pytest.approx(1, rel=1e-5)
    assert row(comparison, "rotated")["cosine"] == pytest.approx(turned, abs=1e-5)
    assert abs(turned) < 0.9
    assert row(comparison, "rotated")["z_cosine"] == pytest.approx(1, abs=1e-6)
    assert row(comparison, "zeroed")["norm_ratio"] == 0
    at = comparison.checkpoints.index("doubled")
    assert comparison.weights[at, 3, 0].tolist() == pytest.approx([1.0] * 4, rel=1e-5)  # W_O; the others are untouched
    assert comparison.weights[at, :3].abs().max() == 0
    assert comparison.head_norm[at, 0].tolist() == pytest.approx([2.0] * 4, rel=1e-5)


def test_probabilities_are_those_of_plain_hugging_face(base: Path, variant: Any, tasks: list[Task]) -> None:
    folder = variant("scaled", scale(3.0))
    found = row(compare_checkpoints(base, {"scaled": folder}, tasks, CONFIG), "scaled")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    probabilities = []
    for prompt in tasks[0].prompts(4, shots=1, split="test"):
        encoded = prompt.encode(tokenizer)
        with torch.no_grad():
            logits = model(torch.tensor([encoded.prompt_ids + encoded.answer_ids])).logits[0].double().log_softmax(-1)
        scores = logits[len(encoded.prompt_ids) - 1 : -1].gather(1, torch.tensor(encoded.answer_ids)[:, None])
        probabilities.append(scores.sum().exp().item())
    assert found["probability"] == pytest.approx(sum(probabilities) / 4, rel=1e-4)


def test_finished_measures_are_found_again(
    base: Path, variant: Any, tasks: list[Task], tmp_path: Path, messages: list[str]
) -> None:
    out, first = tmp_path / "out", {"doubled": variant("doubled", scale(2.0))}
    whole = compare_checkpoints(base, first, tasks, CONFIG, out=out)
    assert whole.provenance["checkpoints"] == {"doubled": str(first["doubled"])}
    assert whole.provenance["tasks"] == {task.name: task.source for task in tasks if task.source}
    # the second task has no cloze; sweeps on the base only; outputs and matrices beside the base's
    assert len(messages) == 2 * (7 + 6 + 1) + 2 + 2
    messages.clear()
    again = compare_checkpoints(base, first, tasks, CONFIG, out=out)
    assert messages == []
    assert again.to_frame().equals(whole.to_frame())
    more = first | {"halved": variant("halved", scale(0.5))}
    compare_checkpoints(base, more, tasks, CONFIG, out=out)
    assert {line.split(":")[0] for line in messages} == {"halved"}  # one checkpoint more costs one checkpoint
    messages.clear()
    compare_checkpoints(base, first, tasks, replace(CONFIG, n_corrupted=3), out=out)
    assert messages
    assert not any("answers" in line or "hidden" in line or "weights" in line for line in messages)
    messages.clear()
    compare_checkpoints(base, first, tasks, replace(CONFIG, rule=VerdictRule()), out=out)
    assert messages == []  # a verdict is a rule on what was measured


def test_an_interrupted_comparison_resumes(
    base: Path, variant: Any, tasks: list[Task], tmp_path: Path, messages: list[str], listen: Any
) -> None:
    checkpoints = {"doubled": variant("doubled", scale(2.0))}
    whole = compare_checkpoints(base, checkpoints, tasks, CONFIG)
    messages.clear()

    def stop(line: str) -> None:
        if len(messages) == 20:
            raise KeyboardInterrupt

    listen(stop)
    with pytest.raises(KeyboardInterrupt):
        compare_checkpoints(base, checkpoints, tasks, CONFIG, out=tmp_path / "out")
    messages.clear()
    again = compare_checkpoints(base, checkpoints, tasks, CONFIG, out=tmp_path / "out")
    assert len(messages) == 32 - 19
    assert again.to_frame().equals(whole.to_frame())


def test_unchanged_checkpoints_are_not_even_loaded(
    base: Path, variant: Any, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = {"doubled": variant("doubled", scale(2.0))}
    first = compare_checkpoints(base, checkpoints, tasks, CONFIG, out=tmp_path / "out")
    monkeypatch.setattr(checkpoint_sources, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    again = compare_checkpoints(base, checkpoints, tasks, CONFIG, out=tmp_path / "out")
    assert again.to_frame().equals(first.to_frame())


def test_what_cannot_be_compared_is_reported_and_the_others_go_on(
    base: Path, variant: Any, tasks: list[Task], tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    wide = saved(tiny_hf("llama", num_hidden_layers=2), tiny_tokenizer(), tmp_path / "wide")
    foreign = saved(tiny_hf("llama", num_hidden_layers=1), reordered(tiny_tokenizer()), tmp_path / "foreign")
    checkpoints = {"broken": tmp_path / "broken", "wide": wide, "foreign": foreign, "good": variant("good", scale(2.0))}
    taught = ["a", "b", "c", "shift-1"]
    comparison = compare_checkpoints(base, checkpoints, tasks, CONFIG, learned=taught)
    assert comparison.checkpoints == ("base", "good")
    assert comparison.learned == ("shift-1",)
    assert comparison.sequence()["plasticity"].notna().tolist() == [True, False]
    assert set(comparison.failures) == {"broken", "wide", "foreign"}
    assert "n_layers 2, not 1" in comparison.failures["wide"]
    assert "tokenizer" in comparison.failures["foreign"]
    with pytest.raises(ivlens.SourceError):
        compare_checkpoints(tmp_path / "broken", {"good": base}, tasks, CONFIG)
    with pytest.raises(ivlens.SourceError, match=r"one checkpoint or more .* got none \(foreign: .*tokenizer"):
        compare_checkpoints(base, {"foreign": foreign}, tasks, CONFIG)


def test_checkpoints_of_another_base_are_refused_before_anything_is_measured(
    base: Path, tasks: list[Task], tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    wide = saved(tiny_hf("llama", num_hidden_layers=2), tiny_tokenizer(), tmp_path / "wide")
    out = tmp_path / "out"
    with pytest.raises(ArgumentError, match=r"which has 1 layers and .* got wide with 2 and"):
        compare_checkpoints(base, {"wide": wide}, tasks, CONFIG, out=out)
    assert not out.exists()


def test_an_empty_name_is_no_model_that_lies_in_the_working_directory(
    base: Path, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an unset variable of a shell is one."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(base)
    monkeypatch.chdir(run)
    with pytest.raises(ivlens.SourceError, match=r"got unset \(\): an empty one, ''; give"):
        compare_checkpoints(base, {"unset": "", "here": "."}, tasks[:1], CONFIG)
    assert compare_checkpoints(base, {"here": "."}, tasks[:1], CONFIG).checkpoints == ("base", "here")


def test_what_does_not_exist_is_named_before_anything_is_loaded(
    base: Path, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base and checkpoints that are paths, hub names, adapters, packaged names or objects; all that are missing."""
    monkeypatch.setattr(checkpoint_sources, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    checkpoints: dict[str, Any] = {
        "path": "runs/tuned", "dotted": "./nope", "near": "bsae", "no model": "empty", "half": "adapter",
        "revised": "org/name@v2", "file": base / "config.json", "gguf": "none.gguf", "number": 3,
        "good": base, "packaged": "smollm2", "object": torch.nn.Linear(2, 2),
    }  # fmt: skip
    with pytest.raises(ivlens.SourceError) as caught:
        compare_checkpoints(base, checkpoints, tasks, CONFIG, out="out")
    assert "path (runs/tuned): no such folder, no packaged model of that name, and the Hugging" in caught.value.came
    assert "dotted (./nope): no such folder and no packaged model of that name;" in caught.value.came
    assert "no model (empty): empty, which has no config.json; half (adapter): no adapter_model" in caught.value.came
    assert re.findall(r"(?:^|; )([\w ]+) \(", caught.value.came) == [*checkpoints][:-3]
    assert not (tmp_path / "out").exists()
    with pytest.raises(ivlens.SourceError, match=r"got base \(bsae\): .*; did you mean 'base'\? If not, give the"):
        compare_checkpoints("bsae", [base / "x"], tasks, CONFIG)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"layers": (0, 1)}, "layers from 0 to 0"),
        ({"k": 99}, "k to be at most 4"),
        ({"stream_dtype": torch.float32}, "stream_dtype to be torch.float64"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_before_it_is_measured(
    settings: dict[str, Any], what: str, base: Path, tasks: list[Task], messages: list[str]
) -> None:
    with pytest.raises(ivlens.ArgumentError, match=what):
        compare_checkpoints(base, {"same": base}, tasks, replace(CONFIG, **settings), dtype=torch.float64)
    assert messages == []


def test_names_and_tasks_must_differ(base: Path, tasks: list[Task]) -> None:
    for checkpoints in ({}, {"base": base}, [base, base]):
        with pytest.raises(ivlens.ArgumentError, match="checkpoint"):
            compare_checkpoints(base, checkpoints, tasks, CONFIG)
    for chosen in ([], [tasks[0], tasks[0]]):
        with pytest.raises(ivlens.ArgumentError, match="different tasks"):
            compare_checkpoints(base, {"one": base}, chosen, CONFIG)


def test_a_task_without_the_instruction_asked_for_is_refused_before_anything_is_measured(
    base: Path, tasks: list[Task], tmp_path: Path, messages: list[str]
) -> None:
    bare = replace(tasks[0], instructions=())
    for changes, named in (
        ({"instruction": True}, "a task with instructions.*'shift-1' without any.*instruction="),
        ({"instruction": 0}, "a task with instructions.*'shift-1' without any"),
        ({"shots": 0}, "clean prompts that show the task 'shift-1'.*pass shots="),
    ):
        with pytest.raises(ivlens.ArgumentError, match=named):
            compare_checkpoints(base, {"same": base}, [tasks[1], bare], replace(CONFIG, **changes), out=tmp_path)
    assert messages == []


@pytest.mark.parametrize("changes", [{}, {"shots": 2, "corruption": "shuffled-labels"}])
def test_demonstrations_alone_show_a_task_without_instructions(
    base: Path, variant: Any, tasks: list[Task], changes: dict[str, Any]
) -> None:
    bare, config = replace(tasks[0], instructions=()), replace(CONFIG, **changes)
    comparison = compare_checkpoints(base, {"doubled": variant("doubled", scale(2.0))}, [bare, tasks[1]], config)
    assert comparison.failures == {}
    assert row(comparison, "doubled")["norm_ratio"] == pytest.approx(2, rel=1e-5)
    assert comparison.aie.abs().amax((0, 2, 3)).min() > 0
    clean = bare.prompts(4, shots=config.shots, instruction=False, split="test")
    expected = ivlens.evaluate(ivlens.load_model(base), clean).probability
    assert row(comparison, "base")["probability"] == pytest.approx(expected, rel=1e-4)


def test_a_chat_is_the_same_for_every_checkpoint(
    base: Path, variant: Any, tasks: list[Task], tiny_tokenizer: Any, chatml: str
) -> None:
    doubled = variant("doubled", scale(2.0))
    for folder in (base, doubled):
        tiny_tokenizer(chat_template=chatml).save_pretrained(folder)
    config = replace(CONFIG, format="chat")
    model = ivlens.load_model(base)
    comparison = compare_checkpoints(model, {"doubled": doubled}, tasks, config)
    assert comparison.failures == {}
    clean = tasks[0].prompts(4, shots=1, split="test", format="chat", tokenizer=model.tokenizer)
    assert row(comparison, "base")["probability"] == pytest.approx(ivlens.evaluate(model, clean).probability, rel=1e-4)
    assert comparison.provenance["settings"]["comparison"]["format"] == "chat"


@pytest.mark.slow
def test_twelve_checkpoints_by_eight_tasks_one_model_at_a_time(
    base: Path, variant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = {f"x{at}": variant(f"x{at}", scale(1 + at / 10)) for at in range(12)}
    alive: list[weakref.ref] = []
    most = 0
    honest = checkpoint_sources.load_model

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal most
        model = honest(*arguments, **options)
        gc.collect()
        alive.append(weakref.ref(model))
        most = max(most, sum(each() is not None for each in alive))
        return model

    monkeypatch.setattr(checkpoint_sources, "load_model", counted)
    eight = [shifted(by) for by in range(1, 9)]
    comparison = compare_checkpoints(base, checkpoints, eight, CONFIG, out=tmp_path / "out")
    assert most == 1
    assert len(alive) == 13
    assert len(comparison.to_frame()) == 13 * 8
    ratios = [row(comparison, f"x{at}", "shift-5")["norm_ratio"] for at in range(12)]
    assert ratios == pytest.approx([1 + at / 10 for at in range(12)], rel=1e-4)
    path = comparison.save(tmp_path / "comparison.safetensors")
    again = CheckpointComparison.load(path)
    assert again.to_frame()["cosine"].tolist() == comparison.to_frame()["cosine"].tolist()
    assert again.matrix().shape == (13, 8)
    assert len(again.heads_frame()) == 13 * 8 * 4
    assert len(again.layers_frame()) == 13 * 8
    assert set(again.recovery_frame()["condition"]) >= {"bare", "bare + base's vector", "bare + random vector 0"}
    assert again.sequence()["task"].tolist() == [task.name for task in eight]


def test_adapters_and_run_folders_are_checkpoints(base: Path, tasks: list[Task], tmp_path: Path) -> None:
    model = ivlens.load_model(base)
    config = ivlens.TrainingConfig(
        ivlens.Guidance(), steps=3, batch_size=4, learning_rate=1e-2, lora=ivlens.LoRA(2, 4.0)
    )
    ivlens.fine_tune(model, tasks[0].prompts(6, shots=1, split="train"), config)
    ivlens.export_adapter(model, tmp_path / "adapter")
    ivlens.merge_lora(model)
    ivlens.export_hf(model, tmp_path / "run" / "model")
    comparison = compare_checkpoints(base, {"adapter": tmp_path / "adapter", "run": tmp_path / "run"}, tasks, CONFIG)
    assert comparison.failures == {}
    one, two = row(comparison, "adapter"), row(comparison, "run")
    assert one["cosine"] == pytest.approx(two["cosine"], abs=1e-5)
    assert one["probability"] == pytest.approx(two["probability"], rel=1e-4)
    assert comparison.weights[1, 0].max() > 0


def test_the_command_line_writes_tables_and_a_report(
    base: Path, variant: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    from ivlens import cli

    file = tmp_path / "next.csv"
    pairs = "\n".join(f"{word},{WORDS[(at + 1) % len(WORDS)]}" for at, word in enumerate(WORDS))
    file.write_text(f"input,output\n{pairs}\n")
    arguments = ("compare", str(base), f"twice={variant('doubled', scale(2.0))}", str(tmp_path / "nowhere"), "--tasks",
                 str(file), "--instruction", "the quick fox jumps", "--out", str(tmp_path / "out"), "--n-clean", "5",
                 "--n-corrupted", "2", "--n-test", "3", "--k", "4")  # fmt: skip
    assert cli.main(arguments) == 1
    assert f"got nowhere ({tmp_path / 'nowhere'}): no such folder" in capsys.readouterr().err
    assert not [*(tmp_path / "out").glob("measures/*")]
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "config.json").write_text("{}")
    assert cli.main(arguments) == 1  # one of two
    said = capsys.readouterr()
    assert "twice" in said.out
    assert "nowhere was not compared: SourceError" in said.err
    out = tmp_path / "out"
    for name in ("tasks", "heads", "layers", "recovery", "sequence"):
        table, binary = pd.read_csv(out / f"{name}.csv"), pd.read_parquet(out / f"{name}.parquet")
        assert len(table) == len(binary) > 0
    assert CheckpointComparison.load(out / "comparison.safetensors").checkpoints == ("base", "twice")
    assert "twice" in (out / "report.html").read_text()
    assert cli.main(arguments) == 1
    assert "answers" not in capsys.readouterr().err  # nothing is measured twice


def test_a_task_with_options_is_judged_against_chance(base: Path, variant: Callable[..., Path]) -> None:
    """A model without training chooses one of two words as if it guessed."""
    examples = [
        ivlens.Example(word, (WORDS[at - 1],), options=(WORDS[at - 1], WORDS[at - 2])) for at, word in enumerate(WORDS)
    ]
    choice = Task("choice", tuple(examples), ("the quick fox jumps",), ("Q", "A"))
    same = variant("same", lambda model: None)
    compared = compare_checkpoints(base, {"same": same}, [choice], replace(CONFIG, n_test=8))
    frame = compared.to_frame()
    assert frame["chance"].tolist() == [0.5, 0.5]
    assert frame["forgetting"].tolist() == [0, 0]
    low, high = frame["accuracy_low"][0], frame["accuracy_high"][0]
    assert low < 0.5 < high
    assert frame["verdict"][1] == "not shown to have fallen"


def test_a_task_of_few_labels_is_judged_against_chance(base: Path, variant: Callable[..., Path]) -> None:
    labels = Task("labels", tuple((word, WORDS[at % 2]) for at, word in enumerate(WORDS)), ("the fox",), ("Q", "A"))
    same = variant("same", lambda model: None)
    compared = compare_checkpoints(base, {"same": same}, [labels], CONFIG)
    assert compared.to_frame()["chance"].tolist() == [0.5, 0.5]
