"""Which prompts a step draws, and prompts that rehearse instructions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ivlens
from ivlens.training import rehearsal_prompts
from ivlens.training.sampler import PromptSampler
from ivlens.vocabulary import TokenizedPrompt


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 5))
def test_every_prompt_is_shown_once_before_any_is_shown_again(count: int, batch: int, seed: int) -> None:
    sampler = PromptSampler("new", tuple(TokenizedPrompt((index,), (0,)) for index in range(count)), batch, seed)
    shown = [index for step in range(3 * count) for index in sampler.drawn(step)]
    for epoch in range(len(shown) // count):
        assert sorted(shown[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_draws_depend_on_seed_and_name_alone() -> None:
    pairs = tuple(TokenizedPrompt((index,), (0,)) for index in range(50))
    draws = {
        (name, seed): PromptSampler(name, pairs, 8, seed).drawn(3) for name in ("new", "replay") for seed in (0, 1)
    }
    assert len({tuple(each) for each in draws.values()}) == 4
    assert PromptSampler("new", pairs, 8, 0).drawn(3) == draws["new", 0]
    assert PromptSampler("new", pairs, 8, 0).drawn_by(2) == sorted(PromptSampler("new", pairs, 16, 0).drawn(0))


def test_rehearsal_asks_new_inputs_under_other_instructions_without_examples() -> None:
    task, others = ivlens.load_task("capitalize"), [ivlens.load_task(name) for name in ("antonym", "hypernym")]
    prompts = rehearsal_prompts(task, others)
    assert len(prompts) == len(task.split("train")) * sum(len(other.instructions) for other in others)
    assert {prompt.input for prompt in prompts} == {example.input for example in task.split("train")}
    for other in others:
        assert sum(other.instructions[1] in prompt.text for prompt in prompts) == len(task.split("train"))
        held = {example.input for example in other.examples} - {prompt.input for prompt in prompts}
        assert not any(f" {text}\n" in prompt.text for prompt in prompts for text in held)


def test_rehearsal_needs_other_instructions() -> None:
    task = ivlens.load_task("capitalize")
    with pytest.raises(ivlens.ArgumentError, match="one other task"):
        rehearsal_prompts(task, [])
    with pytest.raises(ivlens.ArgumentError, match="with instructions"):
        rehearsal_prompts(task, [ivlens.Task("mute", [("a", "b")])])
