"""What is ended from outside: a run's workers and the copy of the weights go soon after, an export is old or new."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]
RUN = """
import os
import sys
import time
from pathlib import Path
import ivlens
from ivlens.models import map_with_model


def work(model, piece):
    Path(sys.argv[2], f"{os.getpid()}.pid").touch()
    time.sleep(60)


if __name__ == "__main__":
    model = ivlens.load_model(sys.argv[1])
    map_with_model(model, work, range(40), 2, [""] * 40)
"""


@pytest.fixture
def run(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> subprocess.Popen:
    """A run with two workers, both at work."""
    tiny_hf("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "temporary").mkdir()

    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "model"), str(tmp_path)], env=environment
    )
    assert soon(lambda: len(workers(tmp_path)) == 2, 120)
    time.sleep(random.Random(time.time_ns()).uniform(0, 0.3))
    return process


def workers(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.pid")]


def alive(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def copies(folder: Path) -> list[Path]:
    return list((folder / "temporary").glob("ivlens-*"))


def soon(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_workers_and_the_copy_of_the_weights_end_with_the_run(run: Any, tmp_path: Path, sent: signal.Signals) -> None:
    assert len(copies(tmp_path)) == 1
    run.send_signal(sent)
    assert run.wait(15) == (128 + sent if sent == signal.SIGTERM else -sent)
    assert soon(lambda: not any(map(alive, workers(tmp_path))))
    assert soon(lambda: not copies(tmp_path))


EXPORT = """
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
import torch
from safetensors.torch import load_file
import ivlens

model, folder = ivlens.load_model(sys.argv[1], device="cpu"), Path(sys.argv[2])


@torch.no_grad()
def export(number):
    for weight in (model.embed.W_E, model.unembed.W_U, model.ln_final.w):
        weight.fill_(number)
    ivlens.export_hf(model, folder)


export(0)
for _ in range(12):
    child = os.fork()
    if not child:
        for number in range(1, 10_000):
            export(number)
    time.sleep(random.uniform(0, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    weights = load_file(folder / "model.safetensors")
    assert weights["model.embed_tokens.weight"].unique().tolist() == weights["model.norm.weight"].unique().tolist()
    assert json.loads((folder / "ivlens.json").read_text())["files"] == sorted(path.name for path in folder.iterdir())
export(0)
assert load_file(folder / "model.safetensors")["model.norm.weight"].unique().tolist() == [0]
print([path.name for path in folder.parent.iterdir()])
"""


def test_an_export_that_is_killed_leaves_the_old_one_or_the_new(
    tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    tiny_hf("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    arguments = [sys.executable, "-c", EXPORT, str(tmp_path / "model"), str(tmp_path / "exports" / "new")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "['new']\n"), done.stderr
