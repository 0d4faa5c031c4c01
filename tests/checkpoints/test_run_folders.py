"""Folders of whole training runs: found, ordered by step, named, with the run's tokenizer, and compared."""

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import ivlens as iv
from ivlens.checkpoints.run_folders import NamedSource, checkpoints_of_run, with_runs
from ivlens.checkpoints.sources import CheckpointUnderTest, check_sources, name_sources
from ivlens.errors import SourceError, SourceWarning
from tiny_models import WORDS

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


def as_trl_leaves_it(base: Path, out: Path, tokenizer: Any, lora: bool, new_token: bool) -> None:
    """A run of TRL's SFTTrainer where it is installed, else of transformers' Trainer, which writes the same files."""
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    if new_token:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    saved = {"modules_to_save": ["embed_tokens", "lm_head"]} if new_token else {}
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, **saved) if lora else None
    common: dict[str, Any] = {
        "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": [],
        "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    if importlib.util.find_spec("trl"):
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        rows = Dataset.from_list([{"text": f"the quick {word} fox"} for word in WORDS])
        trainer = SFTTrainer(
            model, SFTConfig(str(out), **common), train_dataset=rows, processing_class=tokenizer, peft_config=config
        )
    else:
        rows = [{"input_ids": [number, 5, 6, 7], "labels": [number, 5, 6, 7]} for number in range(4, 14)]
        trainer = Trainer(
            peft.get_peft_model(model, config) if config else model, TrainingArguments(str(out), **common),
            train_dataset=rows, processing_class=tokenizer,
        )  # fmt: skip
    metrics = trainer.train().metrics
    trainer.save_model()
    trainer.save_metrics("all", metrics)  # all_results.json, as LLaMA-Factory does
    trainer.save_state()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("new_token", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_a_run_of_trl_is_compared_as_it_is(
    base: Path, tmp_path: Path, tiny_tokenizer: Any, lora: bool, new_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    as_trl_leaves_it(base, run, tiny_tokenizer(), lora, new_token)
    assert {"all_results.json", "trainer_state.json", "training_args.bin"} <= {each.name for each in run.iterdir()}
    assert {"trainer_state.json", "training_args.bin"} <= {each.name for each in (run / "checkpoint-2").iterdir()}
    (run / "checkpoint-2" / "tokenizer.json").unlink()
    (run / "checkpoint-2" / "tokenizer_config.json").unlink()
    for pickle in run.rglob("training_args.bin"):
        pickle.write_bytes(b"never read")
    monkeypatch.setattr(torch, "load", None)
    task = iv.Task("next-word", list(pairwise(WORDS)), ("the quick fox jumps",))
    found = iv.compare_checkpoints(base, [run], [task], TINY)
    assert found.checkpoints == ("base", "run-2", "run-4")
    assert not found.failures
    changed = found.weights.nanmean((1, 2, 3))
    assert 0 == changed[0] < changed[1]
    assert changed[2] != changed[1]
    model = load_checkpoint(base, run / "checkpoint-4", lora)
    theirs = AutoModelForCausalLM.from_pretrained(base)
    if new_token:
        theirs.resize_token_embeddings(theirs.config.vocab_size + 1, mean_resizing=False)
    if lora:
        theirs = pytest.importorskip("peft").PeftModel.from_pretrained(theirs, run / "checkpoint-4")
    else:
        theirs = AutoModelForCausalLM.from_pretrained(run / "checkpoint-4")
    tokens = torch.arange(5, 25)[None]
    assert model.cfg.d_vocab == 320 + new_token
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs.eval()(tokens).logits, atol=1e-4, rtol=1e-5)


def load_checkpoint(base: Path, folder: Path, lora: bool) -> Any:
    return iv.load_model(base, adapter=folder) if lora else iv.load_model(folder)


def test_two_adapters_by_name_are_one_checkpoint(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        adapter = tmp_path / name
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    (found,) = name_sources(with_runs(["first+second"]), base)
    assert (found.name, found.source) == ("first+second", base)
    assert found.text == f"{tmp_path / 'first'}+{tmp_path / 'second'}"
    assert found.for_worker() == found
    with pytest.raises(SourceError, match=r"first\+second .*no adapter_model.safetensors there"):
        check_sources([found])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_facts_of_an_adapter_are_those_of_what_is_below_it(base: Path, tmp_path: Path) -> None:
    """The lower adapter changes, while the folder that was named stays as it is."""
    peft = pytest.importorskip("peft")
    below, above = tmp_path / "below", tmp_path / "above"

    def write(folder: Path, seed: int, trained_on: Path) -> None:
        torch.manual_seed(seed)
        config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
        settings = json.loads((folder / "adapter_config.json").read_text())
        text = json.dumps(settings | {"base_model_name_or_path": str(trained_on)})
        (folder / "adapter_config.json").write_text(text)

    def facts() -> str:
        (source,) = name_sources([NamedSource(None, above)], base)
        return CheckpointUnderTest(source, {}, tmp_path / "facts").facts["weights_sha256"]

    write(below, 1, base)
    write(above, 2, below)
    first = facts()
    assert facts() == first
    write(below, 3, base)
    assert facts() != first


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
