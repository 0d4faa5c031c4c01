"""Every row of a batch is edited as its prompt alone would be: against plain Hugging Face hooks on each row alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens
from ivlens import ArgumentError, HookError

TEXTS = ["the capital", "the quick brown fox jumps over the lazy dog", "Q: 1 + 2 ="]
LAYER, HEADS = 1, [(0, 0), (0, 3), (1, 2)]
POSITIONS: dict[Any, Callable[[int], list[int]]] = {
    "last": lambda n: [n - 1],
    "generated": lambda n: [n - 1],
    "all": lambda n: list(range(n)),
    0: lambda n: [0],
    -2: lambda n: [n - 2],
    (1, -1): lambda n: [1, n - 1],
}
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": False, "verbose": False}


@pytest.fixture(scope="module")
def pair(tiny_hf: Any, tiny_tokenizer: Any) -> tuple[Any, Any, Tensor]:
    """A Hugging Face model in float64, its HookedTransformer, whose padding token is the end of text, and a vector."""
    source = tiny_hf("llama").double()
    model = ivlens.load_model(source, tokenizer=tiny_tokenizer("<s> $A"), dtype=torch.float64)
    assert model.tokenizer.pad_token_id == model.tokenizer.eos_token_id
    return source, model, 3 * torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _nothing_is_left(pair: Any) -> Iterator[None]:
    yield
    model = pair[1]
    assert not any(point.fwd_hooks or point._forward_hooks for point in model.hook_dict.values())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not {"forward", "generate", "generate_stream"} & set(vars(model))
    assert model.context_level == 0
    assert torch.is_grad_enabled()


@contextmanager
def steered(source: Any, vector: Tensor, places: Callable[[int], list[int]]) -> Iterator[None]:
    """A Hugging Face model of which the stream entering ``LAYER`` is steered at places of its one row, whole or cached.

    A pass of one token continues the prompt: no index reaches it.
    """

    def add(module: Any, args: Any) -> Any:
        stream = args[0].clone()
        if stream.shape[1] > 1:
            stream[0, places(stream.shape[1])] += vector
        return (stream, *args[1:])

    handle = source.model.layers[LAYER].register_forward_pre_hook(add)
    yield
    handle.remove()


@contextmanager
def silenced(source: Any) -> Iterator[None]:
    """A Hugging Face model whose ``HEADS`` write nothing at the last token of its one row."""

    def silence(layer: int) -> Callable[[Any, Any], Any]:
        def edit(module: Any, args: Any) -> Any:
            z = args[0].clone()
            for of, head in HEADS:
                if of == layer and z.shape[1] > 1:
                    z[0, -1, 8 * head : 8 * head + 8] = 0
            return (z, *args[1:])

        return edit

    layers = source.model.layers
    handles = [layers[at].self_attn.o_proj.register_forward_pre_hook(silence(at)) for at in (0, 1)]
    yield
    for handle in handles:
        handle.remove()


def ids_of(model: Any, text: str) -> list[int]:
    return model.tokenizer(text)["input_ids"]


def padded(model: Any, side: str, pad: int) -> tuple[Tensor, Tensor]:
    rows = [ids_of(model, text) for text in TEXTS]
    width = max(map(len, rows))
    gaps = [[pad] * (width - len(row)) for row in rows]
    tokens = [row + gap if side == "right" else gap + row for row, gap in zip(rows, gaps, strict=True)]
    ones = [[1] * len(row) + [0] * len(gap) for row, gap in zip(rows, gaps, strict=True)]
    return torch.tensor(tokens), torch.tensor([row if side == "right" else row[::-1] for row in ones])


def own(model: Any, logits: Tensor, side: str) -> list[Tensor]:
    """Each row's logits at its own tokens."""
    lengths = [len(ids_of(model, text)) for text in TEXTS]
    return [row[:n] if side == "right" else row[len(row) - n :] for row, n in zip(logits, lengths, strict=True)]


def batched(model: Any, side: str, how: str) -> Tensor:
    if how == "texts":
        return model(TEXTS, padding_side=side)
    tokens, mask = padded(model, side, pad=model.tokenizer.eos_token_id if how == "mask" else 9)
    return model(tokens, attention_mask=mask)


@torch.no_grad()
@pytest.mark.parametrize("how", ["texts", "mask", "mask of another token"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("position", [*POSITIONS, None], ids=str)
def test_a_padded_row_is_edited_as_it_is_alone(pair: Any, position: Any, side: str, how: str) -> None:
    """``None`` is ``ablate``."""
    source, model, vector = pair
    edits = ivlens.ablate(model, HEADS) if position is None else ivlens.steer(model, vector, LAYER, position=position)
    with edits:
        found = own(model, batched(model, side, how), side)
    bare = own(model, batched(model, side, how), side)
    for text, logits, plain in zip(TEXTS, found, bare, strict=True):
        with silenced(source) if position is None else steered(source, vector, POSITIONS[position]):
            alone = source(torch.tensor([ids_of(model, text)])).logits[0]
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)  # its norm is in float32
        assert (logits - plain).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("position", [*POSITIONS, None], ids=str)
def test_generated_text_is_that_of_each_row_alone_with_or_without_a_cache(pair: Any, position: Any) -> None:
    source, model, vector = pair
    edits = ivlens.ablate(model, HEADS) if position is None else ivlens.steer(model, vector, LAYER, position=position)
    with edits:
        found = model.generate(TEXTS, **OPTIONS)
        assert model.generate(TEXTS, use_past_kv_cache=False, **OPTIONS) == found
        assert [model.generate(text, **OPTIONS) for text in TEXTS] == found
        streamed = list(model.generate_stream(TEXTS[0], use_past_kv_cache=False, **OPTIONS, return_type="tensor"))
    bare = model.generate(TEXTS, **OPTIONS)
    assert model.tokenizer.decode(streamed[-1][0], skip_special_tokens=True) == found[0]
    if position in ("generated", "all"):  # the steps are steered, too
        return
    for text, said in zip(TEXTS, found, strict=True):
        ids = torch.tensor([ids_of(model, text)])
        with silenced(source) if position is None else steered(source, vector, POSITIONS[position]):
            out = source.generate(ids, attention_mask=ids > -1, max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert model.tokenizer.decode(out[0], skip_special_tokens=True) == said
    assert found != bare


@torch.no_grad()
def test_a_dedicated_padding_token_is_known_without_a_mask(tiny_hooked: Any, pair: Any) -> None:
    model, vector = tiny_hooked("llama"), pair[2].float()
    model.tokenizer.pad_token = "<|im_end|>"
    tokens, _ = padded(model, "right", model.tokenizer.pad_token_id)
    with ivlens.steer(model, vector, LAYER):
        found = own(model, model(tokens), "right")
        for text, logits in zip(TEXTS, found, strict=True):
            alone = model(torch.tensor([ids_of(model, text)]))[0]
            torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_cannot_be_known_is_refused(pair: Any) -> None:
    _, model, vector = pair
    right, _ = padded(model, "right", model.tokenizer.eos_token_id)
    left, mask = padded(model, "left", model.tokenizer.eos_token_id)
    cases = [
        (lambda: model(right), "rows that end in the padding token, which ends texts, too; got none; pass attention"),
        (lambda: model(left), "rows that begin with the padding token; got none"),
        (lambda: model.generate(right, **OPTIONS), "prompts that end where their rows do"),
        (lambda: model(left, attention_mask=0 * mask), "a token of its own in every row; got padding only"),
        (lambda: model(model.W_E[left], start_at_layer=0), "a mask of the rows of a residual stream; got none"),
    ]
    for run, message in cases:
        for context in (ivlens.steer(model, vector, LAYER), ivlens.ablate(model, HEADS)):
            with pytest.raises(HookError, match=message), context:
                run()
        with ivlens.steer(model, vector, LAYER, position="all"):  # needs no border
            run()
    with pytest.raises(ArgumentError, match="within every prompt; got index -5 for"):  # noqa: SIM117
        with ivlens.steer(model, vector, LAYER, position=-5):
            model(["the", TEXTS[1]])


@torch.no_grad()
def test_a_prompt_in_two_cached_passes_is_refused(pair: Any) -> None:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    _, model, vector = pair
    tokens = torch.tensor([ids_of(model, TEXTS[1])])
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, 1)
    with ivlens.steer(model, vector, LAYER):
        model(tokens[:, :4], past_kv_cache=cache)
        with pytest.raises(HookError, match="got 3 tokens after 4 cached ones"):
            model(tokens[:, 4:7], past_kv_cache=cache)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [False, True])
def test_the_mode_of_torch_and_of_the_model_changes_nothing(pair: Any, mode: Any, training: bool) -> None:
    _, model, vector = pair
    with torch.no_grad(), ivlens.steer(model, vector, LAYER):
        expected = model(TEXTS)
    model.train(training)
    with mode():
        before = torch.is_grad_enabled()
        with ivlens.steer(model, vector, LAYER):
            found = model(TEXTS)
        assert torch.is_grad_enabled() == before
    model.eval()
    torch.testing.assert_close(found.detach().clone(), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_model_moved_to_another_dtype_and_mixed_precision_are_steered(tiny_hooked: Any, pair: Any) -> None:
    model, vector = tiny_hooked("llama"), pair[2]
    with ivlens.steer(model, vector, LAYER):
        expected = model(TEXTS)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(TEXTS)
    context = ivlens.steer(model, vector, LAYER)
    model.to(torch.float64)
    with context:
        wide = model(TEXTS)
    torch.testing.assert_close(wide, expected.double(), rtol=1e-3, atol=1e-3)
    assert (mixed.float() - expected).norm() < 0.1 * expected.norm()
