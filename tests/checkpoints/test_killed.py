"""A comparison that is killed in the middle: what was finished is there, and the end is the same."""

import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import ivlens
from ivlens.records import CheckpointComparison

RUN = """
import sys
import ivlens
from ivlens.checkpoints import ComparisonConfig, compare_checkpoints

words = "the capital of France is Paris and quick brown fox jumps over lazy dog".split()
tasks = [
    ivlens.Task(f"shift-{by}", tuple((word, words[(at + by) % 14]) for at, word in enumerate(words)),
                ("the quick fox jumps",), ("Q", "A"), "{input} before")
    for by in (1, 2, 3)
]
config = ComparisonConfig(clean=6, groups=3, corrupted=2, heads=4, shots=1, test=4, validation=2, layers=(0,),
                          scales=(1.0,), random_seeds=(0,))
base, one, two, out, end = sys.argv[1:]
print("ready", flush=True)
found = compare_checkpoints(base, {"one": one, "two": two}, tasks, config, out=out,
                            say=lambda line: print(line, flush=True))
found.save(end)
"""


def folder(made: Any, tokenizer: Any, path: Path) -> str:
    made.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_killed_at_random_moments_it_loses_at_most_the_cell_in_work(
    tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    base = folder(tiny_hf("llama"), tokenizer, tmp_path / "base")
    checkpoints = []
    for name, factor in (("one", 2.0), ("two", 0.5)):
        model = ivlens.load_model(base)
        with torch.no_grad():
            model.blocks[0].attn.W_O.mul_(factor)
        checkpoints.append(str(ivlens.export_hf(model, tmp_path / name)))

    def start(out: str, end: str) -> subprocess.Popen:
        arguments = [base, *checkpoints, str(tmp_path / out), str(tmp_path / end)]
        return subprocess.Popen([sys.executable, "-c", RUN, *arguments], stdout=subprocess.PIPE, text=True)

    process = start("whole", "whole.end")
    whole = process.communicate()[0].split("\n")[1:-1]
    assert process.returncode == 0
    assert len(whole) == len(set(whole)) > 40
    chance, computed, kills = random.Random(time.time_ns()), [], 0  # other moments at each run of this test
    for _ in range(3):
        process = start("killed", "killed.end")
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line.strip())
            if len(said) == 1 + chance.randint(2, 12):
                break
        time.sleep(chance.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split("\n")[:-1]
        kills += process.returncode == -signal.SIGKILL
        computed.append([*said, *rest][1:])
    process = start("killed", "killed.end")
    computed.append(process.communicate()[0].split("\n")[1:-1])
    assert kills == 3
    everything = [line for lines in computed for line in lines]
    assert set(everything) == set(whole)
    assert len(everything) <= len(whole) + kills  # each time at most the cell in work was lost
    for before, after in pairwise(computed):
        assert not set(before[:-1]) & set(after)
    one, two = (CheckpointComparison.load(tmp_path / f"{name}.end") for name in ("whole", "killed"))
    assert one.to_frame().equals(two.to_frame())
