"""Repair on planted truths: what is found, what the guard holds, what is resumed, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from ivlens.checkpoints import _repair
from ivlens.checkpoints import answers as answering
from ivlens.checkpoints.mixing import Fractions, mixed_weights
from ivlens.checkpoints.sources import two_checkpoints
from ivlens.errors import ArgumentError, MismatchError, SourceError
from ivlens.models import WeightPart, add_lora, model_facts, weight_names
from ivlens.models.facts import weights_sha256
from planted_repairs import (
    CONFIG,
    INPUTS,
    LAYERS,
    LEARNED_IN,
    SCRAMBLED,
    answers,
    asked,
    changed,
    scramble_mlp,
    shift_attention,
    task,
    untouched,
)
from tiny_models import byte_level_tokenizer

pytestmark = pytest.mark.slow

Tasks = dict[str, list[iv.Task]]


@pytest.fixture(scope="module")
def base() -> Any:
    return untouched()


@pytest.fixture
def tuned() -> Any:
    return changed(scramble_mlp)


@pytest.fixture(scope="module")
def tasks(base: Any) -> Tasks:
    """What the base answers and the tuned model does not; a new task that both know."""
    scrambled = changed(scramble_mlp)
    old, new = ([answers(model, name) for model in (base, scrambled)] for name in ("fox", "dog"))
    return {"keep": [task("fox", old[:1], old[1:])], "learned": [task("dog", new, [])]}


def repair(base: Any, tuned: Any, tasks: Tasks, config: Any = CONFIG, **options: Any) -> iv.Repair:
    return iv.repair(base, tuned, config=config, **{"others": []} | tasks | options)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def accuracy(record: iv.Repair, model: str, role: str) -> float:
    frame = record.gains().set_index(["model", "role"])
    return float(frame.loc[(model, role), "accuracy"])


def test_a_scrambled_mlp_is_put_back_and_nothing_else(base: Any, tuned: Any, tasks: Tasks) -> None:
    record = repair(base, tuned, tasks)
    assert record.attention.tolist() == [1.0] * LAYERS
    assert record.mlp.tolist() == [float(layer != SCRAMBLED) for layer in range(LAYERS)]
    assert record.rest == record.undone == 1.0
    assert (record.step, record.found) == ("bands", True)
    assert [accuracy(record, model, "keep") for model in ("base", "tuned", "repaired")] == [1, 0, 1]
    assert same_bits(weights(iv.repaired_model(base, tuned, record)), weights(base))


def test_parts_that_did_not_change_are_tried_in_no_trial(base: Any, tuned: Any, tasks: Tasks) -> None:
    steps = [trial["step"] for trial in repair(base, tuned, tasks).trials]
    # one fraction, one by depth (2/3 in the scrambled layer), its band, and steps from there; all else is the tuned one
    assert steps == ["tuned", "interpolation", "by depth", "bands", "greedy"]


def test_the_guard_keeps_what_was_learned_in_another_part(base: Any) -> None:
    learner, both = changed(shift_attention), changed(shift_attention, scramble_mlp)
    scrambled = changed(scramble_mlp)
    old, new = ([answers(model, name) for model in (base, learner, both, scrambled)] for name in ("fox", "dog"))
    kept = [each for each in INPUTS if old[0][each] == old[1][each] != old[2][each]]
    keep = asked("fox", [(each, old[0][each]) for each in kept])
    learned = task("dog", [new[1], new[2]], [new[0], new[3]])
    record = repair(base, both, {"keep": [keep], "learned": [learned]}, replace(CONFIG, n_greedy=0))
    assert record.attention[LEARNED_IN] == 1
    assert record.mlp[SCRAMBLED] == 0
    assert [accuracy(record, "repaired", role) for role in ("keep", "learned")] == [1, 1]
    refused = [trial for trial in record.trials if not trial["allowed"]]
    assert {trial["step"] for trial in refused} >= {"bands"}
    assert all(trial["kept"] != trial["kept"] for trial in refused)  # not measured


def test_where_nothing_meets_the_guard_the_tuned_model_stays(base: Any, tuned: Any, tasks: Tasks) -> None:
    half = iv.repaired_model(base, tuned, _half(base, tuned, tasks))
    ours, others = answers(tuned, "dog"), [answers(model, "dog") for model in (base, half)]
    learned = task("dog", [ours], others)
    config = replace(CONFIG, depths=(), n_greedy=2)
    record = repair(base, tuned, {**tasks, "learned": [learned]}, config)
    assert not record.found
    assert record.outcome == "nothing met the guard: the tuned model stays as it is"
    assert record.models == ("base", "tuned", "repaired")
    assert torch.equal(record.correct[1], record.correct[2])
    assert same_bits(weights(iv.repaired_model(base, tuned, record)), weights(tuned))


def _half(base: Any, tuned: Any, tasks: Tasks) -> iv.Repair:
    """A record that puts half of the change back."""
    record = repair(base, tuned, tasks, replace(CONFIG, depths=(), n_greedy=0))
    half = torch.full((LAYERS,), 0.5, dtype=torch.float64)
    return replace(record, attention=half, mlp=half, rest=0.5)


def test_where_nothing_keeps_more_the_sentence_says_so(base: Any, tuned: Any, tasks: Tasks) -> None:
    ours = answers(tuned, "fox")
    keep = task("fox", [ours], [answers(base, "fox")])
    record = repair(base, tuned, {**tasks, "keep": [keep]}, replace(CONFIG, fractions=(), depths=(), n_greedy=0))
    assert record.outcome == "nothing that met the guard kept more than the tuned model, which stays as it is"


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_fractions_0_and_1_are_the_two_models_to_the_bit(engine: str, tmp_path: Path) -> None:
    base, tuned = untouched(engine), untouched(engine)
    with torch.no_grad():
        for name in weight_names(tuned):
            tuned.get_parameter(name).mul_(1.1)
    before, after = weights(base), weights(tuned)
    first, second = two_checkpoints(base, tuned, {}, tmp_path)
    with mixed_weights(first, second, tmp_path) as mixed:
        for fraction, theirs in ((0.0, before), (0.3, None), (1.0, after), (0.0, before)):
            mixed.mix(Fractions.uniform(LAYERS, fraction))
            assert theirs is None or same_bits(weights(mixed.model), theirs)
    assert same_bits(weights(tuned), after)
    assert same_bits(weights(base), before)


def test_a_bridge_is_repaired_as_a_hooked_transformer_is(base: Any, tuned: Any, tasks: Tasks, tmp_path: Path) -> None:
    folders = [str(iv.export_hf(model, tmp_path / name)) for name, model in (("base", base), ("tuned", tuned))]
    records = [repair(*folders, tasks, dtype=torch.float64, engine=engine) for engine in ("hooked", "bridge")]
    assert torch.equal(records[0].mlp, records[1].mlp)
    fixed = [index for index, name in enumerate(records[0].models) if not name.startswith("random change")]
    one, other = (record.log_probability[fixed] for record in records)
    assert torch.allclose(one, other, atol=1e-9)


def test_a_tuned_model_object_is_what_it_was(base: Any, tuned: Any, tasks: Tasks, monkeypatch: Any) -> None:
    before, facts = weights(tuned), model_facts(tuned)
    repair(base, tuned, tasks)
    assert same_bits(weights(tuned), before)
    monkeypatch.setattr(answering, "judge_answers", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        repair(base, tuned, tasks)
    assert same_bits(weights(tuned), before)
    assert model_facts(tuned) == facts


class Counted:
    """``judge_answers`` that counts its calls, and is interrupted at one of them."""

    def __init__(self, ends_at: int = -1) -> None:
        self.inputs: list[tuple[str, ...]] = []
        self.ends_at = ends_at

    def __call__(self, model: Any, prompts: Any, batch_size: int) -> Any:
        if len(self.inputs) == self.ends_at:
            raise KeyboardInterrupt
        self.inputs.append(tuple(prompt.input for prompt in prompts))
        return score(model, prompts, batch_size)


score = answering.judge_answers
Listen = Callable[[Counted], Counted]


@pytest.fixture
def listen_to(monkeypatch: Any) -> Listen:
    def put(counted: Counted) -> Counted:
        monkeypatch.setattr(answering, "judge_answers", counted)
        return counted

    return put


@pytest.mark.parametrize("ends_at", [0, 3, 9])
def test_an_interrupted_repair_measures_nothing_twice(
    ends_at: int, base: Any, tuned: Any, tasks: Tasks, tmp_path: Path, listen_to: Listen
) -> None:
    whole = listen_to(Counted())
    once = repair(base, tuned, tasks)
    ended = listen_to(Counted(ends_at))
    with pytest.raises(KeyboardInterrupt):
        repair(base, tuned, tasks, out=tmp_path / "kept")
    resumed = listen_to(Counted())
    again = repair(base, tuned, tasks, out=tmp_path / "kept")
    assert len(ended.inputs) + len(resumed.inputs) == len(whole.inputs)
    assert torch.equal(once.correct, again.correct)
    assert torch.equal(once.log_probability, again.log_probability)
    assert (once.trials, once.models) == (again.trials, again.models)


def test_test_prompts_are_not_used_for_choosing(
    base: Any, tuned: Any, tasks: Tasks, listen_to: Listen, listen: Any
) -> None:
    counted, at = listen_to(Counted()), []
    listen(lambda message: at.append(len(counted.inputs)) if message.startswith("chosen") else None)
    repair(base, tuned, tasks)
    splits = {
        name: {one.input for each in (*tasks["keep"], *tasks["learned"]) for one in each.split(name)}
        for name in ("validation", "test")
    }
    chosen_on, reported = (
        {each for inputs in part for each in inputs} for part in (counted.inputs[: at[0]], counted.inputs[at[0] :])
    )
    for each in (*tasks["keep"], *tasks["learned"]):
        assert not {one.input for one in each.split("validation")} & {one.input for one in each.split("test")}
    assert chosen_on <= splits["validation"]
    assert reported <= splits["test"]


def test_controls_undo_as_much(base: Any, tuned: Any, tmp_path: Path) -> None:
    shift_attention(tuned)
    first, second = two_checkpoints(base, tuned, {}, tmp_path)
    before = weights(tuned)
    fractions = Fractions.by_depth(LAYERS, 0.2, 0.8)
    with mixed_weights(first, second, tmp_path) as mixed:
        mixed.mix(fractions)
        repaired = weights(tuned)
        mixed.undo_at_random(fractions, 0)
        random = weights(tuned)
        for name in mixed.names:
            moved, undone = ((each[name] - before[name]).norm() for each in (random, repaired))
            assert torch.isclose(moved, undone)
            assert not torch.allclose(random[name], repaired[name])
        squared = mixed.squared_changes()
    bands = _repair.random_bands(LAYERS, squared, 1.0, 0)
    assert {*bands.attention, *bands.mlp} == {0.0}
    assert {*squared} == {WeightPart("mlp", SCRAMBLED), WeightPart("attention", LEARNED_IN)}


def test_without_others_abilities_of_the_base_are_reported(
    base: Any, tuned: Any, tasks: Tasks, tmp_path: Path, monkeypatch: Any
) -> None:
    able, unable = task("lazy", [answers(base, "lazy")], []), asked("jumps", [(each, "zzz") for each in INPUTS[:20]])
    monkeypatch.setattr(_repair, "word_tasks", lambda: [able, unable, *tasks["keep"]])
    record = repair(base, tuned, tasks, others=None)
    assert dict(zip(record.tasks, record.roles, strict=True)) == {"fox": "keep", "lazy": "other", "dog": "learned"}
    assert accuracy(record, "base", "other") == 1


@pytest.mark.parametrize(("right", "able"), [(5, False), (13, False), (20, True)])
def test_what_is_guessed_among_options_is_no_ability_to_report_on(right: int, able: bool) -> None:
    prompt = iv.Prompt("the quick", " fox", options=(" dog", " fox"))
    assert _repair._can_do([(at < right, prompt) for at in range(25)]) == able
    assert _repair._can_do([(at < right, iv.Prompt("the quick", " fox")) for at in range(25)]) == (right > 5)


@pytest.fixture
def unmeasured(listen_to: Listen) -> Any:
    """Nothing is measured."""
    counted = listen_to(Counted())
    yield
    assert counted.inputs == []


@pytest.mark.usefixtures("unmeasured")
class TestRefused:
    def test_no_task(self, base: Any, tuned: Any, tasks: Tasks) -> None:
        for role in tasks:
            with pytest.raises(ArgumentError, match="tasks to keep and learned ones, none of them twice"):
                repair(base, tuned, {**tasks, role: []})

    def test_a_task_twice(self, base: Any, tuned: Any, tasks: Tasks) -> None:
        with pytest.raises(ArgumentError, match="none of them twice; got fox, fox"):
            repair(base, tuned, {**tasks, "learned": tasks["keep"]})

    def test_the_base_itself(self, base: Any, tasks: Tasks) -> None:
        with pytest.raises(MismatchError, match="the base's own weights; give the tuned model"):
            repair(base, untouched(), tasks)

    def test_lora_on_the_model(self, base: Any, tuned: Any, tasks: Tasks) -> None:
        add_lora(tuned, rank=2, alpha=4.0, targets=("W_Q",), layers=None, seed=0)
        with pytest.raises(ArgumentError, match=r"tuned with it; call merge_lora\(model\) first"):
            repair(base, tuned, tasks)

    def test_another_tokenizer(self, base: Any, tasks: Tasks) -> None:
        tuned = changed(scramble_mlp)
        iv.load_model(tuned, tokenizer=_uppercase())
        with pytest.raises(MismatchError, match="the base's ids"):
            repair(base, tuned, tasks)

    def test_another_architecture(self, base: Any, tasks: Tasks, tiny_hooked: Any) -> None:
        with pytest.raises(MismatchError):
            repair(base, tiny_hooked("llama"), tasks)

    def test_a_source_that_does_not_exist(self, base: Any, tasks: Tasks, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="tuned"):
            repair(base, str(tmp_path / "missing"), tasks)


def _uppercase() -> Any:
    """The tokenizer, but one that reads every text in lower case as another one."""
    from tokenizers import normalizers

    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("Q", "q")
    return tokenizer


def test_a_repair_is_saved_and_loaded(base: Any, tuned: Any, tasks: Tasks, tmp_path: Path) -> None:
    record = repair(base, tuned, tasks)
    again = iv.Repair.load(record.save(tmp_path / "repair.safetensors"))
    assert again.to_frame().equals(record.to_frame())
    assert again.gains().equals(record.gains())
    assert again.trials_frame().equals(record.trials_frame())
    assert (again.outcome, again.found) == (record.outcome, True)
    assert weights_sha256(iv.repaired_model(base, tuned, again)) == weights_sha256(base)


def test_a_repaired_model_is_made_of_the_repairs_models_only(base: Any, tuned: Any, tasks: Tasks) -> None:
    record = repair(base, tuned, tasks)
    with pytest.raises(MismatchError, match="the tuned model of the repair"):
        iv.repaired_model(base, changed(shift_attention), record)
    with pytest.raises(MismatchError, match="the base model of the repair"):
        iv.repaired_model(changed(shift_attention), tuned, record)


@pytest.mark.parametrize("n", [1, 2])
def test_a_task_without_examples_to_choose_or_report_on_is_named(base: Any, tuned: Any, tasks: Tasks, n: int) -> None:
    few = replace(tasks["keep"][0], name="few", examples=tasks["keep"][0].examples[:n])
    with pytest.raises(ArgumentError, match=r"the size of '(validation|test)' in 'few'"):
        repair(base, tuned, {**tasks, "keep": [few]})


def test_a_built_in_task_that_is_longer_than_the_context_is_not_reported_on(
    base: Any, tuned: Any, tasks: Tasks, monkeypatch: Any, caplog: Any
) -> None:
    long = asked("long", [(f"{each} the fox " * 60, "dog") for each in INPUTS[:20]])
    short = replace(tasks["keep"][0], name="short")
    monkeypatch.setattr(_repair, "word_tasks", lambda: [long, short])
    record = repair(base, tuned, tasks, others=None)
    assert {task for task, role in zip(record.tasks, record.roles, strict=True) if role == "other"} == {"short"}
    assert "cannot be asked: long" in caplog.text
