"""P(answer | prompt) and greedy accuracy against plain Hugging Face."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import ivlens
from ivlens import ArgumentError, Prompt, PromptError, scoring

PROMPTS = [
    Prompt("Country: France\nCapital: Paris\n\nCountry: Japan\nCapital:", (" Tokyo",)),
    Prompt("The author of Harry Potter is", (" J.K. Rowling", " J. K. Rowling")),
    Prompt("1 + 1 =", (" two", " Two")),
    Prompt("Word: dog\nFrench:", (" chien",)),
]


@pytest.fixture(scope="module")
def hugging_face(smollm2_folder: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).eval()


def log_probabilities(model: Any, prompt: Prompt, answer: str, tokenizer: Any) -> torch.Tensor:
    """The answer's tokens' log probabilities, one unpadded forward pass of the Hugging Face model."""
    before = tokenizer(prompt.text)["input_ids"]
    whole = torch.tensor([tokenizer(prompt.text + answer)["input_ids"]])
    with torch.inference_mode():
        logs = model(whole).logits[0].double().log_softmax(-1)
    return torch.stack([logs[at - 1, whole[0, at]] for at in range(len(before), whole.shape[1])])


def test_probabilities_equal_plain_hugging_face(smollm2: Any, hugging_face: Any) -> None:
    result = ivlens.evaluate(smollm2, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        logs = log_probabilities(hugging_face, prompt, prompt.answers[0], smollm2.tokenizer)
        assert result.probabilities[i].item() == pytest.approx(logs.sum().exp().item(), rel=1e-3)
        assert result.token_probabilities[i].item() == pytest.approx(logs.mean().exp().item(), rel=1e-3)
        assert result.first_token_probabilities[i].item() == pytest.approx(logs[0].exp().item(), rel=1e-3)
    assert len(log_probabilities(hugging_face, PROMPTS[1], " J.K. Rowling", smollm2.tokenizer)) > 2


def test_answers_that_begin_with_a_blank_token_are_scored_whole(smollm2: Any, hugging_face: Any) -> None:
    prompts = [
        Prompt("one two three four five six, and in digits: 1 2 3 4 5", " 6"),
        Prompt("6 + 1 =", (" 7", " seven")),
    ]
    prompts.append(Prompt("Word: spring\nFrench:", " été"))
    result = ivlens.evaluate(smollm2, prompts)
    for i, prompt in enumerate(prompts):
        logs = log_probabilities(hugging_face, prompt, prompt.answers[0], smollm2.tokenizer)
        answer = prompt.encode(smollm2.tokenizer).answer_ids
        assert smollm2.tokenizer.decode(answer[:1]) == " "
        assert result.probabilities[i].item() == pytest.approx(logs.sum().exp().item(), rel=1e-3)
        assert result.first_token_probabilities[i].item() == pytest.approx(logs[:2].sum().exp().item(), rel=1e-3)
    assert result.correct[0]


def test_effects_of_answers_that_begin_with_a_blank_token(tiny_hooked: Any) -> None:
    """The issue's task: some answers are digits, some words; each answer's effect is that of its whole probability."""
    model = tiny_hooked("llama")
    pairs = [("one", "two"), ("7", "8"), ("x", "y"), ("3", "4"), ("red", "blue"), ("5", "6")]
    task = ivlens.load_task(pairs, name="next", instructions="Next.", labels=("Item", "Next"))
    effects = ivlens.locate_heads(model, task, split="all", n_clean=4, n_corrupted=6, shots=1, metric="probability")
    bare = task.prompts(6, shots=1, corruption="no-instruction")
    assert effects.baseline.allclose(ivlens.evaluate(model, bare).probabilities.to(effects.baseline), rtol=1e-4)


def test_prompts_that_cannot_be_used_are_named_before_anything_runs(
    tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_hooked("llama")
    monkeypatch.setattr(model, "forward", None)
    prompts = [
        Prompt("the capital ", "of", input="a"),
        Prompt("the capital", " of"),
        Prompt("of France ", ("is", "x"), input="b"),
    ]
    for measure in (ivlens.evaluate, lambda model, prompts: scoring.all_ids(model, prompts)):
        with pytest.raises(PromptError, match=r"2 of \d prompts cannot be used: 'a' -> 'of', 'b' -> 'is'$"):
            measure(model, prompts)
    pairs = [(f"fox {n}", "dog") for n in range(9)]
    task = ivlens.load_task(pairs, name="toy", instructions="Say it.")
    with pytest.raises(PromptError, match="4 of 4 prompts cannot be used: 'fox "):
        ivlens.locate_heads(model, task, n_clean=4, n_corrupted=4, format=lambda turns: f"the {turns.query} of the ")


def test_a_hit_is_what_greedy_decoding_says(smollm2: Any, hugging_face: Any) -> None:
    result = ivlens.evaluate(smollm2, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([smollm2.tokenizer(prompt.text)["input_ids"]])
        out = hugging_face.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=2)
        said = smollm2.tokenizer.decode(out[0, ids.shape[1] :])
        assert bool(result.correct[i]) == any(said.startswith(answer) for answer in prompt.answers)
    assert {True, False} == set(result.correct.tolist())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batching_changes_no_number(smollm2: Any, batch_size: int) -> None:
    whole = ivlens.evaluate(smollm2, PROMPTS, batch_size=64)
    parts = ivlens.evaluate(smollm2, PROMPTS, batch_size=batch_size)
    torch.testing.assert_close(parts.probabilities, whole.probabilities, rtol=1e-4, atol=1e-9)
    assert parts.correct.equal(whole.correct)


def test_any_accepted_answer_is_a_hit_but_the_first_is_scored(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    ids = model.tokenizer("the fox")["input_ids"]
    with torch.inference_mode():
        best = model(torch.tensor([ids]))[0, -1].argmax()
    greedy = model.tokenizer.decode([best])
    other = next(letter for letter in ("x", "y") if letter != greedy)
    both = ivlens.evaluate(model, [Prompt("the fox", (other, greedy))])
    alone = ivlens.evaluate(model, [Prompt("the fox", other)])
    assert (both.accuracy, alone.accuracy) == (1, 0)
    assert both.probability == pytest.approx(alone.probability)


def test_knowledge_and_clean_prompts_of_a_real_task(smollm2: Any) -> None:
    """First measured: clean .98 on present-past (n = 30), bare prompts 0."""
    task = ivlens.load_task("present-past")
    clean = ivlens.evaluate(smollm2, task.prompts(20, split="test"))
    bare = ivlens.evaluate(smollm2, task.prompts(20, split="test", shots=0, instruction=False))
    assert clean.accuracy > 0.8
    assert bare.accuracy < 0.1
    assert clean.n == 20
    assert 0 <= clean.accuracy_stderr < 0.12


def test_messages(tiny_hooked: Any) -> None:
    model = tiny_hooked("gpt2")
    with pytest.raises(PromptError, match="at least one prompt; got none"):
        ivlens.evaluate(model, [])
    with pytest.raises(PromptError, match="context of 128 tokens; got one of"):
        ivlens.evaluate(model, [Prompt("a fox" * 100, " is")])
    with pytest.raises(PromptError, match=r"shorten it; 1 of 2 prompts cannot be used: 'long' -> ' is'$"):
        ivlens.evaluate(model, [Prompt("a fox", " is"), Prompt("a fox" * 100, " is", input="long")])
    with pytest.raises(PromptError, match=r"1 of 2 prompts cannot be used: 'long'$"):
        ivlens.mean_head_activations(model, [Prompt("a fox", " is"), Prompt("a fox" * 100, " is", input="long")])
    with pytest.raises(ArgumentError, match="batch_size to be a whole number of 1 or more; got 0"):
        ivlens.evaluate(model, [Prompt("a", " is")], batch_size=0)
