"""Memory that a sweep takes beyond the weights, at its peak, beside what a plain forward pass takes.

``python -m figures.benchmark.memory`` measures in its own process and prints JSON; ``extra_memory()`` has it run. The
kernel's peak of resident memory (VmHWM) is reset before each run, which Linux alone can do.
"""

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ivlens as iv

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# glibc gives every larger block back when it is freed: else memory that loading left behind would hide the sweep's.
M_MMAP_THRESHOLD, LARGE = -3, 2**16


def extra_memory() -> dict[str, float] | None:
    """Peak memory of each run beyond what was held before, as a fraction of the weights; None where not measurable."""
    if not RESET.exists():
        return None
    ran = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def resident(name: str) -> int:
    """Bytes of resident memory now (VmRSS) or at the most (VmHWM)."""
    return int(STATUS.read_text().split(f"{name}:")[1].split()[0]) * 1024


def extra(run: Callable[[], Any]) -> int:
    """Bytes that ``run`` takes at its peak beyond what is held before it."""
    run()  # what is taken once and kept, like thread pools
    RESET.write_text("5")
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def give_back_at_once() -> None:
    """Have the C library give large blocks back to the system when they are freed."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def main() -> None:
    give_back_at_once()
    model, task = iv.load_model("smollm2"), iv.load_task("present-past")
    means = iv.mean_head_activations(model, task.prompts(4, split="train"))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    few = task.prompts(4, shots=5, corruption="shuffled-labels", split="test")
    long = task.prompts(1, shots=40, corruption="shuffled-labels", split="test")

    @torch.inference_mode()
    def forward(prompt: iv.Prompt) -> None:
        model(torch.tensor([prompt.token_ids(model.tokenizer)]))

    runs: dict[str, Callable[[], Any]] = {
        "one forward pass, 51 tokens": lambda: forward(few[0]),
        "sweep, 51 tokens": lambda: iv.indirect_effects(model, few[:1], means),
        "sweep of four prompts, 51 tokens": lambda: iv.indirect_effects(model, few, means),
        "one forward pass, 367 tokens": lambda: forward(long[0]),
        "sweep, 367 tokens": lambda: iv.indirect_effects(model, long, means),
    }
    print(json.dumps({name: round(extra(run) / weights, 3) for name, run in runs.items()}))


if __name__ == "__main__":
    main()
