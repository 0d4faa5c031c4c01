"""Folders of whole training runs: found, ordered by step, named, with the run's tokenizer, and compared."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

import ivlens as iv
from ivlens.checkpoints.run_folders import NamedSource, checkpoints_of_run, with_runs
from ivlens.checkpoints.sources import name_sources
from ivlens.errors import SourceWarning

TINY = iv.CheckpointConfig(
    n_clean=2, groups=2, n_corrupted=1, k=1, shots=1, n_test=2, n_validation=1, layers=(0,), general=False
)


@pytest.fixture
def base(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Path:
    tiny_hf("llama", num_hidden_layers=1).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def train(model: Any, out: Path) -> Trainer:
    """Steps of transformers' own Trainer, ten of them, saved after half of them and at the end."""
    rows = [{"input_ids": [number, 5, 6, 7], "labels": [number, 5, 6, 7]} for number in range(4, 14)]
    arguments = TrainingArguments(
        str(out), max_steps=10, save_steps=5, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[],
        use_cpu=True, disable_tqdm=True, save_only_model=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows)  # type: ignore[arg-type]
    trainer.train()
    trainer.save_model()
    return trainer


def test_a_run_of_the_trainer_is_compared_step_by_step(
    base: Path, tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    run, words = tmp_path / "run", ["the", "capital", "of", "France", "is", "Paris", "and", "quick", "brown", "fox"]
    task = iv.Task("next-word", list(pairwise(words)), ("the quick fox jumps",))
    train(tiny_hf("llama", num_hidden_layers=1), run)
    assert [*checkpoints_of_run(run)] == [5, 10]
    assert with_runs([run]) == [  # what the run's folder holds is its last checkpoint again
        NamedSource("run-5", run / "checkpoint-5"), NamedSource("run-10", run / "checkpoint-10"),
    ]  # fmt: skip
    with pytest.warns(SourceWarning, match=r"run-5 has no tokenizer of its own; it is given the base's"):
        found = iv.compare_checkpoints(base, [run], [task], TINY, learned=[task.name])
    assert found.checkpoints == ("base", "run-5", "run-10")
    assert found.learned == (task.name, task.name)
    assert not found.failures
    change = found.weights.nanmean((1, 2, 3))
    assert 0 == change[0] < change[1] < change[2]


def test_adapters_of_a_run_get_its_tokenizer(base: Path, tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny_hf("llama", num_hidden_layers=1), peft.LoraConfig(target_modules=["q_proj"]))
    run = tmp_path / "run"
    train(adapted, run)
    tiny_tokenizer().save_pretrained(run)
    first, last = name_sources(with_runs({"lora": run}), base)
    assert (first.name, last.name) == ("lora-5", "lora-10")
    assert (first.source, first.adapter, first.tokenizer) == (base, run / "checkpoint-5", run)
    with pytest.warns(SourceWarning, match=r"lora-5 has no tokenizer of its own; it is given its run's"):
        assert first.options({}) == {"tokenizer": run}


def test_other_weights_in_the_run_itself_come_last(base: Path, tmp_path: Path, tiny_hf: Any) -> None:
    run = tmp_path / "run"
    for step in (100, 20):
        tiny_hf("llama", seed=step, num_hidden_layers=1).save_pretrained(run / f"checkpoint-{step}")
    (run / "checkpoint-300").mkdir()  # without a model, as after an interrupt
    (run / "checkpoint-old").mkdir()
    assert [each.name for each in with_runs([run, base])] == ["run-20", "run-100", None]
    tiny_hf("llama", seed=1, num_hidden_layers=1).save_pretrained(run)
    assert [(each.name, each.source) for each in with_runs([run])][-1] == ("run", run)
    assert [each.number for each in with_runs([base, run])] == [0, 1, 1, 1]


@pytest.mark.parametrize("source", ["", "no-such-folder", "smollm2", torch.nn.Linear(1, 1)])
def test_what_is_no_run_is_as_it_was(source: Any) -> None:
    assert with_runs([source]) == [NamedSource(None, source)]
