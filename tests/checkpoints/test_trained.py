"""A checkpoint with another task trained on top: the first task is forgotten, and the comparison says so."""

from pathlib import Path
from typing import Any

import pytest

import ivlens
from ivlens import Task
from ivlens.checkpoints import CheckpointConfig, compare_checkpoints
from tiny_models import WORDS

pytestmark = pytest.mark.slow

CONFIG = CheckpointConfig(
    n_clean=4, groups=2, n_corrupted=2, k=3, shots=0, n_test=40, n_validation=2, layers=(1,), scales=(1.0,),
    random_seeds=(0,), general=False,
)  # fmt: skip


def shifted(by: int, instruction: str) -> Task:
    """The word so many places on from the first of two."""
    pairs = tuple(
        (f"{word} {more}", WORDS[(at + by) % len(WORDS)]) for at, word in enumerate(WORDS) for more in WORDS[:6]
    )
    return Task(f"shift-{by}", pairs, (instruction,), ("Q", "A"), "{input} before")


def taught(model: Any, task: Task) -> Any:
    """All splits are learned: what is asked of the checkpoints is what they were taught."""
    prompts = [prompt for split in ("train", "validation", "test") for prompt in task.prompts(shots=0, split=split)]
    ivlens.fine_tune(
        model, prompts, ivlens.TrainingConfig(ivlens.Guidance(), steps=120, batch_size=24, learning_rate=1e-2, warmup=5)
    )
    return model


def test_another_task_on_top_is_forgetting_and_plasticity(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    first, second = shifted(1, "the quick fox jumps"), shifted(5, "over the lazy dog")
    tiny_hf("llama").save_pretrained(tmp_path / "blank")
    tiny_tokenizer().save_pretrained(tmp_path / "blank")
    model = taught(ivlens.load_model(tmp_path / "blank"), first)
    base = ivlens.export_hf(model, tmp_path / "base")
    again = ivlens.export_hf(taught(model, first), tmp_path / "again")
    on_top = ivlens.export_hf(taught(model, second), tmp_path / "on-top")
    comparison = compare_checkpoints(base, {"again": again, "on top": on_top}, [first, second], CONFIG,
                                     learned=["shift-1", "shift-5"])  # fmt: skip
    matrix, frame = comparison.matrix(), comparison.to_frame().set_index(["checkpoint", "task"])
    for name in ("base", "again"):
        assert matrix.loc[name, "shift-1"] > 0.9
        assert matrix.loc[name, "shift-5"] < 0.2
    assert matrix.loc["on top", "shift-5"] > 0.9
    lost = frame.loc[("on top", "shift-1")]
    assert lost["forgetting"] == matrix.loc["base", "shift-1"] - matrix.loc["on top", "shift-1"] > 0.3
    assert lost["verdict"] != "kept"
    assert lost["forgetting_low"] > 0
    assert frame.loc[("again", "shift-1"), "verdict"] == "kept"
    assert frame.loc[("on top", "shift-5"), "verdict"] == "not an ability of the base"
    assert lost["cosine"] < frame.loc[("again", "shift-1"), "cosine"]
    assert comparison.weights[2].mean() > 0
    sequence = comparison.sequence().set_index("task")
    assert sequence.loc["shift-5", "plasticity"] > 0.7
    after = matrix.loc["on top", "shift-1"] - matrix.loc["again", "shift-1"]
    assert sequence.loc["shift-1", "backward_transfer"] == pytest.approx(after)
    best = matrix["shift-1"].iloc[:-1].max()
    assert sequence.loc["shift-1", "fall_from_best"] == pytest.approx(best - matrix["shift-1"].iloc[-1])
