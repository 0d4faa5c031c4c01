"""A layer's output is the next one's input, to the bit; that of the last block is held to plain Hugging Face hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import ivlens
from ivlens import ArgumentError, InstructionVector, Prompt, SteeredAnswers, SteeringSweep
from ivlens.models.engines import has_hooked
from ivlens.steering import controlled
from tiny_models import HYBRID, ONLY_BRIDGED, TINY

PROMPTS = [
    Prompt("the fox", (" is", " jumps over")),
    Prompt("Q: what is the capital of France?\nA:", " Paris and the"),
    Prompt("1", (" lazy",)),
]
HUGGING_FACE = {"rtol": 1e-6, "atol": 1e-5}  # its softmax and rotary angles are float32 in models of float64, too
MODELS = [
    *(("hooked", family) for family in TINY if has_hooked()),
    *(("bridge", family) for family in (*TINY, *ONLY_BRIDGED)),
]


def own_vector(width: int, dtype: torch.dtype = torch.float64) -> InstructionVector:
    values = 3 * torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return InstructionVector(values, values.new_zeros(0, width), (), "made up")


def layers_of(source: nn.Module, n_layers: int) -> nn.ModuleList:
    return next(each for each in source.modules() if isinstance(each, nn.ModuleList) and len(each) == n_layers)


@contextmanager
def output_steered(layer: nn.Module, at: int, values: torch.Tensor) -> Iterator[None]:
    """A plain hook of torch on a block's output."""

    def add(module: Any, args: Any, output: Any) -> Any:
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        stream[:, at] += values
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def by_hugging_face(source: Any, tokenizer: Any, layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """The log-probability of each prompt's first answer."""
    found = []
    for prompt in PROMPTS:
        ids = prompt.encode(tokenizer)
        last = len(ids.prompt_ids) - 1
        with output_steered(layer, last, values):
            logits = source(torch.tensor([ids.prompt_ids + ids.answer_ids]), use_cache=False).logits[0, last:-1]
        found.append(logits.log_softmax(-1)[range(len(ids.answer_ids)), list(ids.answer_ids)].sum())
    return torch.stack(found)


@pytest.fixture(params=MODELS, ids=lambda each: "-".join(each))
def pair(request: Any, tiny_hf: Any, tiny_tokenizer: Any) -> tuple[Any, Any]:
    """A tiny Hugging Face model in float64, and what ivlens makes of it."""
    engine, family = request.param
    # Hugging Face's Gemma 2 takes its softmax in float32, beyond which float64's mask is: padding is not-a-number
    dtype = torch.float32 if (engine, family) == ("bridge", "gemma2") else torch.float64
    source = tiny_hf(family).to(dtype)
    return source, ivlens.load_model(source, tokenizer=tiny_tokenizer(), engine=engine, dtype=dtype)


def test_an_output_is_the_next_input_and_the_last_one_is_what_hugging_face_has(pair: Any) -> None:
    """By hooks (``steer`` with ``evaluate``), by streams (``compare_conditions``), and in a sweep."""
    source, model = pair
    vector, n_layers = own_vector(model.cfg.d_model, model.cfg.dtype), model.cfg.n_layers
    outputs, inputs = range(n_layers - 1), range(1, n_layers)
    conditions = [
        [
            (PROMPTS, ivlens.steer(model, vector, layer, 0.5, site=site))
            for layer in layers
        ]
        for layers, site in ((outputs, "resid_post"), (inputs, "resid_pre"))
    ]  # fmt: skip
    leaving, entering = (
        ivlens.compare_conditions(model, {str(number): each for number, each in enumerate(of_site)}).probabilities
        for of_site in conditions
    )
    assert leaving.equal(entering)
    for (_, out), (_, into) in zip(*conditions, strict=True):
        with out:
            one = ivlens.evaluate(model, PROMPTS)
        with into:
            other = ivlens.evaluate(model, PROMPTS)
        assert one.probabilities.equal(other.probabilities)
    sweep = partial(ivlens.steering_sweep, model, vector, PROMPTS, scales=[0.5, -1.0])
    assert sweep(list(outputs), site="resid_post").probabilities.equal(sweep(list(inputs)).probabilities)

    last = n_layers - 1
    layer, steered = layers_of(source, n_layers)[last], ivlens.steer(model, vector, last, 0.5, site="resid_post")
    expected = by_hugging_face(source, model.tokenizer, layer, 0.5 * vector.values)
    with steered:
        hooked = ivlens.evaluate(model, PROMPTS)
    compared = ivlens.compare_conditions(model, {"bare": (PROMPTS, None), "steered": (PROMPTS, steered)})
    swept = sweep([0, last], site="resid_post")
    for probabilities in (hooked.probabilities, compared.probabilities[1], swept.probabilities[1, 0, 0]):
        torch.testing.assert_close(probabilities.log(), expected.double(), **HUGGING_FACE)
    assert (compared.probabilities[0].log() - expected).abs().min() > 1e-3


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_generation_and_the_mean_difference_at_the_last_blocks_output(
    tiny_hf: Any, tiny_tokenizer: Any, engine: str
) -> None:
    if engine == "hooked" and not has_hooked():
        pytest.skip("no HookedTransformer")
    source = tiny_hf("llama").double()
    model = ivlens.load_model(source, tokenizer=tiny_tokenizer(), engine=engine, dtype=torch.float64)
    layer, vector = layers_of(source, 2)[1], own_vector(model.cfg.d_model)
    ids, ends = model.to_tokens("the quick fox"), []
    for _ in range(4):
        with torch.inference_mode(), output_steered(layer, -1, 2 * vector.values):
            ids = torch.cat([ids, source(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    asked = {"vector": vector, "layer": 1, "scale": 2.0, "max_tokens": 4, "stop": (), "position": "generated"}
    answers = ivlens.generate(model, "the quick fox", **asked, site="resid_post")
    assert answers.steered[0][0] == model.tokenizer.decode(ids[0, -4:]) != answers.without[0]
    assert str(answers).startswith("vector of made up at layer 1, resid_post")
    assert ivlens.generate(model, "the quick fox", **asked).steered != answers.steered

    for prompt in PROMPTS[:2]:
        handle = layer.register_forward_hook(
            lambda module, args, output: ends.append((output[0] if isinstance(output, tuple) else output)[0, -1])
        )
        with torch.inference_mode():
            source(torch.tensor([prompt.encode(model.tokenizer).prompt_ids]))
        handle.remove()
    difference = ivlens.mean_difference(model, PROMPTS[0], PROMPTS[1], 1, site="resid_post")
    torch.testing.assert_close(difference.values, ends[0].flatten() - ends[1].flatten(), rtol=1e-4, atol=1e-4)
    assert difference.task == "mean difference, layer 1, resid_post"
    inner = ivlens.mean_difference(model, PROMPTS[0], PROMPTS[1], 0, site="resid_post")
    assert inner.values.equal(ivlens.mean_difference(model, PROMPTS[0], PROMPTS[1], 1).values)


def test_layers_without_heads_have_an_output_too(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    (family,) = HYBRID
    source = tiny_hf(family).double()
    model = ivlens.load_model(source, tokenizer=tiny_tokenizer(), engine="bridge", dtype=torch.float64)
    vector = own_vector(model.cfg.d_model)
    expected = by_hugging_face(source, model.tokenizer, layers_of(source, 2)[1], vector.values)
    sweep = ivlens.steering_sweep(model, vector, PROMPTS, [1], [1.0], site="resid_post")
    torch.testing.assert_close(sweep.probabilities[0, 0, 0].log(), expected, **HUGGING_FACE)


def test_where_each_prompt_runs_whole_the_last_blocks_output_is_steered_alike(
    tiny_hf: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Bridge whose cache does not serve many rows."""
    from ivlens.models.bridge.rows import SweepTrial

    model = ivlens.load_model(
        tiny_hf("llama").double(), tokenizer=tiny_tokenizer(), engine="bridge", dtype=torch.float64
    )
    sweep = partial(ivlens.steering_sweep, model, own_vector(32), PROMPTS, [0, 1], [1.0], site="resid_post")
    expected = sweep()
    monkeypatch.setitem(vars(model), "sweep_trial", SweepTrial(None, "made up"))
    with pytest.warns(ivlens.FallbackWarning):
        torch.testing.assert_close(sweep().probabilities, expected.probabilities, rtol=1e-9, atol=1e-12)


@pytest.fixture
def model(tiny_hooked: Any) -> Any:
    return tiny_hooked("llama")


@pytest.mark.parametrize(
    ("layer", "words"),
    [(-1, "from 0 to 1; got -1"), (2, "from 0 to 1; got 2"), ("1", "a whole number"), (1.5, "a whole number")],
)
def test_a_layer_that_does_not_exist_is_refused_in_the_same_words(model: Any, layer: Any, words: str) -> None:
    vector = own_vector(32, torch.float32)
    explorer = ivlens.explore(model, PROMPTS, corrupted=PROMPTS)
    calls = {
        "generate": partial(ivlens.generate, model, "the", vector=vector, layer=layer),
        "explore": partial(ivlens.explore, model, PROMPTS, corrupted=PROMPTS, layer=layer),
    }
    if isinstance(layer, int):  # beartype, which runs in tests alone, is at the setter before its check
        calls["widget"] = partial(setattr, explorer, "layer", layer)
    for site in ("resid_pre", "resid_post", "attn_out"):
        calls[f"steer {site}"] = partial(ivlens.steer, model, vector, layer, site=site)
        calls[f"mean difference {site}"] = partial(ivlens.mean_difference, model, PROMPTS, PROMPTS, layer, site=site)
    for call in calls.values():
        with pytest.raises(ArgumentError, match=f"expected layer to be {words}"):
            call()
    for site in ("resid_pre", "resid_post"):
        with pytest.raises(
            ArgumentError, match=r"expected layers(\[0\] to be a whole number| from 0 to 1, one or more)"
        ):
            ivlens.steering_sweep(model, vector, PROMPTS, [layer], [1.0], site=site)


def test_a_site_that_a_function_does_not_have_is_refused_by_name(model: Any) -> None:
    vector = own_vector(32, torch.float32)
    with pytest.raises(ArgumentError, match="site to be one of 'resid_pre', 'resid_post'; got 'attn_out'"):
        ivlens.steering_sweep(model, vector, PROMPTS, [0], [1.0], site="attn_out")
    with pytest.raises(ArgumentError, match=r"site to be .*'resid_post'.*; got 'resid_mid'"):
        ivlens.steer(model, vector, 0, site="resid_mid")


def test_records_say_where_in_the_layer_it_was(model: Any, tmp_path: Any) -> None:
    vector = own_vector(32, torch.float32)
    sweep = ivlens.steering_sweep(model, vector, PROMPTS, [0, 1], [1.0], site="resid_post")
    assert SteeringSweep.load(sweep.save(tmp_path / "sweep.safetensors")).site == "resid_post"
    assert set(sweep.to_frame()["site"]) == {"resid_post"}
    figure = ivlens.views.sweep_heatmap(sweep)
    assert figure.layout.yaxis.title.text == "layer, resid_post"
    answers = ivlens.generate(model, "the", vector=vector, layer=1, max_tokens=1, site="resid_post")
    assert SteeredAnswers.load(answers.save(tmp_path / "answers.safetensors")).site == "resid_post"


def test_controls_are_steered_where_the_vector_is(model: Any) -> None:
    vector = own_vector(32, torch.float32)
    conditions = controlled(model, PROMPTS, None, {"bare + vector": vector}, 1, 2.0, (4,), "resid_post")
    found = ivlens.compare_conditions(model, conditions)
    for row, each in enumerate((vector, ivlens.random_vector(vector, seed=4)), 1):
        with ivlens.steer(model, each, 1, 2.0, site="resid_post"):
            expected = ivlens.evaluate(model, PROMPTS).probabilities
        torch.testing.assert_close(found.probabilities[row], expected, rtol=1e-5, atol=1e-9)


def test_judged_by_generation_a_sweep_steers_the_output_too(model: Any) -> None:
    scoring = ivlens.GenerationScoring(max_tokens=3)
    prompt = Prompt("the quick fox", " is", scoring=scoring)
    vector = own_vector(32, torch.float32)
    sweep = ivlens.steering_sweep(model, vector, prompt, [1], [4.0], site="resid_post")
    with ivlens.steer(model, vector, 1, 4.0, site="resid_post"):
        assert sweep.correct.flatten().equal(ivlens.evaluate(model, prompt).correct)
