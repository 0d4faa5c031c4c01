"""Abilities of a model in training: measured as in its checkpoints by hand, with nothing of the training changed."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import ivlens as iv
from ivlens.checkpoints.gating import Limit
from ivlens.errors import ArgumentError, HookError, MismatchError, PromptError, RecordError, UnsupportedError
from ivlens.integrations import trainer_callback
from ivlens.integrations.watched_run import MEASURES, WatchedRun, mean_losses
from ivlens.stats import wilson_interval
from ivlens.vocabulary import Head
from tiny_models import WORDS

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*"),
]
TASK = iv.Task("next-word", [(word, WORDS[(at + 1) % len(WORDS)]) for at, word in enumerate(WORDS)], ("the fox jumps",))
SMALL: dict[str, Any] = {"every": 2, "n": 4, "k": 3, "shots": 1}
KINDS: dict[str, dict[str, Any]] = {
    "whole": {}, "LoRA": {"lora": True}, "mixed precision": {"bf16": True}, "LoRA in mixed precision":
    {"lora": True, "bf16": True}, "recomputed activations": {"gradient_checkpointing": True},
}  # fmt: skip
LORA = peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], lora_dropout=0.3, init_lora_weights=False)


@pytest.fixture
def train(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Trainer]:
    """``train(*callbacks, name="run", lora=False, resume=None, **arguments)``: six steps of transformers' Trainer."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token

    def trained(*callbacks: Any, name: str = "run", lora: bool = False, resume: Any = None, **options: Any) -> Trainer:
        model = tiny_hf("llama", attention_dropout=0.2)
        if lora:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                model = peft.get_peft_model(model, LORA)
        rows = [{"input_ids": [number, 5, 6, 7], "labels": [number, 5, 6, 7]} for number in range(4, 24)]
        settings = {"max_steps": 6, "save_steps": 2, "logging_steps": 2, "learning_rate": 3e-3} | options
        arguments = TrainingArguments(
            str(tmp_path / name), per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True,
            **settings,
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, train_dataset=rows, callbacks=[*callbacks],  # type: ignore[arg-type]
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return trained


def run_in(trainer: Trainer) -> iv.TrainingRun:
    return iv.TrainingRun.load(Path(str(trainer.args.output_dir)) / "ivlens" / "run.safetensors")


def own_logs(trainer: Trainer) -> list[dict[str, float]]:
    """What the Trainer logged itself, without times."""
    rows = [row for row in trainer.state.log_history if not any(name.startswith("abilities/") for name in row)]
    return [
        {name: value for name, value in row.items() if "runtime" not in name and "_per_" not in name} for row in rows
    ]


# ------------------------------------------------------------------ nothing of the training changes


def snapshot(model: torch.nn.Module) -> list[Any]:
    """What a measure might leave changed, but for the weights."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = [
        (name, type(each), each.training, [len(getattr(each, kind)) for kind in kinds], vars(each).get("forward"))
        for name, each in model.named_modules()
    ]
    weights = [(each.requires_grad, each._version, each.data_ptr()) for each in model.parameters()]
    gradients = [None if each.grad is None else each.grad.clone() for each in model.parameters()]
    seeds = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]
    modes = [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()]
    return [modules, weights, gradients, seeds, modes, model.config.to_dict()]


class Probe(TrainerCallback):
    """Takes a snapshot of the model at each event that abilities are measured in."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self.taken.append(snapshot(parts["model"]))

    on_step_end = on_train_begin


class WithGradients(Probe):
    """The same before the measures, for which it plants gradients."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        for weight in parts["model"].parameters():
            weight.grad = torch.full_like(weight, 0.5) if weight.requires_grad else None
        self.taken.append(snapshot(parts["model"]))

    on_step_end = on_train_begin


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_the_same_bits(train: Any, kind: str) -> None:
    plain = train(name="plain", **KINDS[kind])
    seeds = torch.get_rng_state()
    watched = train(iv.ForgettingCallback(TASK, **SMALL), name="watched", **KINDS[kind])
    assert len(run_in(watched).measured) == 4
    assert torch.equal(torch.get_rng_state(), seeds)
    for one, other in zip(plain.model.state_dict().items(), watched.model.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1]), one[0]
    for one, other in zip(*(each.optimizer.state_dict()["state"].values() for each in (plain, watched)), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert own_logs(plain) == own_logs(watched)


@pytest.mark.parametrize("kind", KINDS)
def test_a_measure_leaves_the_model_as_it_was(train: Any, kind: str) -> None:
    before, after = WithGradients(), Probe()
    train(before, iv.ForgettingCallback(TASK, **SMALL), after, **KINDS[kind])
    assert len(before.taken) == len(after.taken) == 7
    for one, other in zip(before.taken, after.taken, strict=True):
        assert repr(one) == repr(other)


# ------------------------------------------------------------------ the numbers


@torch.no_grad()
def by_hand(model: Any, prompts: list[iv.Prompt], tokenizer: Any, heads: Any) -> tuple[list[bool], list[float], Tensor]:
    """Answers and the vector of heads with transformers alone: correctness, probabilities, [d_model]."""
    correct, probabilities, inputs = [], [], {}
    projections = {name: each for name, each in model.named_modules() if name.endswith("self_attn.o_proj")}
    handles = [
        each.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0][0, at]))
        for name, each in projections.items()
    ]  # fmt: skip
    for prompt in prompts:
        ids, answer = map(list, prompt.encode(tokenizer))
        at = len(ids) - 1
        logits = model(torch.tensor([ids + answer[:-1]])).logits[0, len(ids) - 1 :]
        correct.append(logits.argmax(-1).tolist() == answer)
        probabilities.append(logits.double().softmax(-1)[range(len(answer)), answer].prod().item())
    for handle in handles:
        handle.remove()
    vector = torch.zeros(32)
    for layer, head in heads:
        (name,) = [name for name in projections if f"layers.{layer}." in name]
        only = torch.zeros(32)
        only[head * 8 : head * 8 + 8] = torch.stack(inputs[name]).mean(0)[head * 8 : head * 8 + 8]
        vector += projections[name](only)
    return correct, probabilities, vector


@pytest.mark.parametrize("lora", [False, True])
def test_measures_are_those_of_the_saved_checkpoints(train: Any, tiny_hf: Any, tmp_path: Path, lora: bool) -> None:
    callback = iv.ForgettingCallback(TASK, **SMALL)
    trainer = train(callback, lora=lora, bf16=True)
    ability = callback.run.abilities[0]
    saved = iv.InstructionVector.load(tmp_path / "run/ivlens/vectors/next-word.safetensors")
    assert saved.heads == ability.vector.heads
    tokenizer, vectors = trainer.processing_class, []
    rows = {row["step"]: row for row in run_in(trainer).measured}
    assert [*rows] == [0, 2, 4, 6]
    for step in (2, 4, 6):
        folder = tmp_path / f"run/checkpoint-{step}"
        if lora:
            model = peft.PeftModel.from_pretrained(tiny_hf("llama"), folder).eval()
        else:
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
        correct, probabilities, vector = by_hand(model, [*ability.prompts], tokenizer, saved.heads)
        vectors.append(vector)
        row = rows[step]
        assert [each == "1" for each in row["correct"]] == correct
        assert row["probability"] == pytest.approx(sum(probabilities) / 4, rel=1e-4)
        cosine = torch.cosine_similarity(vector, saved.values, dim=0).item()
        assert row["cosine"] == pytest.approx(cosine, abs=1e-5)
        assert row["norm_ratio"] == pytest.approx((vector.norm() / saved.values.norm()).item(), rel=1e-4)
        assert row["forgetting"] == pytest.approx(rows[0]["accuracy"] - sum(correct) / 4)
    assert rows[0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert rows[6]["cosine"] < 0.9999
    assert run_in(trainer).values.flatten().tolist() == mean_losses(trainer.state.log_history)
    assert run_in(trainer).steps == 6
    iv.views.training_curves(run_in(trainer))


def test_a_vector_and_prompts_of_ones_own_are_used(train: Any, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    base = iv.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), engine="bridge")
    vector = iv.instruction_vector(base, iv.locate_heads(base, TASK, n_clean=4, n_corrupted=4), k=2)
    ability = iv.Ability("mine", tuple(TASK.prompts(3, split="test")), vector)
    trainer = train(iv.ForgettingCallback([ability, TASK], **SMALL | {"k": 0}))
    mine, other = run_in(trainer).measured[-2:]
    assert (mine["ability"], mine["n"], "cosine" in mine, "cosine" in other) == ("mine", 3, True, False)
    assert not (Path(str(trainer.args.output_dir)) / "ivlens/vectors/next-word.safetensors").exists()


def test_losses_stand_for_the_steps_that_they_are_means_of() -> None:
    history = [{"loss": 3.0, "step": 2}, {"abilities/a/accuracy": 1.0, "step": 2}, {"loss": 1.0, "step": 3}]
    assert mean_losses(history) == [3.0, 3.0, 1.0]
    assert mean_losses([]) == []


# ------------------------------------------------------------------ logs


class Sink(TrainerCallback):
    """A tracker of the Trainer's logs."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **parts: Any) -> None:
        self.logs.append((state.global_step, dict(logs)))


def test_measures_reach_what_the_trainer_reports_to(train: Any) -> None:
    sink = Sink()
    trainer = train(sink, iv.ForgettingCallback(TASK, **SMALL))
    found = [(step, logs) for step, logs in sink.logs if "abilities/next-word/accuracy" in logs]
    assert [step for step, _ in found] == [0, 2, 4, 6]
    rows = run_in(trainer).measured
    for (_, logs), row in zip(found, rows, strict=True):
        assert {name: logs[f"abilities/next-word/{name}"] for name in MEASURES} == {
            name: row[name] for name in MEASURES
        }
    assert [step for step, logs in sink.logs if "loss" in logs] == [2, 4, 6]  # whose logs stay due at the same steps


def test_they_are_in_tensorboards_files(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    from transformers.integrations import TensorBoardCallback

    trainer = train(TensorBoardCallback(), iv.ForgettingCallback(TASK, **SMALL))
    events = EventAccumulator(str(next((tmp_path / "board").rglob("events*"))))
    events.Reload()
    scalars = [(each.step, each.value) for each in events.Scalars("train/abilities/next-word/cosine")]
    expected = [(row["step"], pytest.approx(row["cosine"])) for row in run_in(trainer).measured]
    assert scalars == expected


@pytest.mark.slow
def test_they_are_in_an_offline_run_of_wandb(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from transformers.integrations import WandbCallback

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(WandbCallback(), iv.ForgettingCallback(TASK, **SMALL))
    wandb.finish()
    wandb.teardown()  # after which its other process has written everything
    (file,) = tmp_path.rglob("run-*.wandb")
    assert file.read_bytes().count(b"abilities/next-word/cosine") >= 4


# ------------------------------------------------------------------ limits


def test_training_ends_at_the_limit_and_the_last_good_checkpoint_is_known(train: Any, tmp_path: Path) -> None:
    free = train(iv.ForgettingCallback(TASK, **SMALL | {"every": 1}), name="free", save_steps=1)
    cosines = [row["cosine"] for row in run_in(free).measured]
    assert cosines == sorted(cosines, reverse=True)
    limit = f"cosine<{(cosines[3] + cosines[4]) / 2}"
    callback = iv.ForgettingCallback(TASK, **SMALL | {"every": 1}, limits=limit)
    with pytest.warns(UserWarning, match=r"step 4: cosine<0.\d+ of next-word \(0.\d+\); training ends; the last good "):
        trainer = train(callback, save_steps=1)
    assert trainer.state.global_step == 4
    assert run_in(trainer).stopped.startswith("step 4: cosine<")
    assert callback.last_good_checkpoint == tmp_path / "run/checkpoint-3"
    assert callback.last_good_checkpoint.is_dir()
    assert run_in(trainer).provenance["settings"]["last_good_checkpoint"] == "checkpoint-3"


def test_a_limit_on_forgetting_what_the_model_never_could_is_warned_of(train: Any, recwarn: Any) -> None:
    with pytest.warns(
        UserWarning,
        match="answers less than 30% of next-word, or as guesses would: a limit on forgetting",
    ):
        train(iv.ForgettingCallback(TASK, **SMALL, limits="forgetting>0.2"))
    recwarn.clear()
    train(iv.ForgettingCallback(TASK, **SMALL, limits="cosine<-0.9"), name="other")
    assert not [each for each in recwarn if "says nothing" in str(each.message)]


def test_checkpoints_between_measures_are_measured_too_and_training_may_go_on(train: Any, tmp_path: Path) -> None:
    callback = iv.ForgettingCallback(TASK, **SMALL | {"every": 4}, limits=["norm_ratio<0.1", "cosine<-0.9"], stop=False)
    trainer = train(callback, save_steps=3)
    assert [row["step"] for row in run_in(trainer).measured] == [0, 3, 4, 6]
    assert callback.last_good_checkpoint == tmp_path / "run/checkpoint-6"
    never = iv.ForgettingCallback(TASK, **SMALL, limits="norm_ratio>0.1", stop=False)
    with pytest.warns(UserWarning, match="training goes on; no good checkpoint was saved"):
        assert train(never).state.global_step == 6
    assert never.last_good_checkpoint is None


@pytest.mark.parametrize(("n", "exceeded"), [(10, False), (200, True)])
def test_a_limit_is_exceeded_where_the_whole_interval_is_beyond_it(tmp_path: Path, n: int, exceeded: bool) -> None:
    run = WatchedRun(tmp_path, (BARE,), {})
    for step, lost in ((0, 0), (5, 0.4)):
        correct = "0" * round(lost * n) + "1" * (n - round(lost * n))
        run.add(step, [{"ability": "a", "correct": correct, "accuracy": 1 - lost, "low": 0.1, "high": 1.0}])
    assert run.rows[-1]["forgetting"] == pytest.approx(0.4)
    assert bool(run.exceeded([Limit.read("forgetting>0.25", MEASURES)])) == exceeded


@pytest.mark.parametrize("limit", ["cosine<0.8", "norm_ratio>2", "alignment<0.1"])
def test_a_limit_that_could_never_be_exceeded_is_refused_at_once(limit: str) -> None:
    bare = iv.Ability("bare", tuple(TASK.prompts(3, split="test")))
    vector = iv.InstructionVector(torch.ones(4), torch.ones(1, 4), (Head(0, 0),), "next-word")
    for tasks, k, name in ((TASK, 0, "next-word"), (bare, 10, "bare"), ([TASK, bare], 10, "bare")):
        with pytest.raises(ArgumentError, match=f"no vector: {name}; got {limit[:4]}.*with_vector"):
            iv.ForgettingCallback(tasks, k=k, limits=["forgetting>0.2", limit])
        iv.ForgettingCallback(tasks, k=k, limits=["forgetting>0.2", "accuracy<0.1", "probability<0.1"])
    iv.ForgettingCallback([TASK, iv.Ability("own", bare.prompts, vector)], limits=limit)
    iv.ForgettingCallback(iv.Ability("own", bare.prompts, vector), k=0, limits=limit)


BARE = iv.Ability("a", (iv.Prompt("the quick", " fox"),))


def run_of(folder: Path, *bits: str, ability: iv.Ability = BARE, **measures: float) -> WatchedRun:
    """A run whose answers at steps 0, 5, ... are these bits; later steps have the measures, too."""
    run = WatchedRun(folder, (ability,), {})
    for number, correct in enumerate(bits):
        low, high = wilson_interval(correct.count("1"), len(correct))
        row = {"ability": "a", "correct": correct, "accuracy": correct.count("1") / len(correct)}
        run.add(5 * number, [row | {"low": low, "high": high} | (measures if number else {})])
    return run


def test_what_was_guessed_before_training_cannot_be_held_to_a_limit_on_forgetting(tmp_path: Path) -> None:
    choice = iv.Ability("a", (iv.Prompt("the quick", " fox", options=(" dog", " fox")),))
    limits = [Limit.read("forgetting>0.1", MEASURES)]
    for right, within in ((34, False), (50, True)):
        bits = "1" * right + "0" * (60 - right)
        assert run_of(tmp_path, bits, bits, ability=choice).within(limits) == within
        assert run_of(tmp_path, bits, bits).within(limits)
        lost = "0" * 60
        assert bool(run_of(tmp_path, bits, lost, ability=choice).exceeded(limits)) == within
        assert run_of(tmp_path, bits, lost).exceeded(limits)
    later = run_of(tmp_path, "1" * 60, "0" * 60)
    later.rows = [row | {"step": row["step"] + 5} for row in later.rows]  # of a run that was watched from step 5 on
    assert later.exceeded(limits)


@pytest.mark.parametrize(
    ("limit", "bits", "measures", "within"),
    [
        ("forgetting>0.1", ["1" * 60, "1" * 60], {}, True), ("forgetting>0.1", ["1" * 60, "0" * 60], {}, False),
        ("forgetting>0.1", ["0" * 60, "0" * 60], {}, False), ("forgetting>0.1", ["1" * 60], {}, False),
        ("cosine<0.8", ["1" * 60, "1" * 60], {"cosine": 0.9}, True),
        ("cosine<0.8", ["1" * 60, "1" * 60], {"cosine": float("nan")}, False),
        ("cosine<0.8", ["1" * 60, "1" * 60], {}, False),
    ],
)  # fmt: skip
def test_a_run_is_within_limits_that_could_be_judged(
    tmp_path: Path, limit: str, bits: list[str], measures: dict[str, float], within: bool
) -> None:
    assert run_of(tmp_path, *bits, **measures).within([Limit.read(limit, MEASURES)]) == within


def test_a_checkpoint_whose_limits_were_not_judged_is_not_a_good_one(train: Any) -> None:
    watch = iv.ForgettingCallback(TASK, **SMALL | {"k": 0})
    watch.limits = [Limit.read("cosine<0.8", MEASURES)]
    train(watch)
    assert watch.last_good_checkpoint is None


# ------------------------------------------------------------------ runs that go on


def test_a_resumed_run_goes_on_with_its_first_measures(train: Any, tmp_path: Path) -> None:
    whole = train(iv.ForgettingCallback(TASK, **SMALL), name="whole")
    train(iv.ForgettingCallback(TASK, **SMALL), max_steps=6)
    first = run_in(train(iv.ForgettingCallback(TASK, **SMALL), name="other")).measured
    resumed = train(iv.ForgettingCallback(TASK, **SMALL), resume=str(tmp_path / "run/checkpoint-2"))
    rows = run_in(resumed).measured
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert rows[:2] == first[:2]
    assert rows == run_in(whole).measured
    assert run_in(resumed).values.equal(run_in(whole).values)


def test_a_run_is_not_resumed_without_its_first_measures_or_on_other_prompts(train: Any, tmp_path: Path) -> None:
    train(name="unwatched")
    with pytest.raises(RecordError, match="expected the measures before the first step"):
        train(iv.ForgettingCallback(TASK, **SMALL), name="unwatched", resume=str(tmp_path / "unwatched/checkpoint-2"))
    train(iv.ForgettingCallback(TASK, **SMALL))
    for other in ({"n": 3}, {"k": 2}):
        with pytest.raises(MismatchError, match="give the callback the tasks and options that the run began with"):
            train(iv.ForgettingCallback(TASK, **SMALL | other), resume=str(tmp_path / "run/checkpoint-2"))


# ------------------------------------------------------------------ what does not work


class Sharded(TrainerCallback):
    """Makes the Trainer say that it splits the model's weights."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        trainer_callback._trainer().is_fsdp_enabled = True


def test_what_cannot_be_watched_is_refused_before_the_first_step(train: Any) -> None:
    with pytest.raises(UnsupportedError, match="got one that FSDP splits"):
        train(Sharded(), iv.ForgettingCallback(TASK, **SMALL))
    with pytest.raises(ArgumentError, match="abilities of different names"):
        train(iv.ForgettingCallback([TASK, TASK], **SMALL))
    with pytest.raises(HookError, match="got another caller"):
        iv.ForgettingCallback(TASK).on_train_begin(None, None, None, model=None)


def test_options_are_checked_at_once() -> None:
    with pytest.raises(ArgumentError, match=r"accuracy, forgetting, .*did you mean 'forgetting'"):
        iv.ForgettingCallback(TASK, limits="forgeting>0.2")
    with pytest.raises(ArgumentError, match="every to be"):
        iv.ForgettingCallback(TASK, every=0)
    with pytest.raises(ArgumentError, match="tasks"):
        iv.ForgettingCallback([])


def test_a_measure_that_fails_does_not_end_a_training(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = trainer_callback.measure, []

    def failing(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise PromptError("finite logits", "not-a-numbers")
        return measure(*args, **options)

    monkeypatch.setattr(trainer_callback, "measure", failing)
    with pytest.warns(UserWarning, match="abilities at step 2 were not measured: expected finite logits"):
        trainer = train(iv.ForgettingCallback(TASK, **SMALL))
    assert [row["step"] for row in run_in(trainer).measured] == [0, 4, 6]


DATA_PARALLEL = """
import gc, glob, json, torch
import ivlens as iv
from ivlens.integrations import trainer_callback
from tiny_models import WORDS, byte_level_tokenizer, random_model
from transformers import Trainer, TrainingArguments

task = iv.Task("next-word", [(one, WORDS[(at + 1) % len(WORDS)]) for at, one in enumerate(WORDS)], ("the fox jumps",))
tokenizer = byte_level_tokenizer()
tokenizer.pad_token = tokenizer.eos_token
rows = [{"input_ids": [number, 5, 6, 7], "labels": [number, 5, 6, 7]} for number in range(4, 24)]
arguments = TrainingArguments(
    "run", max_steps=6, save_strategy="no", logging_steps=2, per_device_train_batch_size=2, learning_rate=3e-3,
    report_to=[], use_cpu=True, disable_tqdm=True,
)
calls, measure = [], trainer_callback.measure
trainer_callback.measure = lambda *args, **options: calls.append(1) or measure(*args, **options)
callback = iv.ForgettingCallback(task, every=2, n=4, k=3, shots=1, limits="norm_ratio>0.1")
model = random_model("llama")
trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[callback])
trainer.train()
assert arguments.world_size == 2
with open(f"process-{arguments.process_index}.json", "w") as file:  # two processes' prints may mix on one stream
    json.dump({"steps": trainer.state.global_step, "measures": len(calls)}, file)
del trainer  # whose data-parallel model would keep gloo's threads, which may abort the process at its end
gc.collect()
torch.distributed.destroy_process_group()
left = [open(thread).read() for thread in glob.glob("/proc/self/task/*/comm")]
assert not any("gloo" in name for name in left), left
"""


@pytest.mark.slow
def test_of_two_processes_the_first_measures_and_both_stop(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(DATA_PARALLEL)
    paths = os.pathsep.join([str(Path(iv.__file__).parents[1]), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"process-{index}.json").read_text()) for index in (0, 1))
    assert first == {"steps": 2, "measures": 2}
    assert second == {"steps": 2, "measures": 0}
    assert len(iv.TrainingRun.load(tmp_path / "run/ivlens/run.safetensors").measured) == 2


def test_two_callbacks_would_write_one_record(train: Any) -> None:
    with pytest.raises(ArgumentError, match="one ForgettingCallback"):
        train(iv.ForgettingCallback([TASK], **SMALL), iv.ForgettingCallback([TASK], **SMALL))


@pytest.mark.parametrize("limits", [(), "accuracy<-1"])
def test_a_record_that_cannot_be_written_is_a_warning(train: Any, tmp_path: Path, limits: Any) -> None:
    class Blocked(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step == 1:
                path = tmp_path / "run" / "ivlens" / "run.safetensors"
                path.unlink()
                path.mkdir()

    with pytest.warns(UserWarning, match="training goes on"):
        trainer = train(Blocked(), iv.ForgettingCallback([TASK], **SMALL, limits=limits))
    assert trainer.state.global_step == 6
    assert any("abilities/next-word/accuracy" in row for row in trainer.state.log_history if row["step"] == 6)


def test_a_limit_counts_although_the_record_cannot_be_written(train: Any, tmp_path: Path) -> None:
    class Blocked(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step == 3:
                path = tmp_path / "run" / "ivlens" / "run.safetensors"
                path.unlink()
                path.mkdir()
                watch.limits = [Limit.read("cosine<2", MEASURES)]

    watch = iv.ForgettingCallback([TASK], **SMALL)
    with pytest.warns(UserWarning, match="training ends"):
        assert train(Blocked(), watch).state.global_step == 4


def test_a_resumed_run_has_its_own_vectors_or_none(train: Any, tmp_path: Path) -> None:
    def callback(k: int) -> iv.ForgettingCallback:
        return iv.ForgettingCallback([TASK], **SMALL | {"k": k})

    checkpoint = str(tmp_path / "run" / "checkpoint-4")
    train(callback(3))
    (vector,) = (tmp_path / "run" / "ivlens" / "vectors").iterdir()
    kept = vector.read_bytes()
    train(callback(0))  # a run without vectors, in the folder of one with
    assert vector.read_bytes() == kept
    assert "cosine" not in run_in(train(callback(0), max_steps=8, resume=checkpoint)).abilities()
    train(callback(3))
    vector.unlink()
    with pytest.raises(RecordError, match="no such file"):
        train(callback(3), max_steps=8, resume=checkpoint)
