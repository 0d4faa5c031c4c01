"""Steering against plain Hugging Face hooks, on every way out of the context, and on the real model."""

from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, HookError, MismatchError, Prompt


def hook_count(model: Any) -> int:
    return sum(len(point.fwd_hooks) for point in model.hook_dict.values())


@pytest.fixture
def pair(tiny_hf: Any, tiny_tokenizer: Any) -> tuple[Any, Any, torch.Tensor]:
    """A tiny Hugging Face model, its HookedTransformer, and a vector."""
    source = tiny_hf("llama", num_hidden_layers=3)
    model = ivlens.load_model(source, tokenizer=tiny_tokenizer())
    return source, model, torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))


def test_the_vector_enters_at_the_last_prompt_token_also_of_long_answers(pair: Any) -> None:
    source, model, vector = pair
    prompts = [Prompt("the quick", " brown fox jumps"), Prompt("Q: 1 + 2?\nA:", " 3"), Prompt("dog", " lazy")]

    def expected(prompt: Prompt) -> float:
        encoded = prompt.encode(model.tokenizer)
        last = len(encoded.prompt_ids) - 1

        def add(module: Any, args: Any) -> Any:
            stream = args[0].clone()
            stream[0, last] += 0.7 * vector
            return (stream, *args[1:])

        handle = source.model.layers[1].register_forward_pre_hook(add)
        with torch.inference_mode():
            logs = source(torch.tensor([encoded.prompt_ids + encoded.answer_ids])).logits[0, last:-1].log_softmax(-1)
        handle.remove()
        return logs[range(len(encoded.answer_ids)), list(encoded.answer_ids)].sum().exp().item()

    with ivlens.steer(model, vector, 1, 0.7):
        steered = ivlens.evaluate(model, prompts)
    plain = ivlens.evaluate(model, prompts)
    for i, prompt in enumerate(prompts):
        assert steered.probabilities[i].item() == pytest.approx(expected(prompt), rel=1e-3)
        assert abs(steered.probabilities[i].log() - plain.probabilities[i].log()) > 1e-3


def test_a_plain_forward_pass_is_steered_at_its_last_or_at_all_positions(pair: Any) -> None:
    _, model, vector = pair
    tokens = torch.tensor([[3, 4, 5, 6]])
    _, before = model.run_with_cache(tokens)
    cases = {
        "last": [False, False, False, True],
        "generated": [False, False, False, True],
        "all": [True] * 4,
        1: [False, True, False, False],
        -2: [False, False, True, False],
        (0, -1): [True, False, False, True],
    }
    for position, changed in cases.items():
        with ivlens.steer(model, vector, 2, 2.0, position=position):
            _, after = model.run_with_cache(tokens)
        difference = after["resid_pre", 2][0] - before["resid_pre", 2][0]
        assert (difference.norm(dim=-1) > 1e-3).tolist() == changed
        moved = difference[torch.tensor(changed)]
        torch.testing.assert_close(moved, 2 * vector.expand_as(moved), rtol=1e-4, atol=1e-5)


def test_both_published_sites_add_the_vector(pair: Any) -> None:
    _, model, vector = pair
    tokens = torch.tensor([[3, 4, 5]])
    _, before = model.run_with_cache(tokens)
    with ivlens.steer(model, vector, 1, site="attn_out"):
        _, after = model.run_with_cache(tokens)
    torch.testing.assert_close((after["attn_out", 1] - before["attn_out", 1])[0, -1], vector, rtol=1e-4, atol=1e-5)
    assert after["resid_pre", 1].equal(before["resid_pre", 1])


def greedy(model: Any, tokens: torch.Tensor, steps: int, add: dict[int, torch.Tensor]) -> list[int]:
    """Greedy decoding without a cache: at each step, ``add`` is added to the residual stream entering block 1."""
    said = tokens.clone()
    for _ in range(steps):

        def edit(residual: torch.Tensor, hook: Any) -> torch.Tensor:
            for place, values in add.items():
                residual[:, place] += values
                if place == -1:
                    residual[:, tokens.shape[1] : -1] += values
                    if residual.shape[1] > tokens.shape[1]:
                        residual[:, tokens.shape[1] - 1] += values
            return residual

        with torch.inference_mode():
            logits = model.run_with_hooks(said, fwd_hooks=[("blocks.1.hook_resid_pre", edit)])
        said = torch.cat([said, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return said[0, tokens.shape[1] :].tolist()


@pytest.mark.parametrize("position", ["last", "generated"])
def test_generation_is_steered_at_the_prompt_or_at_every_step(pair: Any, position: str) -> None:
    """TransformerLens' own generate, with its cache, against decoding written out without one."""
    _, model, vector = pair
    tokens = torch.tensor([[3, 40, 5, 60]])
    strong = 5 * vector
    with ivlens.steer(model, strong, 1, position=position):
        out = model.generate(tokens, max_new_tokens=6, do_sample=False, stop_at_eos=False, verbose=False)
    place = tokens.shape[1] - 1 if position == "last" else -1
    assert out[0, 4:].tolist() == greedy(model, tokens, 6, {place: strong})
    assert out[0, 4:].tolist() != greedy(model, tokens, 6, {})
    assert not model.blocks[1]._forward_pre_hooks


def test_every_reaches_the_answer_tokens_that_last_does_not(pair: Any) -> None:
    _, model, vector = pair
    prompt = Prompt("the quick", " brown fox jumps")
    with ivlens.steer(model, vector, 1):
        last = ivlens.evaluate(model, [prompt])
    with ivlens.steer(model, vector, 1, position="generated"):
        every = ivlens.evaluate(model, [prompt])
    torch.testing.assert_close(every.first_token_probabilities, last.first_token_probabilities, rtol=1e-5, atol=0)
    assert (every.probabilities.log() - last.probabilities.log()).abs() > 1e-3


def test_no_hook_is_left_behind_on_any_way_out(pair: Any) -> None:
    _, model, vector = pair
    with ivlens.steer(model, vector, 0):
        model(torch.tensor([[3, 4]]))
        assert hook_count(model) == 1
    assert hook_count(model) == 0
    with pytest.raises(ZeroDivisionError), ivlens.steer(model, vector, 0):
        _ = 1 / 0
    assert hook_count(model) == 0
    with (
        pytest.raises(HookError, match=r"a forward pass through blocks\.1\.hook_resid_pre"),
        ivlens.steer(model, vector, 1),
    ):
        pass
    assert hook_count(model) == 0


def test_nested_vectors_add_up_and_leave_in_order(pair: Any) -> None:
    _, model, vector = pair
    tokens = torch.tensor([[3, 4, 5]])
    with ivlens.steer(model, vector, 1, 3.0):
        once = model(tokens)
    with ivlens.steer(model, vector, 1, 1.0), ivlens.steer(model, vector, 1, 2.0):
        twice = model(tokens)
        assert hook_count(model) == 2
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-5)
    assert hook_count(model) == 0


def test_messages(pair: Any, tiny_hooked: Any) -> None:
    _, model, vector = pair
    cases = [
        (ArgumentError, "layer to be from 0 to 2; got 3", {"layer": 3}),
        (ArgumentError, "scale to be a finite number; got nan", {"layer": 0, "scale": float("nan")}),
        (
            ArgumentError,
            "position to be one of 'last', 'generated', 'all', or indices",
            {"layer": 0, "position": "first"},
        ),
    ]
    for error, message, options in cases:
        with pytest.raises(error, match=message), ivlens.steer(model, vector, **options):
            pass
    with (
        pytest.raises(MismatchError, match=r"a vector of shape \(32,\); got \(31,\)"),
        ivlens.steer(model, vector[1:], 0),
    ):
        pass
    with pytest.raises(ArgumentError, match="position to lie within every prompt; got index 9 for 2 tokens"):  # noqa: SIM117
        with ivlens.steer(model, vector, 0, position=9):
            model(torch.tensor([[3, 4]]))
    assert hook_count(model) == 0
    other = tiny_hooked("gpt2")
    prompts = [Prompt("the fox", " is")]
    foreign = ivlens.instruction_vector(other, ivlens.mean_head_activations(other, prompts), [(0, 0)])
    with (
        pytest.raises(MismatchError, match="architecture LlamaForCausalLM, not GPT2LMHeadModel"),
        ivlens.steer(model, foreign, 0),
    ):
        pass


def test_real_instruction_vector_beats_its_controls(smollm2: Any) -> None:
    """First measured on SmolLM2: bare 0, + own vector .68 to .82, + another task's .04 to .14, + random 0."""
    names, k, cell = ("present-past", "singular-plural"), 20, (12, 4.0)
    tasks = [ivlens.load_task(name) for name in names]
    found = [ivlens.locate_heads(smollm2, task, n_clean=25, n_corrupted=8) for task in tasks]
    own, other = (ivlens.instruction_vector(smollm2, effects.means, effects.top(k)) for effects in found)
    bare = tasks[0].prompts(25, shots=0, instruction=False, split="test")

    def accuracy(vector: Any) -> float:
        with ivlens.steer(smollm2, vector, *cell):
            return ivlens.evaluate(smollm2, bare).accuracy

    assert ivlens.evaluate(smollm2, bare).accuracy == 0
    assert accuracy(own) > 0.5
    assert accuracy(other) < 0.2
    assert accuracy(ivlens.random_vector(own, seed=0)) < 0.1
