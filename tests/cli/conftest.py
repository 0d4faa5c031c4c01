"""What the tests of the command line share: a folder with tiny models, tasks and records, for runs in a second."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ivlens import InstructionVector, Stability
from ivlens.vocabulary import Head

PAIRS = [(f"w{at}", ("quick", "brown")[at % 2]) for at in range(24)]


def written(path: Path, name: str) -> Path:
    fields = {"name": name, "instructions": ["Say quick or brown."], "examples": PAIRS}
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def task_file() -> Callable[[Path, str], Path]:
    """``task_file(path, name)``: a task file that says its own name."""
    return written


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_hf: Any, tiny_tokenizer: Any) -> Path:
    """``model``, ``other``, ``task.json``, ``old.json``, ``stable.safetensors``, ``foreign.safetensors``."""
    folder = tmp_path_factory.mktemp("workshop")
    for seed, name in enumerate(("model", "other")):
        tiny_hf("llama", seed=seed, max_position_embeddings=512).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    for name in ("task", "old"):
        written(folder / f"{name}.json", name)
    Stability(torch.rand(2, 4), 0.5, 3, 7, 100, "a task").save(folder / "stable.safetensors")
    InstructionVector(torch.ones(32), torch.ones(1, 32), (Head(0, 1),), "task").save(folder / "foreign.safetensors")
    return folder
