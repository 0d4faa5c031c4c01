"""Multiple choice by likelihood: option scores, the judge, chance."""

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import ivlens as iv
from ivlens import Prompt, scoring
from ivlens.models import PromptCandidates, load_model
from ivlens.models.engines import has_hooked
from ivlens.records import Evaluation
from ivlens.scoring import Candidates, Likelihoods, judge
from tiny_models import WORDS

needs_hooked = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")
ENGINES = [pytest.param("hooked", marks=needs_hooked), "bridge"]
SUM, TOKEN, CHARACTER = (iv.OptionScoring(normalise=by) for by in ("sum", "token", "character"))
PROMPTS = [
    Prompt("the capital of France is", " Paris", options=(" Paris", " the quick fox", " the quick brown", " dog 1")),
    Prompt("the quick brown fox jumps over", " the lazy", options=(" the dog", " the lazy", " fox"), scoring=TOKEN),
    Prompt("Q: 1 + 2 =", (" 3", " 2 + 1"), options=(" 2", " 3", " 2 + 1", " 1 fox"), scoring=CHARACTER),
    Prompt("the lazy dog", (" is quick", " is")),  # judged by greedy decoding
]  # fmt: skip


def asked(texts: tuple[str, ...], accepted: tuple[str, ...], sizes: tuple[int, ...], scoring: Any) -> Candidates:
    prompt = Prompt("a prompt", accepted, options=texts, scoring=scoring)
    return Candidates(prompt, texts, PromptCandidates((1,), tuple((5,) * size for size in sizes)))


# ------------------------------------------------------------------ the judge


@pytest.mark.parametrize(
    ("scoring", "logs", "chosen"),
    [
        (None, (-3.0, -2.0, -2.5), 1),
        (SUM, (-3.0, -2.0, -2.5), 1),
        (TOKEN, (-3.0, -2.0, -2.5), 2),  # -1.5, -2, -0.625
        (CHARACTER, (-3.0, -2.0, -2.5), 0),  # -0.3, -2 / 3, -0.5
        (SUM, (-2.0, -2.0, -2.0), 0),  # the first of several
        (SUM, (-torch.inf, -torch.inf, -9.0), 2),
    ],
)
def test_the_option_of_highest_likelihood_is_the_answer(scoring: Any, logs: Any, chosen: int) -> None:
    texts = (" ten chars!", " one", " five!")
    for accepted in texts:
        likelihoods = Likelihoods(torch.tensor(logs).double(), torch.zeros(3, dtype=torch.bool))
        found = judge(asked(texts, (accepted,), (2, 1, 4), scoring), likelihoods)
        assert (int(found.chosen), bool(found.correct)) == (chosen, texts[chosen] == accepted)


@pytest.mark.parametrize(
    ("greedy", "correct", "chosen"),
    [((False, False), False, -1), ((True, False), True, 0), ((False, True), True, 1), ((True, True), True, 0)],
)
def test_without_options_greedy_decoding_decides(greedy: Any, correct: bool, chosen: int) -> None:
    texts = (" a", " b")
    candidates = Candidates(Prompt("a prompt", texts), texts, PromptCandidates((1,), ((5,), (6,))))
    found = judge(candidates, Likelihoods(torch.tensor([-9.0, -1.0]), torch.tensor(greedy)))
    assert (bool(found.correct), int(found.chosen)) == (correct, chosen)


@given(
    st.lists(st.tuples(st.floats(-50, 0), st.integers(1, 9), st.booleans()), min_size=2, max_size=6),
    st.sampled_from([None, SUM, TOKEN, CHARACTER]),
    st.integers(1, 3),
)
def test_runs_are_judged_alone_and_order_does_not_matter(options: Any, scoring: Any, runs: int) -> None:
    logs, sizes, accepted = zip(*options, strict=True)
    texts = tuple(f" {'x' * size}{number}" for number, size in enumerate(sizes))
    right = tuple(text for text, each in zip(texts, accepted, strict=True) if each) or texts[:1]
    right = right[: len(texts) - 1]
    values = torch.stack([torch.tensor(logs).double().roll(run) for run in range(runs)])
    likelihoods = Likelihoods(values, torch.zeros(values.shape, dtype=torch.bool))
    candidates = asked(texts, right, sizes, scoring)
    together = judge(candidates, likelihoods)
    by = {SUM: [1] * len(sizes), TOKEN: sizes, CHARACTER: [len(text) - 1 for text in texts]}.get(
        scoring, [1] * len(sizes)
    )
    for run in range(runs):
        alone = judge(candidates, Likelihoods(values[run], likelihoods.greedy[run]))
        each = [value / size for value, size in zip(values[run].tolist(), by, strict=True)]
        assert int(together.chosen[run]) == int(alone.chosen) == each.index(max(each))
        assert bool(together.correct[run]) == bool(alone.correct) == (texts[int(alone.chosen)] in right)
    back = asked(texts[::-1], right, sizes[::-1], scoring)
    turned = judge(back, Likelihoods(values.flip(-1), likelihoods.greedy))
    best = [[value / size for value, size in zip(row, by, strict=True)] for row in values.tolist()]
    for run, each in enumerate(best):
        if each.count(max(each)) == 1:
            assert back.texts[int(turned.chosen[run])] == texts[int(together.chosen[run])]


# ------------------------------------------------------------------ scores against plain Hugging Face


@pytest.fixture(scope="module")
def load(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    def loaded(model_type: str, engine: str) -> Any:
        theirs = tiny_hf(model_type).double()
        return load_model(theirs, tokenizer=tiny_tokenizer(), engine=engine, dtype=torch.float64), theirs

    return loaded


@contextmanager
def edited(theirs: Any, path: str, edit: Callable[[Tensor], Tensor]) -> Any:
    """Within this context a module's input is edited, by a plain hook of torch."""

    def before(_: nn.Module, args: Any, options: Any) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), options
        return args, options | {"hidden_states": edit(options["hidden_states"])}

    handle = theirs.get_submodule(path).register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def by_hand(theirs: Any, prompt: Prompt, text: str, tokenizer: Any, change: Any = None) -> tuple[float, int]:
    """The summed log-likelihood of a text after a prompt, in one pass of Hugging Face's model, and its tokens.

    ``change`` is a module's path and what happens to its input, given the last prompt token's position.
    """
    before, whole = (tokenizer(each)["input_ids"] for each in (prompt.text, prompt.text + text))
    with torch.no_grad(), ExitStack() as hooks:
        if change is not None:
            path, edit = change
            hooks.enter_context(edited(theirs, path, lambda stream: edit(stream.clone(), len(before) - 1)))
        logs = theirs(input_ids=torch.tensor([whole]), use_cache=False).logits[0].double().log_softmax(-1)
    at = range(len(before), len(whole))
    return sum(logs[each - 1, whole[each]].item() for each in at), len(at)


def check(model: Any, theirs: Any, found: Evaluation, change: Any = None, rounding: float = 1e-5) -> None:
    sizes = {
        None: lambda text, n: 1,
        SUM: lambda text, n: 1,
        TOKEN: lambda text, n: n,
        CHARACTER: lambda text, n: len(text) - 1,
    }
    for number, prompt in enumerate(PROMPTS):
        scored = {
            text: by_hand(theirs, prompt, text, model.tokenizer, change) for text in (*prompt.options, *prompt.answers)
        }
        first = scored[prompt.answers[0]][0]
        assert found.probabilities[number].log().item() == pytest.approx(first, rel=rounding)
        if not prompt.options:
            assert found.option_log_likelihoods[number] == () == found.options[number]
            continue
        expected = [scored[text][0] for text in prompt.options]
        assert list(found.option_log_likelihoods[number]) == pytest.approx(expected, rel=rounding)
        best = max(prompt.options, key=lambda text: scored[text][0] / sizes[prompt.scoring](text, scored[text][1]))
        assert found.texts[number] == best.strip()
        assert bool(found.correct[number]) == (best in prompt.answers)
    assert found.chance.tolist() == [1 / 4, 1 / 3, 2 / 4, 0]


BLOCKS = {
    "llama": "model.layers.1",
    "gpt2": "transformer.h.1",
    "mistral": "model.layers.1",
    "gemma3_text": "model.layers.1",
}
OUTPUTS = {
    "llama": "self_attn.o_proj",
    "gpt2": "attn.c_proj",
    "mistral": "self_attn.o_proj",
    "gemma3_text": "self_attn.o_proj",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model_type", BLOCKS)
def test_scores_of_options_are_sums_of_hugging_faces(load: Any, model_type: str, engine: str) -> None:
    model, theirs = load(model_type, engine)
    check(model, theirs, iv.evaluate(model, PROMPTS, batch_size=2))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model_type", BLOCKS)
@pytest.mark.parametrize("position", ["last", "generated", "all", 1, -2, [0, -1]])
def test_and_under_steering_too(load: Any, model_type: str, engine: str, position: Any) -> None:
    model, theirs = load(model_type, engine)
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0)).double()

    def edit(stream: Tensor, last: int) -> Tensor:
        named = {"last": [last], "generated": [*range(last, stream.shape[1])], "all": [*range(stream.shape[1])]}
        at = named[position] if isinstance(position, str) else [position] if isinstance(position, int) else position
        at = [each if each >= 0 else last + 1 + each for each in at]
        stream[:, at] += 2 * vector
        return stream

    plain = iv.evaluate(model, PROMPTS)
    with iv.steer(model, vector, 1, scale=2.0, position=position):
        found = iv.evaluate(model, PROMPTS, batch_size=2)
    check(model, theirs, found, (BLOCKS[model_type], edit))
    assert not torch.allclose(found.probabilities, plain.probabilities, rtol=1e-2)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model_type", BLOCKS)
def test_and_with_heads_ablated(load: Any, model_type: str, engine: str) -> None:
    model, theirs = load(model_type, engine)
    width = model.cfg.d_head

    def edit(z: Tensor, last: int) -> Tensor:
        z[:, last, width : 2 * width] = 0
        return z

    with iv.ablate(model, [(1, 1)]):
        found = iv.evaluate(model, PROMPTS, batch_size=2)
    check(model, theirs, found, (f"{BLOCKS[model_type]}.{OUTPUTS[model_type]}", edit))


@pytest.mark.parametrize("engine", ENGINES)
def test_hooks_of_a_users_own_see_whole_prompts(load: Any, engine: str) -> None:
    """Nothing says that a hook which edits the fourth token would do the same in a pass over an answer alone."""
    model, theirs = load("llama", engine)

    def edit(stream: Tensor, last: int) -> Tensor:
        stream[:, 3:4] *= -1
        return stream

    if engine == "hooked":
        hooks = model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda stream, hook: edit(stream.clone(), 0))])
    else:
        hooks = edited(theirs, BLOCKS["llama"], lambda stream: edit(stream.clone(), 0))
    with hooks:
        found = iv.evaluate(model, PROMPTS, batch_size=2)
    check(model, theirs, found, (BLOCKS["llama"], edit))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("budget", [None, 40])
def test_a_steering_sweep_judges_as_evaluations_under_steering(load: Any, engine: str, budget: int | None) -> None:
    model, _ = load("mistral", engine)
    values = torch.randn(32, generator=torch.Generator().manual_seed(1)).double()
    vector = iv.InstructionVector(values, torch.zeros(0, 32).double(), (), "shift")
    sweep = iv.steering_sweep(model, vector, PROMPTS, [1, 0], [0.5, -2.0], stream_budget=budget)
    for layer in (0, 1):
        for at, scale in enumerate(sweep.scales):
            with iv.steer(model, vector, layer, scale):
                found = iv.evaluate(model, PROMPTS)
            assert sweep.correct[1 - layer, at, 0].equal(found.correct)
            torch.testing.assert_close(sweep.probabilities[1 - layer, at, 0], found.probabilities, rtol=1e-6, atol=0)


def test_options_make_the_answer_where_greedy_decoding_gives_none(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    options = tuple(f" {word}" for word in WORDS[:4])
    found = iv.evaluate(model, [Prompt("the fox", option, options=options) for option in options])
    assert found.correct.sum() == 1
    assert {*found.texts} == {options[int(found.correct.long().argmax())].strip()}
    assert found.accuracy == found.score == 0.25
    assert found.adjusted_accuracy == pytest.approx(0)
    low, high = found.adjusted_accuracy_interval()
    assert low < 0 < high < 1
    frame = found.to_frame()
    assert frame["chance"].tolist() == [0.25] * 4
    assert frame["text"].tolist() == list(found.texts)


def test_options_that_cannot_be_tokenised_are_named(tiny_hooked: Any) -> None:
    prompt = Prompt("the capital of", " Paris", options=(" Paris", " is" * 200), input="capital")
    with pytest.raises(iv.PromptError, match="1 of 2 prompts cannot be used: 'capital' -> ' is is"):
        iv.evaluate(tiny_hooked("gpt2"), prompt)


def test_characters_are_counted_without_the_leading_space(tiny_hooked: Any) -> None:
    prompt = Prompt("the", " is", options=(" is", "over", " the dog"))
    (found,) = scoring.candidates_of(tiny_hooked("llama"), prompt)
    assert found.n_characters == [2, 4, 7]
    assert (found.first, found.accepted, found.n_tokens[2]) == (0, [True, False, False], 2)
