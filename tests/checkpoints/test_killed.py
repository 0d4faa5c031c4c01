"""A comparison that is killed in the middle: what was finished is there, and the end is the same."""

import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from ivlens.records import CheckpointComparison

pytestmark = pytest.mark.slow

RUN = """
import logging
import sys
import ivlens
from ivlens.checkpoints import CheckpointConfig, compare_checkpoints

words = "the capital of France is Paris and quick brown fox jumps over lazy dog".split()
tasks = [
    ivlens.Task(f"shift-{by}", tuple((word, words[(at + by) % 14]) for at, word in enumerate(words)),
                ("the quick fox jumps",), ("Q", "A"), "{input} before")
    for by in (1, 2, 3)
]
config = CheckpointConfig(n_clean=6, groups=3, n_corrupted=2, k=4, shots=1, n_test=4, n_validation=2, layers=(0,),
                          scales=(1.0,), random_seeds=(0,), general=False)
base, one, two, out, end = sys.argv[1:]


class Wait(logging.Handler):  # at each measure for a word from the one who may kill it
    def emit(self, record):
        if record.name != "ivlens":  # what is loaded for it
            return
        print(record.getMessage(), flush=True)
        sys.stdin.readline()


logging.getLogger("ivlens").addHandler(Wait())
logging.getLogger("ivlens").setLevel(logging.INFO)
found = compare_checkpoints(base, {"one": one, "two": two}, tasks, config, out=out)
found.save(end)
"""


def folder(made: Any, tokenizer: Any, path: Path) -> str:
    made.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_killed_at_random_moments_it_loses_at_most_the_measure_in_work(
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
        return subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def finish(process: subprocess.Popen) -> list[str]:
        said = process.communicate("\n" * 200)[0].split("\n")[:-1]
        assert process.returncode == 0
        return said

    whole = finish(start("whole", "whole.end"))
    assert len(whole) == len(set(whole)) > 40
    chance, computed = random.Random(time.time_ns()), []  # other moments at each run of this test
    for _ in range(2):
        process = start("killed", "killed.end")
        assert process.stdout is not None
        assert process.stdin is not None
        said: list[str] = []
        for _ in range(chance.randint(2, 12)):
            said.append(process.stdout.readline().strip())
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        computed.append([*said, *process.communicate()[0].split("\n")[:-1]])
        assert process.returncode == -signal.SIGKILL
    computed.append(finish(start("killed", "killed.end")))
    everything = [line for lines in computed for line in lines]
    assert set(everything) == set(whole)
    assert len(everything) <= len(whole) + 2  # each time at most the measure in work was lost
    for before, after in pairwise(computed):
        assert not set(before[:-1]) & set(after)
    one, two = (CheckpointComparison.load(tmp_path / f"{name}.end") for name in ("whole", "killed"))
    assert one.to_frame().equals(two.to_frame())
