"""Sequences of tasks: what is learned and measured, kept, resumed and refused."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from ivlens.errors import ArgumentError, MismatchError
from ivlens.tasks import Example
from ivlens.training import _continual, sequence_files
from ivlens.training.earlier_adapters import earlier_factors

WORDS = ["the", "capital", "of", "France", "is", "Paris", "and", "quick", "brown", "fox", "jumps", "over", "lazy"]
TRAINING = iv.TrainingConfig(iv.Guidance(), steps=4, warmup=1, batch_size=4, learning_rate=3e-3, save_every=2)
CONFIG = iv.ContinualConfig(TRAINING, n_test=4, k=3, n_clean=4, n_corrupted=2, keep_shots=1, context_shots=1)


def shifted(by: int, cloze: str | None = None) -> iv.Task:
    """A task that asks for the word so many words on."""
    pairs = list(zip(WORDS, WORDS[by:] + WORDS[:by], strict=True))
    return iv.Task(f"shift-{by}", pairs, ("the quick fox jumps",), ("Q", "A"), cloze)


NEW, OLD, GENERAL = [shifted(1), shifted(2)], [shifted(3, "{input} before")], [shifted(4)]


def learned(model: Any, config: iv.ContinualConfig = CONFIG, **options: Any) -> tuple[iv.ContinualRun, dict[str, Any]]:
    """The run, and the weights at its end."""
    run = iv.continual(model, NEW, config, keep=OLD, general=GENERAL, **options)
    return run, {name: each.detach().clone() for name, each in model.named_parameters()}


def same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return one[0].measured == other[0].measured and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.fixture(scope="module")
def make(tiny_hooked: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: tiny_hooked("llama", max_position_embeddings=256)


@pytest.fixture(scope="module")
def whole(make: Callable[[], Any]) -> tuple[iv.ContinualRun, dict[str, Any]]:
    """The run without an interrupt and without a folder."""
    return learned(make())


def test_all_abilities_are_measured_before_between_and_after(whole: Any) -> None:
    run, _ = whole
    roles = {("new", "shift-1"), ("new", "shift-2"), ("keep", "shift-3"), ("knowledge", "shift-3")}
    roles |= {("zero-shot", "shift-4"), ("in-context", "shift-4")}
    rows = {(row["stage"], row["role"], row["ability"]) for row in run.measured}
    assert rows == {(stage, *each) for stage in range(3) for each in roles}
    (old, *_) = (row for row in run.measured if row["role"] == "keep" and row["stage"] == 0)
    assert old["norm_ratio"] > 0.5
    assert run.stages == 2


def test_all_abilities_are_measured_only_before_and_after(whole: Any, make: Any, tmp_path: Path) -> None:
    ends = replace(CONFIG, measure_after="last")
    run, weights = learned(make(), ends, out=tmp_path / "out")
    at_one = [row for row in whole[0].measured if row["stage"] == 1 and row["ability"] == "shift-1"]
    assert len(at_one) == 1
    assert list(run.measured) == [row for row in whole[0].measured if row["stage"] != 1 or row in at_one]
    assert run.summary().equals(whole[0].summary())
    assert same(learned(make(), CONFIG, out=tmp_path / "out"), (run, weights))  # when to measure may change


def test_what_a_run_with_the_same_base_measured_of_it_is_taken(
    whole: Any, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(CONFIG, training=replace(TRAINING, steps=3), epochs=0.5)
    expected, real, measured = learned(make(), other), _continual.measured_row, []
    monkeypatch.setattr(_continual, "measured_row", lambda *a, **b: measured.append(a[1].name) or real(*a, **b))
    assert same(learned(make(), other, like=whole[0]), expected)
    assert len(measured) == len(expected[0].measured) * 2 // 3
    for name in ("fine_tune", "measured_row"):
        monkeypatch.setattr(_continual, name, lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(pytest.fail.Exception):
        learned(make(), other, like=whole[0], out=tmp_path / "out")
    kept = iv.ContinualRun.load(tmp_path / "out" / "continual.safetensors")
    assert kept.measured == tuple(row for row in whole[0].measured if row["stage"] == 0)
    monkeypatch.undo()
    monkeypatch.setattr(_continual, "measured_row", lambda *a, **b: measured.append(a[1].name) or real(*a, **b))
    measured.clear()
    assert learned(make(), replace(other, n_test=3), like=whole[0])[0].measured[0]["n"] == 3
    assert len(measured) == len(expected[0].measured)


@pytest.mark.parametrize("vectors", [True, False])
def test_the_base_is_measured_again_where_its_vectors_are_others(
    make: Any, monkeypatch: pytest.MonkeyPatch, vectors: bool
) -> None:
    first, _ = learned(make(), replace(CONFIG, vectors=vectors))
    real, measured = _continual.measured_row, []
    monkeypatch.setattr(_continual, "measured_row", lambda *a, **b: measured.append(a[1].name) or real(*a, **b))
    learned(make(), replace(CONFIG, vectors=vectors, k=CONFIG.k - 1), like=first)
    assert len(measured) == (len(first.measured) if vectors else len(first.measured) * 2 // 3)


def test_it_is_the_same_as_training_task_by_task_by_hand(make: Any, whole: Any) -> None:
    model = make()
    for task in NEW:
        iv.fine_tune(model, task.prompts(shots=0, split="train"), replace(TRAINING, evaluate_every=0))
    assert all(torch.equal(each, whole[1][name]) for name, each in model.named_parameters())
    prompts = NEW[0].prompts(4, shots=0, split="test")
    (row,) = (row for row in whole[0].measured if (row["stage"], row["ability"]) == (2, "shift-1"))
    assert row["probabilities"] == pytest.approx(iv.evaluate(model, prompts).probabilities.tolist(), rel=1e-6)


@pytest.mark.parametrize("lora", [None, iv.LoRA(rank=2), iv.LoRA(rank=2, dropout=0.3)])
@pytest.mark.parametrize("stop", [("learn", 1), ("learn", 2), ("measure", 4), ("measure", 10)])
def test_an_interrupted_run_resumes_to_the_same_bits(
    make: Any, lora: Any, stop: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, training=replace(TRAINING, lora=lora))
    expected = learned(make(), config)
    name = {"learn": "fine_tune", "measure": "measured_row"}[stop[0]]
    real, calls = getattr(_continual, name), iter(range(1, 99))

    def interrupted(*given: Any, **options: Any) -> Any:
        if next(calls) == stop[1]:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(_continual, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        learned(make(), config, out=tmp_path / "out")
    monkeypatch.undo()
    assert same(learned(make(), config, out=tmp_path / "out"), expected)
    assert lora is not None or not list((tmp_path / "out").rglob("state*"))
    assert lora is None or (tmp_path / "out" / "1-shift-1" / "adapter" / "adapter_config.json").is_file()


def test_a_finished_run_trains_and_measures_nothing_again(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = learned(make(), out=tmp_path / "out")
    for name in ("fine_tune", "measured_row"):
        monkeypatch.setattr(_continual, name, lambda *_, **__: pytest.fail("again"))
    assert same(learned(make(), out=tmp_path / "out"), expected)


def test_other_settings_in_the_same_folder_are_refused(make: Any, tmp_path: Path) -> None:
    learned(make(), out=tmp_path / "out")
    with pytest.raises(MismatchError, match="choose another folder"):
        learned(make(), replace(CONFIG, n_test=3), out=tmp_path / "out")


def test_another_base_in_the_same_folder_is_refused(make: Any, tiny_hooked: Any, tmp_path: Path) -> None:
    learned(make(), out=tmp_path / "out")
    with pytest.raises(MismatchError, match="weights_sha256"):
        learned(tiny_hooked("llama", max_position_embeddings=256, seed=1), out=tmp_path / "out")


@pytest.mark.parametrize(("sequence", "keep", "general"), [
    (NEW[::-1], OLD, []), (NEW, [], OLD), (NEW[:1], OLD, NEW[1:]),
])  # fmt: skip
def test_the_same_tasks_in_another_order_or_role_are_refused(
    make: Any, sequence: Any, keep: Any, general: Any, tmp_path: Path
) -> None:
    config = replace(CONFIG, vectors=False)
    iv.continual(make(), NEW, config, keep=OLD, out=tmp_path / "out")
    before = (tmp_path / "out" / "continual.safetensors").read_bytes()
    with pytest.raises(MismatchError, match="settings of the run"):
        iv.continual(make(), sequence, config, keep=keep, general=general, out=tmp_path / "out")
    assert (tmp_path / "out" / "continual.safetensors").read_bytes() == before


def test_a_kill_between_weights_and_states_leaves_no_states(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sequence_files.save_tensors

    def killed(*given: Any) -> None:
        real(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(sequence_files, "save_tensors", killed)
    with pytest.raises(KeyboardInterrupt):
        learned(make(), out=tmp_path / "out")
    assert [*(tmp_path / "out").rglob("state*")]
    monkeypatch.undo()
    learned(make(), out=tmp_path / "out")
    assert not [*(tmp_path / "out").rglob("state*")]


def test_o_lora_compares_with_the_adapters_of_earlier_tasks(make: Any, tmp_path: Path) -> None:
    config = replace(CONFIG, training=replace(TRAINING, guidance=iv.Guidance.preset("o-lora"), lora=iv.LoRA(rank=2)))
    with pytest.raises(ArgumentError, match="compares adapters"):
        learned(make(), replace(config, training=replace(config.training, lora=None)))
    kept = learned(make(), config, out=tmp_path / "out")
    first, second = (iv.TrainingRun.load(path) for path in sorted((tmp_path / "out").glob("*/run.safetensors")))
    assert not first.to_frame()["o_lora"].any()
    assert (second.to_frame()["o_lora"] > 0).all()
    assert same(learned(make(), config), kept)  # from memory and from files


def test_every_task_has_an_adapter_that_starts_anew(make: Any, tmp_path: Path) -> None:
    """Two random planes of a space of 64 dimensions share 2 / 64 of their squared length; the same plane shares 1."""
    config = replace(CONFIG, training=replace(TRAINING, lora=iv.LoRA(rank=2, dropout=0.1)), vectors=False)
    learned(make(), config, out=tmp_path / "out")
    one, two = (earlier_factors(path.parent) for path in sorted((tmp_path / "out").glob("*/state.safetensors")))
    bases = [(torch.linalg.qr(one[of].T).Q, torch.linalg.qr(two[of].T).Q) for of in one]
    shared = [(a.T @ b).square().sum() / 2 for a, b in bases]
    assert torch.stack(shared).mean() < 0.2


@pytest.mark.parametrize("preset", ["guided", "replay", "fv", "ewc", "self-rehearsal", "average", "freeze-middle"])
def test_what_guidance_needs_is_made_for_each_task(make: Any, preset: str) -> None:
    guided = replace(CONFIG, training=replace(TRAINING, guidance=iv.Guidance.preset(preset)))
    run, weights = learned(make(), guided)
    plain = learned(make())[1]
    assert run.stages == 2
    assert all(each.isfinite().all() for each in weights.values())
    assert not torch.equal(weights["blocks.0.mlp.W_in"], plain["blocks.0.mlp.W_in"])


@pytest.mark.parametrize(("tasks", "keep", "general", "why"), [
    ([], [], [], "one task or more"),
    ([NEW[0], NEW[0]], [], [], "'shift-1' twice"),
    (NEW, [NEW[0]], [], "'shift-1' twice"),
    (NEW, [], [NEW[1]], "general abilities other than"),
    (NEW, [iv.Task("bare", [("a", "b"), ("c", "d")] )], [], "instructions, from which vectors"),
])  # fmt: skip
def test_what_cannot_work_is_said_before_anything_is_measured(
    make: Any, tasks: Any, keep: Any, general: Any, why: str
) -> None:
    with pytest.raises(ArgumentError, match=why):
        iv.continual(make(), tasks, CONFIG, keep=keep, general=general)


def guided(preset: str, **options: Any) -> iv.ContinualConfig:
    training = replace(TRAINING, guidance=iv.Guidance.preset(preset))
    return replace(CONFIG, training=training, vectors=False, **options)


LONG = iv.Task(
    "long", [Example("fox " * 300, ("fox",), split="train"), Example("quick", ("fox",), split="test")], ("say",)
)


@pytest.mark.parametrize(("config", "last", "why"), [
    (guided("replay"), NEW[1], "tasks to keep, for guidance by old examples"),
    (guided("ewc"), NEW[1], "tasks to keep, for guidance by old examples"),
    (guided("fv", k=99), NEW[1], "k to be at most 8"),
    (guided("fv"), iv.Task("two", [("a", "b"), ("c", "d")], ("x",)), "shots to be at most 0"),
    (guided("plain"), iv.Task("one", [("a", "b")], ("x",)), "examples in the train split of 'one'"),
    (guided("plain"), LONG, "within the model's context"),
])  # fmt: skip
def test_what_a_later_task_lacks_is_said_before_anything_is_measured(
    make: Any, config: iv.ContinualConfig, last: iv.Task, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_continual, "measured_row", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(iv.IvlensError, match=why):
        iv.continual(make(), [NEW[0], last], config)


def test_epochs_count_the_prompts_of_a_task() -> None:
    assert replace(CONFIG, epochs=1.0).steps(9) == 3
    assert replace(CONFIG, epochs=0.5).steps(9) == 2
    assert CONFIG.steps(9) == 4


def test_ablations_have_every_term_alone_and_left_out() -> None:
    config = iv.ContinualConfig(iv.TrainingConfig(iv.Guidance.preset("guided")))
    found = iv.ablations(config, terms=True, ks=(5,), layers=(1,), seeds=(0, 1))
    names = {name.rpartition(", seed")[0] for name in found}
    terms = ("ProgressiveVector", "Rehearsal", "L2ToBase")
    assert names == {"whole", "plain", "5 heads", "layer 1"} | {
        f"{how} {term}" for how in ("only", "without") for term in terms
    }
    assert len(found) == 2 * len(names)
    assert [*found["without Rehearsal, seed 1"].training.guidance.facts] == ["ProgressiveVector", "L2ToBase"]
    assert [*found["only Rehearsal, seed 1"].training.guidance.facts] == ["Rehearsal"]
    assert found["layer 1, seed 1"].training.guidance.terms[0].layer == 1
    assert found["5 heads, seed 0"].k == 5
    assert {each.training.seed for name, each in found.items() if name.endswith("1")} == {1}


def test_ablations_take_the_two_divergences_of_a_term_apart() -> None:
    """The papers' two KLs are one term here; a loss that is left out has the weight 0."""
    found = iv.ablations(iv.ContinualConfig(iv.TrainingConfig(iv.Guidance.preset("fv"))), terms=True)
    losses = ("kl_last", "kl_answer", "HeadConsistency")
    assert {*found} == {"whole", "plain"} | {f"{how} {loss}" for how in ("only", "without") for loss in losses}
    weights = {name: {k: w for term in each.training.guidance for k, w in term.weights.items() if w}
               for name, each in found.items()}  # fmt: skip
    assert weights["whole"] == {"kl_last": 20.0, "kl_answer": 0.1, "consistency": 1.0}
    assert weights["only kl_answer"] == {"kl_answer": 0.1}
    assert weights["without kl_last"] == {"kl_answer": 0.1, "consistency": 1.0}
    assert weights["without HeadConsistency"] == {"kl_last": 20.0, "kl_answer": 0.1}


def long_task(by: int) -> iv.Task:
    """As ``shifted``, after many other words."""
    pairs = [(" ".join(["the"] * 300 + [each.input]), each.answers[0]) for each in shifted(by).examples]
    return iv.Task(f"long-{by}", pairs, ("the quick fox jumps",), ("Q", "A"))


def test_inputs_are_cut_to_the_tokens_that_were_asked_for(make: Any) -> None:
    config = replace(CONFIG, vectors=False, shots=0, keep_shots=0)
    with pytest.raises(iv.PromptError, match="context"):
        iv.continual(make(), [long_task(1)], config, keep=[long_task(2)])
    cut = replace(config, max_tokens=64)
    with pytest.warns(UserWarning, match="cut"):
        run = iv.continual(make(), [long_task(1)], cut, keep=[long_task(2)])
    assert run.stages == 1
    assert run.provenance["settings"]["continual"]["max_tokens"] == 64
    assert "max_tokens" not in config.facts  # an earlier version's folder is still this run's


def test_rehearsal_is_cut_as_what_is_learned_and_refused_before_the_base_is_measured(make: Any, tmp_path: Path) -> None:
    training = replace(TRAINING, guidance=iv.Guidance.preset("rehearsal"), steps=1)
    config = replace(CONFIG, training=training, vectors=False, keep_shots=0, max_tokens=200)
    with pytest.raises(iv.PromptError, match="context"):
        iv.continual(make(), [long_task(1)], replace(config, max_tokens=None), out=tmp_path / "out")
    assert not [*(tmp_path / "out").glob("*.safetensors")]
    with pytest.warns(UserWarning, match="cut"):
        assert iv.continual(make(), [long_task(1)], config).stages == 1


def test_a_vector_that_is_given_stands_in_place_of_each_task_s_own(make: Any, tmp_path: Path) -> None:
    bare = [replace(task, instructions=()) for task in NEW]
    steered = replace(CONFIG, training=replace(TRAINING, guidance=iv.Guidance.preset("preventative")), vectors=False)
    with pytest.raises(ArgumentError, match="tasks with instructions"):
        iv.continual(make(), bare, steered)
    model = make()
    means = iv.mean_head_activations(model, OLD[0].prompts(4, split="train"))
    vector = iv.instruction_vector(model, means, [(0, 1), (1, 0)])
    run = iv.continual(model, bare, steered, vector=vector, out=tmp_path / "out")
    by_hand = make()
    for task in bare:
        prompts = task.prompts(len(task.split("train")), shots=0, split="train")
        iv.fine_tune(by_hand, prompts, replace(steered.training, evaluate_every=0), vector=vector)
    assert all(torch.equal(each, by_hand.state_dict()[name]) for name, each in model.state_dict().items())
    with pytest.raises(MismatchError):
        iv.continual(make(), bare, steered, vector=vector * 2, out=tmp_path / "out")
    assert run.stages == 2
    with pytest.raises(ArgumentError, match="guidance that adds a vector"):
        iv.continual(make(), bare, CONFIG, vector=vector)
    with pytest.raises(ArgumentError, match="a vector that is not zero, for PreventativeSteering"):
        iv.continual(make(), bare, steered, vector=vector * 0, out=tmp_path / "zeros")
    assert not [*(tmp_path / "zeros").glob("*.safetensors")]


def test_terms_are_not_left_out_where_there_are_none() -> None:
    with pytest.raises(ArgumentError, match="guidance with terms"):
        iv.ablations(iv.ContinualConfig(iv.TrainingConfig(iv.Guidance())), terms=True)


def test_heads_are_not_varied_without_a_vector() -> None:
    with pytest.raises(ArgumentError, match="guidance with a vector"):
        iv.ablations(iv.ContinualConfig(), ks=(5,))


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import ivlens as iv, tiny_models
from safetensors.torch import save_file
model = iv.load_model(tiny_models.random_model("llama"), tokenizer=tiny_models.byte_level_tokenizer())
words = "capital of France is Paris and the quick brown".split()
tasks = [
    iv.Task(f"shift-{{by}}", list(zip(words, words[by:] + words[:by])), ("the quick fox jumps",), ("Q", "A"))
    for by in (1, 2, 3)
]
training = iv.TrainingConfig(iv.Guidance.preset("l2"), steps=40, batch_size=4, learning_rate=1e-3, save_every=7)
config = iv.ContinualConfig(training, n_test=4, vectors=False, keep_shots=1)
run = iv.continual(model, tasks[:2], config, keep=tasks[2:], out=sys.argv[1])
run.save(sys.argv[1] + ".run")
save_file({{name: each.detach().contiguous() for name, each in model.named_parameters()}}, sys.argv[1] + ".weights")
"""


@pytest.mark.slow
def test_killed_at_random_moments_a_sequence_ends_in_the_same_bits(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parents[1]))
    whole, killed = (subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "whole")]), 0)
    chance = random.Random(time.time_ns())  # other moments at each run of this test
    for file in ("continual.safetensors", "1-shift-1/log.jsonl", "weights.safetensors", "2-shift-2/log.jsonl"):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")])
        while not (tmp_path / "killed" / file).exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is None:
            process.kill()
            killed += 1
        process.wait()
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "killed")], check=False).returncode == 0
    assert whole.wait() == 0
    assert killed >= 2, "the runs were too quick to be killed"
    assert (tmp_path / "killed.weights").read_bytes() == (tmp_path / "whole.weights").read_bytes()
    one, two = (iv.ContinualRun.load(tmp_path / f"{name}.run") for name in ("whole", "killed"))
    assert one.measured == two.measured
