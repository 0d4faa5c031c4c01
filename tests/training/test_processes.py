"""Data-parallel training in two processes, as torchrun starts them, against the same run in one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ivlens as iv
from ivlens.tensor_files import load_tensors
from ivlens.training.processes import ALONE, joined_processes

pytestmark = pytest.mark.slow
PATH = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
SCRIPT = """
import sys
sys.path[:0] = {path}
import torch
import ivlens as iv
from ivlens.training.processes import joined_processes
from parallel_tasks import config, tasks, training

joined = joined_processes()
with open({out!r} + f"-process-{{joined.rank}}", "w") as file:
    file.write(str(joined.count))
model = iv.load_model({base!r}, dtype=torch.float64)
if {kind!r} == "continual":
    iv.continual(model, tasks[:2], config({guidance!r}), keep=tasks[2:], out={out!r})
else:
    prompts = tasks[0].prompts(shots=0, split="train")
    others = tasks[1].prompts(shots=0)
    ability = iv.Ability.of(tasks[1], n=4, shots=1)
    config = training({guidance!r}, lora={lora!r})
    run = iv.fine_tune(model, prompts, config, rehearse=others, replay=others, keep=[ability], out={out!r})
    if joined.is_first:
        run.save({out!r} + "/run.safetensors", overwrite=True)
"""
TASKS = """
import ivlens as iv

WORDS = ["the", "capital", "of", "France", "is", "Paris", "and", "quick", "brown", "fox", "jumps", "over", "lazy"]
tasks = [
    iv.Task(f"shift-{by}", list(zip(WORDS, WORDS[by:] + WORDS[:by])), ("the quick fox jumps",), ("Q", "A"))
    for by in (1, 2, 3)
]


def training(guidance, lora=None):
    return iv.TrainingConfig(
        iv.Guidance.preset(guidance), steps=4, warmup=1, batch_size=5, learning_rate=3e-3, save_every=2,
        lora=None if lora is None else iv.LoRA(rank=2, dropout=lora),
    )


def config(guidance):
    return iv.ContinualConfig(training(guidance), n_test=4, k=3, n_clean=4, n_corrupted=2, keep_shots=1)
"""


@pytest.fixture(scope="module")
def base(tiny_hf: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_hf("llama", max_position_embeddings=256).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def ran(base: Path, folder: Path, n_processes: int, kind: str, guidance: str, lora: float | None = None) -> Path:
    """The folder of the run that the script makes in so many processes."""
    out = folder / f"{kind}-{n_processes}"
    (folder / "parallel_tasks.py").write_text(TASKS)
    script = folder / f"{kind}-{n_processes}.py"
    path = [str(folder), *PATH]
    script.write_text(SCRIPT.format(path=path, base=str(base), kind=kind, guidance=guidance, out=str(out), lora=lora))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    launched = [*launch, str(script)] if n_processes > 1 else [sys.executable, str(script)]
    done = subprocess.run(launched, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    files = [Path(f"{out}-process-{index}") for index in range(n_processes)]
    assert [file.read_text() for file in files] == [str(n_processes)] * n_processes
    for file in files:
        file.unlink()  # the same run may be asked for again
    return out


@pytest.mark.parametrize(("guidance", "lora"), [("plain", None), ("rehearsal", 0.0), ("rehearsal", 0.3), ("ewc", None)])
def test_two_processes_take_the_steps_of_one(base: Path, tmp_path: Path, guidance: str, lora: float | None) -> None:
    one, two = (ran(base, tmp_path, n, "train", guidance, lora) for n in (1, 2))
    alone, together = (iv.TrainingRun.load(out / "run.safetensors") for out in (one, two))
    shown = [name for name in alone.columns if name != "seconds"]
    assert together.columns == alone.columns
    for name in shown:
        assert together.to_frame()[name].tolist() == pytest.approx(alone.to_frame()[name].tolist(), rel=1e-9)
    pd.testing.assert_frame_equal(together.abilities(), alone.abilities(), rtol=1e-9)
    states = [load_tensors(out / "state.safetensors")[0] for out in (one, two)]
    for name, weight in states[0].items():
        if name.startswith("weights."):
            torch.testing.assert_close(states[1][name], weight, rtol=1e-7, atol=1e-9)


def test_a_sequence_in_two_processes(base: Path, tmp_path: Path) -> None:
    one, two = (ran(base, tmp_path, n, "continual", "l2") for n in (1, 2))
    alone, together = (iv.ContinualRun.load(out / "continual.safetensors") for out in (one, two))
    assert len(together.measured) == len(alone.measured) == 9
    for row, other in zip(alone.measured, together.measured, strict=True):
        assert other["probabilities"] == pytest.approx(row["probabilities"], rel=1e-6)
    again = iv.ContinualRun.load(ran(base, tmp_path, 2, "continual", "l2") / "continual.safetensors")
    assert again.measured == together.measured


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert joined_processes() == ALONE
    assert ALONE.sum_values(["a"], {"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 2.0}
    assert ALONE.largest(15) == 15
