"""Generated answers equal, token for token, Hugging Face's ``generate`` on each prompt alone, whatever edits run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ivlens as iv
from ivlens import ArgumentError, FallbackWarning, Prompt, PromptError
from ivlens.models import decode_greedily, decoding, end_of_text, resid_pre_name
from ivlens.scoring import prompt_ids

LAYER, TOKENS = 1, 10
PROMPTS = [
    Prompt("the capital", " x"), Prompt("the quick brown fox jumps over the lazy dog", " x"),
    Prompt("Q: 1 + 2 =", " x"), Prompt("fox of", " x"),
]  # fmt: skip
HOOKED = ["llama", "gpt2", "gemma3_text", "mistral", "bloom", "opt", "gptj", "gpt_neo", "phi3"]
BRIDGED = ["llama", "gpt2", "bloom", "opt", "smollm3", "olmo3", "cohere2", "qwen3_moe", "gpt_oss", "qwen3_5_text"]
# which tokens of a pass over a prompt of n tokens are steered, and whether those of later passes are
POSITIONS: dict[Any, tuple[Callable[[int], list[int]], bool]] = {
    "last": (lambda n: [n - 1], False),
    "generated": (lambda n: [n - 1], True),
    "all": (lambda n: list(range(n)), True),
    (0, -2): (lambda n: [0, n - 2], False),
}


def layers_of(source: nn.Module) -> nn.ModuleList:
    return next(each for each in source.modules() if isinstance(each, nn.ModuleList) and len(each) == 2)


@contextmanager
def steered(source: nn.Module, vector: Tensor, where: Callable[[int], list[int]], later: bool) -> Iterator[None]:
    """A Hugging Face model that is steered on its one row, as it generates: the prompt, then token by token."""

    def add(module: Any, args: Any) -> Any:
        stream = args[0].clone()
        if stream.shape[1] > 1:
            stream[0, where(stream.shape[1])] += vector
        elif later:
            stream += vector
        return (stream, *args[1:])

    handle = layers_of(source)[LAYER].register_forward_pre_hook(add)
    yield
    handle.remove()


def of_hugging_face(source: Any, model: Any, tokens: int = TOKENS) -> list[tuple[int, ...]]:
    """What Hugging Face generates after each prompt alone."""
    found = []
    for ids in prompt_ids(model, PROMPTS):
        whole = source.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        found.append(tuple(whole[0, len(ids) :].tolist()))
    return found


def decoded(model: Any, tokens: int = TOKENS, batch_size: int = 3) -> list[tuple[int, ...]]:
    ends = end_of_text(model)
    asked = prompt_ids(model, PROMPTS)
    return decode_greedily(model, asked, [tokens] * len(asked), lambda reply: reply[-1] in ends, batch_size).replies


@pytest.fixture(scope="module")
def vector() -> Tensor:
    return 3 * torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loaded(source: Any, tokenizer: Any, engine: str) -> Any:
    return iv.load_model(source, tokenizer=tokenizer, dtype=torch.float64, engine=engine)


@pytest.fixture(params=[*(("hooked", each) for each in HOOKED), *(("bridge", each) for each in BRIDGED)], ids="-".join)
def pair(request: pytest.FixtureRequest, tiny_hf: Any, tiny_tokenizer: Any) -> tuple[Any, Any]:
    """A Hugging Face model in float64, and what ivlens makes of a copy of it."""
    engine, family = request.param
    if engine == "hooked":
        pytest.importorskip("transformer_lens", reason="HookedTransformer")
    source = tiny_hf(family).double()
    return source, loaded(tiny_hf(family).double(), tiny_tokenizer(), engine)


def test_every_family_generates_what_hugging_face_does(pair: tuple[Any, Any], vector: Tensor) -> None:
    source, model = pair
    plain = of_hugging_face(source, model)
    assert decoded(model) == plain
    assert decoding.decoding_of(model).cached
    for position, (where, later) in POSITIONS.items():
        with steered(source, vector, where, later):
            expected = of_hugging_face(source, model)
        with iv.steer(model, vector, LAYER, position=position):
            assert decoded(model) == expected, position
        assert expected != plain, position


@pytest.fixture(scope="module", params=["hooked", "bridge"])
def llama(request: pytest.FixtureRequest, tiny_hf: Any, tiny_tokenizer: Any) -> tuple[Any, Any]:
    return tiny_hf("llama").double(), loaded(tiny_hf("llama").double(), tiny_tokenizer(), request.param)


def test_ablated_heads_write_nothing_at_the_prompts_last_token(llama: tuple[Any, Any]) -> None:
    source, model = llama

    def silence(module: Any, args: Any) -> Any:
        z = args[0].clone()
        if z.shape[1] > 1:
            z[:, -1, :16] = 0  # heads 0 and 1, of width 8
        return (z,)

    handle = source.model.layers[0].self_attn.o_proj.register_forward_pre_hook(silence)
    expected = of_hugging_face(source, model)
    handle.remove()
    with iv.ablate(model, [(0, 0), (0, 1)]):
        assert decoded(model) == expected
    assert decoded(model) != expected


@pytest.mark.parametrize("at", [-1, 0])
def test_a_hook_of_the_users_sees_what_hugging_faces_would(llama: tuple[Any, Any], vector: Tensor, at: int) -> None:
    """Also one that counts from the first token, which padding would move."""
    source, model = llama

    def add(module: Any, args: Any, options: Any = None) -> Any:
        stream = args[0].clone()
        stream[:, at] += vector
        return (stream, *args[1:])

    handle = source.model.layers[LAYER].register_forward_pre_hook(add)
    expected = of_hugging_face(source, model)
    handle.remove()
    layer = model.blocks[LAYER] if hasattr(model, "blocks") else model.hugging_face.model.layers[LAYER]
    handle = layer.register_forward_pre_hook(add)
    found = decoded(model)
    handle.remove()
    assert found == expected
    name = resid_pre_name(LAYER)
    with iv.models.hooked(model, {name: lambda stream: add(None, (stream,))[0]}):
        assert decoded(model) == expected
    assert decoded(model) != expected


@pytest.mark.parametrize("position", [*POSITIONS, None], ids=str)
def test_the_cache_gives_what_repeated_whole_passes_give(
    llama: tuple[Any, Any], vector: Tensor, position: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama[1]
    edit = nullcontext() if position is None else iv.steer(model, vector, LAYER, position=position)
    with edit:
        cached = decoded(model)
        whole = decoding.DecodingTrial(together=True, cached=False, trouble="a test")
        monkeypatch.setitem(decoding._trials, model, whole)
        monkeypatch.setattr(decoding, "decodes_once", lambda model: False)
        with pytest.warns(FallbackWarning, match=r"every token runs the whole prompt \(a test\)"):
            assert decoded(model) == cached


def test_the_prompt_runs_once(llama: tuple[Any, Any]) -> None:
    model, widths = llama[1], []
    decoding.decoding_of(model)
    with iv.models.hooked(model, {resid_pre_name(0): lambda stream: widths.append(stream.shape[1])}):
        found = decode_greedily(model, prompt_ids(model, PROMPTS[:1]), [40], lambda reply: False, 8).replies
    assert len(found[0]) == 40
    assert widths == [len(prompt_ids(model, PROMPTS[:1])[0]), *[1] * 39]


def test_a_model_whose_cache_is_wrong_runs_whole_prompts(
    tiny_hf: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, vector: Tensor
) -> None:
    model = loaded(tiny_hf("llama").double(), tiny_tokenizer(), "bridge")
    expected, forward = decoded(model), type(model.hugging_face).forward
    with iv.steer(model, vector, LAYER):
        steered = decoded(model)

    def forgetful(self: Any, *args: Any, **options: Any) -> Any:
        cache = options.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            cache.layers[0].values.zero_()
        return forward(self, *args, **options)

    forgetful.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    del decoding._trials[model]
    monkeypatch.setattr(type(model.hugging_face), "forward", forgetful)
    with pytest.warns(FallbackWarning, match="logits are off by"), iv.steer(model, vector, LAYER):
        assert decoded(model) == steered  # the trial ran without the vector
    with pytest.warns(FallbackWarning, match="logits are off by"):
        assert decoded(model) == expected


def test_a_stop_text_ends_an_answer_also_where_it_spans_tokens(llama: tuple[Any, Any]) -> None:
    model = llama[1]
    free = iv.generate_answers(model, PROMPTS, max_tokens=30, stop=())
    tokens = decoded(model, 30)
    for text, ids in zip(free, tokens, strict=True):
        assert text == model.tokenizer.decode(ids, skip_special_tokens=True)
    pieces = [model.tokenizer.decode([token]) for token in tokens[0]]
    stop = next(  # the end of a token and the beginning of the next
        one[-1:] + two[:1] for one, two in pairwise(pieces[2:])
        if len(one) > 1 and one[-1:] + two[:1] not in "".join(pieces[:3])
    )  # fmt: skip
    stopped = iv.generate_answers(model, PROMPTS[0], max_tokens=30, stop=stop)
    assert stopped == (free[0].partition(stop)[0],)
    assert len(stopped[0]) < len(free[0])
    assert iv.generate_answers(model, PROMPTS, max_tokens=30, stop=[stop, "\x00"])[0] == stopped[0]


def test_a_special_token_is_a_stop_text_though_answers_are_without_it(
    llama: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = llama[1], deepcopy(llama[1].tokenizer)
    tokens = decoded(model)[0]
    end = next(each for each in tokens[2:] if each not in tokens[:2])
    stop = tokenizer.convert_ids_to_tokens(end)
    tokenizer.add_special_tokens({"extra_special_tokens": [stop]})
    assert tokenizer.convert_tokens_to_ids(stop) == end
    monkeypatch.setattr(model, "tokenizer", tokenizer)
    (answer,) = iv.generate_answers(model, PROMPTS[0], max_tokens=TOKENS, stop=stop)
    assert answer == tokenizer.decode(tokens[: tokens.index(end)])
    assert answer != tokenizer.decode(tokens, skip_special_tokens=True)


def test_fewer_tokens_are_a_beginning_of_more(llama: tuple[Any, Any]) -> None:
    model = llama[1]
    long, short = decoded(model, 12), decoded(model, 5, batch_size=1)
    assert [each[:5] for each in long] == short


def test_prompts_without_room_are_named_before_anything_runs(llama: tuple[Any, Any]) -> None:
    model = llama[1]
    long = Prompt("a fox " * 30, " x", input="long")
    room = model.cfg.n_ctx - len(prompt_ids(model, [long])[0])
    assert len(iv.generate_answers(model, [long], max_tokens=room, stop=())) == 1
    told = rf"room for {room + 1} generated tokens in the model's context of 128; got one of {128 - room} tokens; "
    with pytest.raises(PromptError, match=rf"{told}shorten them, or lower max_tokens; 1 of 2 prompts: 'long'$"):
        iv.generate_answers(model, [PROMPTS[0], long], max_tokens=room + 1)
    with pytest.raises(ArgumentError, match="stop to be texts that are not empty"):
        iv.generate_answers(model, PROMPTS, stop=("\n", ""))


def test_logits_that_are_not_finite_are_refused(llama: tuple[Any, Any]) -> None:
    model = llama[1]
    broken = iv.models.hooked(model, {resid_pre_name(LAYER): lambda stream: stream * torch.nan})
    with (
        broken,
        pytest.raises(PromptError, match=r"finite logits on every prompt; got .* on prompt 1 \('the capital'\)"),
    ):
        iv.generate_answers(model, PROMPTS[:1])
