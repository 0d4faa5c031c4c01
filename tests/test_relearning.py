"""The relearning probe: a copy is trained, on examples that are not measured, as by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import ivlens
from ivlens import Task
from ivlens.errors import ArgumentError, DivergedError
from tiny_models import WORDS


def shifted(by: int) -> Task:
    pairs = [(word, WORDS[(at + by) % len(WORDS)]) for at, word in enumerate(WORDS)]
    return Task(f"shift-{by}", tuple(pairs), ("the quick fox jumps",), ("Q", "A"))


def constant(name: str, word: str) -> Task:
    """A task with one answer, which a few steps teach."""
    return Task(name, tuple((each, word) for each in WORDS if each != word), ("of the lazy dog",), ("Q", "A"))


def test_a_probe_is_what_training_by_hand_gives_and_leaves_the_model_as_it_was(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama", max_position_embeddings=256)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    settings: dict[str, Any] = {"n_examples": 4, "steps": 6, "learning_rate": 1e-2, "n_test": 3, "shots": 1}
    lost, control = constant("fox", "fox"), shifted(2)
    probe = ivlens.relearning_probe(model, lost, control, **settings)
    assert {name: torch.equal(each, before[name]) for name, each in model.state_dict().items()} == dict.fromkeys(
        before, True
    )
    asked = {task.name: task.prompts(3, shots=1, split="test") for task in (lost, control)}
    by_hand = tiny_hooked("llama", max_position_embeddings=256)
    examples = lost.prompts(4, shots=1, split="train")
    assert not {each.input for each in examples} & {each.input for each in asked["fox"]}
    assert probe.before.tolist() == ivlens.evaluate(model, asked["fox"]).correct.tolist()
    assert probe.anew_before.tolist() == ivlens.evaluate(model, asked["shift-2"]).correct.tolist()
    config = ivlens.TrainingConfig(ivlens.Guidance(), steps=6, batch_size=4, learning_rate=1e-2, warmup=0, decay="none")
    ivlens.fine_tune(by_hand, examples, config)
    assert probe.after.tolist() == ivlens.evaluate(by_hand, asked["fox"]).correct.tolist()
    assert (probe.gain.value, probe.anew_gain.value) == (1, 0)  # one word is learned in a few steps, a shift is not
    assert probe.to_frame()[["task", "before", "after"]].to_numpy().tolist() == [["fox", 0, 1], ["shift-2", 0, 0]]
    assert torch.equal(ivlens.relearning_probe(model, lost, control, **settings).after, probe.after)


def test_training_that_diverges_brings_nothing_back_and_says_so(
    tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_hooked("llama", max_position_embeddings=256)
    monkeypatch.setattr("ivlens.training.terms.cross_entropy", lambda logits, targets: logits.sum(-1) * torch.nan)
    with (
        pytest.warns(UserWarning, match="training stopped"),
        pytest.raises(DivergedError, match=r"a finite loss on the examples; got step 0.*lower learning_rate"),
    ):
        ivlens.relearning_probe(model, constant("fox", "fox"), shifted(2), n_examples=4, steps=2, shots=1)


def test_a_control_is_another_task_with_enough_examples(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    with pytest.raises(ArgumentError, match="a control that is another task"):
        ivlens.relearning_probe(model, shifted(1), shifted(1))
    with pytest.raises(ArgumentError, match="n_examples to be at most"):
        ivlens.relearning_probe(model, shifted(1), replace(shifted(1), name="another"), n_examples=99)
