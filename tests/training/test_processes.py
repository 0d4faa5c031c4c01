"""Data-parallel training in two processes, as torchrun and accelerate start them, against the same run in one."""

import json
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
from tiny_models import WORDS

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
with open(f"process-{{joined.rank}}-of-{{joined.count}}", "w") as file:
    file.write(str(joined.count))
for case in sys.argv[1:]:
    kind, guidance, *lora = case.split("-")
    out = f"{{case}}-{{joined.count}}"
    model = iv.load_model({base!r}, dtype=torch.float64)
    if kind == "sequence":
        iv.continual(model, tasks[:2], config(guidance), keep=tasks[2:], out=out)
        continue
    prompts = tasks[0].prompts(shots=0, split="train")
    others = tasks[1].prompts(shots=0)
    ability = iv.Ability.of(tasks[1], n=4, shots=1)
    settings, vector = training(guidance, *map(float, lora)), None
    if "vector" in settings.guidance.needs:
        vector = iv.instruction_vector(model, iv.mean_head_activations(model, others), [(0, 1), (1, 0)])
    run = iv.fine_tune(model, prompts, settings, vector=vector, rehearse=others, replay=others, keep=[ability], out=out)
    if joined.is_first:
        run.save(out + "/run.safetensors", overwrite=True)
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


# the last number: LoRA's dropout
STEPS = ("steps-plain", "steps-rehearsal-0.0", "steps-rehearsal-0.3", "steps-ewc", "steps-fv", "steps-guided")
SEQUENCE = "sequence-l2"


def launch(folder: Path, base: Path, n_processes: int, *cases: str) -> None:
    """Run the script's cases in so many processes; each leaves a folder of its name and that number."""
    (folder / "parallel_tasks.py").write_text(TASKS)
    script = folder / "script.py"
    script.write_text(SCRIPT.format(path=[str(folder), *PATH], base=str(base)))
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    command = [sys.executable, *(several if n_processes > 1 else []), str(script), *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    files = [folder / f"process-{index}-of-{n_processes}" for index in range(n_processes)]
    assert [file.read_text() for file in files] == [str(n_processes)] * n_processes


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all cases ran in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    for n_processes in (1, 2):
        launch(folder, base, n_processes, *STEPS, SEQUENCE)
    return folder


@pytest.mark.parametrize("case", STEPS)
def test_two_processes_take_the_steps_of_one(folder: Path, case: str) -> None:
    one, two = (folder / f"{case}-{n}" for n in (1, 2))
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


def test_a_sequence_in_two_processes(folder: Path, base: Path) -> None:
    one, two = (folder / f"{SEQUENCE}-{n}" / "continual.safetensors" for n in (1, 2))
    alone, together = (iv.ContinualRun.load(file) for file in (one, two))
    assert len(together.measured) == len(alone.measured) == 9
    for row, other in zip(alone.measured, together.measured, strict=True):
        assert other["probabilities"] == pytest.approx(row["probabilities"], rel=1e-6)
    left = two.parent / "1-shift-1" / "state.safetensors"  # as by a kill right after the weights were kept
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"")
    launch(folder, base, 2, SEQUENCE)
    assert iv.ContinualRun.load(two).measured == together.measured
    assert not left.exists()


def test_the_command_line_in_two_processes_that_accelerate_starts(base: Path, tmp_path: Path) -> None:
    for by in (1, 2, 3):
        pairs = list(zip(WORDS, WORDS[by:] + WORDS[:by], strict=True))
        task = {"instructions": ["the quick fox jumps"], "examples": [{"input": a, "output": b} for a, b in pairs]}
        (tmp_path / f"shift-{by}.json").write_text(json.dumps(task))
    tasks = ("--sequence", "shift-1.json", "shift-2.json", "--keep", "shift-3.json")
    steps = ("--guidance", "l2", "--steps", "3", "--warmup", "1", "--batch-size", "5", "--learning-rate", "3e-3")
    few = ("--n-test", "4", "--keep-shots", "1", "--k", "3", "--n-clean", "4", "--n-corrupted", "2")
    words = ("-m", "ivlens", "continual", str(base), *tasks, *steps, *few)
    several = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
               "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip
    for out, before in (("one", ()), ("two", several)):
        command = [sys.executable, *before, *words, "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (iv.ContinualRun.load(tmp_path / out / "continual.safetensors") for out in ("one", "two"))
    for row, other in zip(one.measured, two.measured, strict=True):
        assert other["probabilities"] == pytest.approx(row["probabilities"], rel=1e-3)
    assert any(row["probabilities"] != one.measured[0]["probabilities"] for row in one.measured)
    assert (tmp_path / "two" / "model" / "model.safetensors").exists()


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert joined_processes() == ALONE
    assert ALONE.sum_values(["a"], {"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 2.0}
    assert ALONE.largest(15) == 15
