"""Never lose a run: kill -9, signals, truncated files, a full disk."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from ivlens import Prompt, tensor_files
from ivlens.training import Guidance, L2ToBase, LoRA, TrainingConfig, fine_tune, monitor


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all weights."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


CONFIG = TrainingConfig(Guidance(), steps=8, batch_size=4, learning_rate=3e-3, save_every=2)
RUN = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import ivlens, tiny_models
from ivlens import Prompt
from ivlens.training import Guidance, L2ToBase, Rehearsal, TrainingConfig, fine_tune
model = ivlens.load_model(tiny_models.random_model("llama"), tokenizer=tiny_models.byte_level_tokenizer())
words = "capital of France is Paris and the quick brown".split()
prompts = [Prompt(f"Q: {{word}} A:", (f" {{after}}",)) for word, after in zip(words, words[1:])]
guidance = Guidance((Rehearsal(1.0), L2ToBase(10.0)))
config = TrainingConfig(guidance, steps=150, batch_size=4, learning_rate=1e-3, save_every=7)
print("ready", flush=True)
fine_tune(model, prompts, config, rehearse=prompts[:3], out=sys.argv[1])
from safetensors.torch import save_file
save_file({{name: each.detach().contiguous() for name, each in model.named_parameters()}}, sys.argv[2])
"""


def start(out: Path, weights: Path) -> subprocess.Popen:
    script = RUN.format(tests=str(Path(__file__).parents[1]))
    return subprocess.Popen([sys.executable, "-c", script, str(out), str(weights)], stdout=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", tmp_path / "whole.weights")
    kills, chance = 0, random.Random(time.time_ns())  # another moment at each run of this test
    out, end = tmp_path / "killed", tmp_path / "killed.weights"
    for _ in range(4):
        process = start(out, end)
        wait_for(out / "state.safetensors", process)
        time.sleep(chance.uniform(0.05, 0.6))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert start(out, end).wait() == 0
    assert whole.wait() == 0
    assert kills >= 2, "the runs were too quick to be killed"
    assert end.read_bytes() == (tmp_path / "whole.weights").read_bytes()
    lines = [(tmp_path / name / "log.jsonl").read_text().count('"loss"') for name in ("whole", "killed")]
    assert lines == [150, 150]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_a_signal_ends_it_after_the_step_with_the_state_saved(tmp_path: Path, number: int, status: int) -> None:
    process = start(tmp_path / "run", tmp_path / "weights")
    wait_for(tmp_path / "run" / "log.jsonl", process)
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(30) in {status, 1, 130}
    steps = (tmp_path / "run" / "log.jsonl").read_text().count('"loss"')
    assert 0 < steps < 150
    assert saved_step(tmp_path / "run") == steps


def saved_step(folder: Path) -> int:
    import json

    from safetensors import safe_open

    with safe_open(folder / "state.safetensors", "pt") as file:
        return json.loads(file.metadata()["ivlens"])["step"]


def test_a_finished_run_is_not_run_again(make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path) -> None:
    first, second = make_model(), make_model()
    run = fine_tune(first, prompts, CONFIG, out=tmp_path)
    again = fine_tune(second, prompts, CONFIG, out=tmp_path)
    assert torch.equal(run.values, again.values)
    assert all(
        torch.equal(one, two) for one, two in zip(weights(first).values(), weights(second).values(), strict=True)
    )


@pytest.mark.parametrize("lora", [None, LoRA(2, 4.0), LoRA(2, 4.0, dropout=0.3)], ids=["full", "lora", "dropout"])
def test_a_truncated_state_is_reported_and_the_one_before_it_used(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path, lora: LoRA | None
) -> None:
    config = replace(CONFIG, lora=lora)
    whole, model = make_model(), make_model()
    fine_tune(whole, prompts, config, out=tmp_path)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="trying the state before it"):
        run = fine_tune(model, prompts, config, out=tmp_path)
    assert run.steps == 8
    assert all(torch.equal(one, two) for one, two in zip(weights(whole).values(), weights(model).values(), strict=True))


def test_no_readable_state_is_an_error_and_nothing_is_overwritten(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    fine_tune(make_model(), prompts, CONFIG, out=tmp_path)
    for name in ("state.safetensors", "state.previous.safetensors"):
        (tmp_path / name).write_bytes(b"junk")
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(ivlens.RecordError, match="move them away"):
        fine_tune(make_model(), prompts, CONFIG, out=tmp_path)
    assert (tmp_path / "state.safetensors").read_bytes() == b"junk"


def test_a_full_disk_is_reported_and_training_goes_on(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves, honest = [], tensor_files.save_file

    def full(tensors: Any, path: Any, **options: Any) -> None:
        saves.append(path)
        if len(saves) > 2:
            Path(path).write_bytes(b"half a sta")
            raise OSError(28, "No space left on device")
        honest(tensors, path, **options)

    monkeypatch.setattr(tensor_files, "save_file", full)
    model = make_model()
    with pytest.warns(UserWarning, match="No space left"):
        run = fine_tune(model, prompts, CONFIG, out=tmp_path)
    assert run.steps == 8
    assert saved_step(tmp_path) == 4
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "log.jsonl",
        "state.safetensors",
        "state.previous.safetensors",
    }
    monkeypatch.setattr(tensor_files, "save_file", honest)
    again = make_model()
    fine_tune(again, prompts, CONFIG, out=tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(weights(model).values(), weights(again).values(), strict=True))


def test_facts_have_what_acts_on_lora_and_runs_from_before_its_weight_are_found_or_refused() -> None:
    """In full training nothing changed since; with LoRA the weight was whole."""
    config = replace(CONFIG, guidance=Guidance((L2ToBase(30.0),)))
    assert config.facts["guidance"] == {"L2ToBase": {"weight": 30.0}}
    assert replace(config, lora=LoRA(2)).facts["guidance"] == {"L2ToBase": {"weight": 3.0, "lora": 1.0}}


def test_a_run_of_other_settings_is_refused_with_what_differs(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    fine_tune(make_model(), prompts, CONFIG, out=tmp_path)
    with pytest.raises(ivlens.MismatchError, match=r"training\.learning_rate 0\.003 against 0\.001"):
        fine_tune(make_model(), prompts, replace(CONFIG, learning_rate=1e-3), out=tmp_path)
    with pytest.raises(ivlens.MismatchError, match="; got prompts "):
        fine_tune(make_model(), prompts[:-1], CONFIG, out=tmp_path)
    with pytest.raises(ivlens.MismatchError, match=r"training\.guidance\.L2ToBase\.weight None against 1\.0"):
        fine_tune(make_model(), prompts, replace(CONFIG, guidance=Guidance((L2ToBase(1.0),))), out=tmp_path)
    trained = make_model()
    fine_tune(trained, prompts, CONFIG)
    with pytest.raises(ivlens.MismatchError, match="weights_sha256"):
        fine_tune(trained, prompts, CONFIG, out=tmp_path)
    fine_tune(
        make_model(), prompts, replace(CONFIG, evaluate_every=1, save_every=1), out=tmp_path
    )  # these change no weight


def test_a_folder_that_cannot_be_written(make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ivlens.RecordError, match="choose a folder"):
        fine_tune(make_model(), prompts, CONFIG, out=tmp_path / "file" / "run")


def test_signal_handlers_are_put_back(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    fine_tune(make_model(), prompts, CONFIG)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_while_the_end_is_measured_is_not_lost(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals, raised: type[BaseException],
) -> None:  # fmt: skip
    """Else a loop over runs would go on with the next one; this run is finished, and found again."""
    steps = []

    def interrupted(model: Any, ability: Any, **options: Any) -> dict[str, Any]:
        steps.append(len(steps))
        if len(steps) == 2:  # before the first step, and after the last
            os.kill(os.getpid(), number)
        return measured(model, ability, **options)

    measured = monitor.measure
    monkeypatch.setattr(monitor, "measure", interrupted)
    old, config = [monitor.Ability("old", tuple(prompts))], replace(CONFIG, evaluate_every=CONFIG.steps)
    with pytest.raises(raised):
        fine_tune(make_model(), prompts, config, keep=old, out=tmp_path)
    assert fine_tune(make_model(), prompts, config, keep=old, out=tmp_path).steps == CONFIG.steps
    assert len(steps) == 2


def test_a_signal_in_a_step_that_stops_the_run_is_not_lost(
    make_model: Callable[[], Any], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return logits.sum(-1) * torch.nan

    monkeypatch.setattr("ivlens.training.terms.cross_entropy", diverging)
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="training stopped at step 0"):
        fine_tune(make_model(), prompts, CONFIG)


def test_a_damaged_log_is_reported_and_put_back_from_the_state(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    whole = fine_tune(make_model(), prompts, CONFIG, out=tmp_path)
    log = tmp_path / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], lines[2][:9], *lines[3:]]) + "\n")
    with pytest.warns(UserWarning, match=r"log\.jsonl is damaged; it is put back from the state"):
        again = fine_tune(make_model(), prompts, CONFIG, out=tmp_path)
    assert torch.equal(again.values, whole.values)
    assert log.read_text().splitlines() == lines


def test_a_kill_between_the_renames_loses_nothing(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    whole = make_model()
    fine_tune(whole, prompts, CONFIG, out=tmp_path)
    (tmp_path / "state.safetensors").rename(tmp_path / "state.new.safetensors")
    (tmp_path / "state.previous.safetensors").write_bytes(b"junk")
    (tmp_path / ".state.new.safetensors.killed").write_bytes(b"half")
    model = make_model()
    fine_tune(model, prompts, CONFIG, out=tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(weights(whole).values(), weights(model).values(), strict=True))
    assert not (tmp_path / ".state.new.safetensors.killed").exists()


def test_a_broken_state_never_takes_the_place_of_a_whole_one(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine_tune(make_model(), prompts, CONFIG, out=tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"junk")
    previous = (tmp_path / "state.previous.safetensors").read_bytes()
    honest = os.replace

    def killed(source: Any, target: Any) -> None:
        if str(target).endswith("previous.safetensors"):
            pytest.fail("the broken state was moved over the whole one")
        honest(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.warns(UserWarning, match="cannot be read"):
        fine_tune(make_model(), prompts, CONFIG, out=tmp_path)
    assert (tmp_path / "state.previous.safetensors").read_bytes() == previous
