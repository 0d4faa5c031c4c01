"""The steering sweep against steer and evaluate; controls, ablation and comparison."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, HookError, InstructionVector, Prompt
from ivlens.steering import controlled, layer_grid
from ivlens.vocabulary import Condition

PROMPTS = [
    Prompt("the fox", (" is", " jumps over")),
    Prompt("Q: what is the capital of France?\nA:", " Paris and the"),
    Prompt("1", (" lazy",)),
]


@pytest.fixture
def model(tiny_hooked: Any) -> Any:
    return tiny_hooked("gemma3_text")


@pytest.fixture
def vector(model: Any) -> InstructionVector:
    return ivlens.instruction_vector(model, ivlens.mean_head_activations(model, PROMPTS), [(0, 0), (1, 1), (1, 3)])


@pytest.mark.parametrize("family", ["bloom", "gemma3_text", "gpt2", "gpt_neox", "llama", "olmo2"])
def test_sweep_equals_steer_and_evaluate_in_each_cell(tiny_hooked: Any, family: str) -> None:
    model = tiny_hooked(family)
    vector = ivlens.instruction_vector(model, ivlens.mean_head_activations(model, PROMPTS), [(0, 0), (1, 1), (1, 3)])
    sweep = ivlens.steering_sweep(model, vector, PROMPTS, [1, 0], [1.5, -2.0, 20.0], [1, 3])
    for i, layer in enumerate([1, 0]):
        for j, scale in enumerate([1.5, -2.0, 20.0]):
            for k, count in enumerate([1, 3]):
                with ivlens.steer(model, vector.first(count), layer, scale):
                    expected = ivlens.evaluate(model, PROMPTS)
                torch.testing.assert_close(sweep.probabilities[i, j, k], expected.probabilities, rtol=1e-3, atol=1e-9)
                assert sweep.correct[i, j, k].equal(expected.correct)


@pytest.mark.parametrize("budget", [2, 13, 100])
def test_stream_budget_changes_no_number(model: Any, vector: InstructionVector, budget: int) -> None:
    whole = ivlens.steering_sweep(model, vector, PROMPTS, [0, 1], [1.0, 4.0])
    parts = ivlens.steering_sweep(model, vector, PROMPTS, [0, 1], [1.0, 4.0], stream_budget=budget)
    torch.testing.assert_close(parts.probabilities, whole.probabilities, rtol=1e-3, atol=1e-9)


def test_hits_are_found_where_a_vector_forces_the_answer(tiny_hooked: Any) -> None:
    """A vector along an answer's own unembedding, added to the last block, makes that answer the greedy one."""
    model = tiny_hooked("llama")
    prompt = Prompt("the fox", " is")
    (token, *_) = prompt.encode(model.tokenizer).answer_ids
    answer = Prompt("the fox", model.tokenizer.decode([token]))
    values = model.unembed.W_U[:, token].detach().clone()
    vector = InstructionVector(values, values.new_zeros(0, len(values)), (), "forced")
    sweep = ivlens.steering_sweep(model, vector, [answer], [1], [0.0, 1000.0])
    assert sweep.correct.flatten().tolist() == [False, True]
    assert sweep.best() == (1, 1000.0, 0)


def test_sweep_messages(model: Any, vector: InstructionVector) -> None:
    random = ivlens.random_vector(vector, seed=0)
    cases = [
        ("at least one layer", vector, {"layers": [], "scales": [1.0]}),
        ("layers from 0 to 1", vector, {"layers": [2], "scales": [1.0]}),
        (r"scales\[0\] to be a finite number", vector, {"layers": [0], "scales": [float("inf")]}),
        ("a number of heads from 1 to 3", vector, {"layers": [0], "scales": [1.0], "ks": [4]}),
        ("ks only for a vector that comes from heads", random, {"layers": [0], "scales": [1.0], "ks": [1]}),
    ]
    for message, which, options in cases:
        with pytest.raises(ArgumentError, match=message):
            ivlens.steering_sweep(model, which, PROMPTS, **options)
    with ivlens.steer(model, vector, 0):
        with pytest.raises(HookError, match="no active hooks"):
            ivlens.steering_sweep(model, vector, PROMPTS, [0], [1.0])
        ivlens.evaluate(model, PROMPTS)


def test_random_vector_has_the_norm_and_its_seed(vector: InstructionVector) -> None:
    one, two = ivlens.random_vector(vector, seed=0), ivlens.random_vector(vector, seed=1)
    assert one.norm == pytest.approx(vector.norm, rel=1e-5)
    assert abs(one.cosine(two)) < 0.7
    assert one.values.equal(ivlens.random_vector(vector, seed=0).values)


def test_random_heads_have_the_norm_and_none_of_the_heads(model: Any, vector: InstructionVector) -> None:
    means = ivlens.mean_head_activations(model, PROMPTS)
    other = ivlens.random_heads_vector(model, means, vector, seed=0)
    assert other.norm == pytest.approx(vector.norm, rel=1e-5)
    assert not set(other.heads) & set(vector.heads)
    assert len(other.heads) == 3


def test_mean_difference_is_that_of_residual_streams(model: Any) -> None:
    clean, corrupted = PROMPTS[:2], PROMPTS[2:]

    def residual(prompt: Prompt) -> torch.Tensor:
        ids = torch.tensor([model.tokenizer(prompt.text)["input_ids"]])
        return model.run_with_cache(ids)[1]["resid_pre", 1][0, -1]

    expected = torch.stack([residual(p) for p in clean]).mean(0) - torch.stack([residual(p) for p in corrupted]).mean(0)
    found = ivlens.mean_difference(model, clean, corrupted, 1, batch_size=1)
    torch.testing.assert_close(found.values, expected, rtol=1e-3, atol=1e-5)
    assert found.heads == ()


def test_ablation_silences_heads_at_the_last_prompt_token_only(model: Any) -> None:
    means = ivlens.mean_head_activations(model, PROMPTS)
    tokens = torch.tensor([[3, 4, 5]])
    _, before = model.run_with_cache(tokens)
    for values, expected in ((None, torch.zeros(12)), (means, means.values[1, 2])):
        with ivlens.ablate(model, [(1, 2), (1, 0)], values):
            _, after = model.run_with_cache(tokens)
        torch.testing.assert_close(after["z", 1][0, -1, 2], expected)
        assert after["z", 1][0, :-1].equal(before["z", 1][0, :-1])
        assert after["z", 1][0, -1, [1, 3]].equal(before["z", 1][0, -1, [1, 3]])
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    with pytest.raises(ArgumentError, match="layers below 2 and heads below 4"), ivlens.ablate(model, [(2, 0)]):
        pass


def test_conditions_are_compared_prompt_by_prompt(model: Any, vector: InstructionVector) -> None:
    found = ivlens.compare_conditions(
        model,
        {"bare": (PROMPTS, None), "steered": (PROMPTS, ivlens.steer(model, vector, 1, 9.0))},
        task="made up",
        layer=1,
    )
    assert found.conditions == ("bare", "steered")
    torch.testing.assert_close(
        found.probabilities[0], ivlens.evaluate(model, PROMPTS).probabilities, rtol=1e-5, atol=1e-8
    )
    assert not found.probabilities[1].equal(found.probabilities[0])
    frame = found.to_frame()
    assert list(frame["n"]) == [3, 3]
    assert (frame["low"] <= frame["accuracy"]).all()
    assert (frame["accuracy"] <= frame["high"]).all()
    assert found.provenance["settings"] == {"layer": 1}


def test_heads_given_as_a_generator_are_silenced_too(model: Any) -> None:
    tokens = torch.tensor([[3, 4, 5]])
    with ivlens.ablate(model, ((1, head) for head in range(4))):
        _, after = model.run_with_cache(tokens)
    assert not after["z", 1][0, -1].any()


def test_conditions_on_different_queries_are_refused(model: Any) -> None:
    asked = [Prompt("the fox", " is", input="fox")]
    others = [Prompt("a dog", " is", input="dog")]
    for conditions in ({}, {"one": (asked, None), "two": (others, None)}):
        with pytest.raises(ArgumentError, match="conditions, one or more, on the same queries"):
            ivlens.compare_conditions(model, conditions)


@pytest.mark.parametrize("with_clean", [True, False])
def test_controls_stand_beside_the_vectors_in_one_wording(
    model: Any, vector: InstructionVector, with_clean: bool
) -> None:
    """Random vectors have the norm of the first vector, whatever stands beside it."""
    clean = [replace(prompt, text=f"Say it. {prompt.text}") for prompt in PROMPTS]
    vectors = {Condition.VECTOR: vector, Condition.OTHER_VECTOR: 3 * vector}
    conditions = controlled(model, PROMPTS, clean if with_clean else None, vectors, 1, 2.0, (4, 5))
    found = ivlens.compare_conditions(model, conditions)
    names = [
        "bare", "clean", "bare + vector", "bare + vector of another task", "bare + random vector 4",
        "bare + random vector 5",
    ]  # fmt: skip
    assert [*found.conditions] == [name for name in names if with_clean or name != "clean"]
    assert {type(name) for name in found.conditions} == {str}
    with ivlens.steer(model, ivlens.random_vector(vector, seed=5), 1, 2.0):
        expected = ivlens.evaluate(model, PROMPTS).probabilities
    torch.testing.assert_close(found.probabilities[-1], expected, rtol=1e-5, atol=1e-8)


def test_a_condition_is_found_by_its_name_or_by_its_seeds() -> None:
    names = ("bare", "bare + random vector 0", "bare + random vector 12", "bare + random vectors")
    assert Condition.BARE.among(names) == ["bare"]
    assert Condition.RANDOM_VECTOR.among(names) == [Condition.RANDOM_VECTOR.of(0), Condition.RANDOM_VECTOR.of(12)]
    assert Condition.CLEAN.among(names) == []


def test_default_layers_lie_between_percentages_of_the_depth() -> None:
    assert layer_grid(30, 25, 75, step=3) == (7, 10, 13, 16, 19)
    assert layer_grid(12, 0, 100, step=3) == (0, 3, 6, 9)
    assert layer_grid(12, 20, 75) == (2, 4, 6, 8)
    assert layer_grid(1, 25, 75, step=3) == layer_grid(1, 20, 75) == (0,)


def test_a_vector_of_nans_is_refused(model: Any) -> None:
    with (
        pytest.raises(ArgumentError, match="a vector of finite values"),
        ivlens.steer(model, torch.full((32,), torch.nan), 0),
    ):
        pass
