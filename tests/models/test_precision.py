"""Streams in a wider dtype than the weights', and the rows that fit in memory."""

from typing import Any

import pytest
import torch

import ivlens
from ivlens.errors import MismatchError
from ivlens.models import rows_that_fit, sweep_heads
from ivlens.models.streams.memory import LEAST
from ivlens.vocabulary import TokenizedPrompt, all_heads

FAMILIES = ["llama", "gpt2", "gpt_neox", "bloom", "gptj", "olmo2"]  # Gemma's weights are rounded at loading
PAIRS = [
    TokenizedPrompt(*ids)
    for ids in (((5, 6, 7, 8, 9), (11,)), ((9, 8, 7), (12, 13)), ((40, 41, 42, 43, 44, 45, 46, 47), (14,)))
]
HEADS = all_heads(2, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_float64_streams_of_half_precision_weights_are_those_of_the_widened_model(
    family: str, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    half = tiny_hf(family).bfloat16()
    model = ivlens.load_model(half, tokenizer=tiny_tokenizer(), dtype=torch.bfloat16)
    wide = ivlens.load_model(half.double(), tokenizer=tiny_tokenizer(), dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    means = torch.randn(2, 4, model.cfg.d_head, generator=torch.Generator().manual_seed(0)).double()
    for against_foil in (False, True):
        options = {"against_foil": against_foil, "dtype": torch.float64}
        found = sweep_heads(model, PAIRS, means, HEADS, **options)
        expected = sweep_heads(wide, PAIRS, means, HEADS, against_foil=against_foil)
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    assert model.cfg.dtype == torch.bfloat16
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_longer_prompts_and_wider_streams_leave_room_for_fewer_rows(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    assert rows_that_fit(model, 100) > rows_that_fit(model, 1000) > rows_that_fit(model, 1000, torch.float64)
    cfg = model.cfg
    row = 4 * (6 * cfg.d_model + 2 * (cfg.n_heads + cfg.n_key_value_heads) * cfg.d_head + 4 * cfg.d_mlp + 300 * 4)
    assert rows_that_fit(model, 100) == LEAST // row


def test_little_free_memory_bounds_the_rows(tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_hooked("llama")
    full = rows_that_fit(model, 100)
    monkeypatch.setattr("ivlens.models.streams.memory.free_memory", lambda device: LEAST // 2)
    assert rows_that_fit(model, 100) == pytest.approx(full / 4, abs=1)
    monkeypatch.setattr("ivlens.models.streams.memory.free_memory", lambda device: 0)
    assert rows_that_fit(model, 100) == 2


def test_a_widened_block_takes_its_part_of_what_is_free(
    tiny_hf: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ivlens.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=torch.bfloat16)
    block = 4 * sum(parameter.numel() for parameter in model.blocks[0].parameters())
    monkeypatch.setattr("ivlens.models.streams.memory.free_memory", lambda device: LEAST)
    alone = rows_that_fit(model, 100, torch.float32)
    monkeypatch.setattr("ivlens.models.streams.memory.free_memory", lambda device: LEAST - block)
    assert rows_that_fit(model, 100, torch.float32) < alone
    monkeypatch.setattr("ivlens.models.streams.memory.free_memory", lambda device: block)
    assert rows_that_fit(model, 100, torch.float32) == 2


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_a_model_cast_without_its_config_is_refused(tiny_hooked: Any, cast: str) -> None:
    model = getattr(tiny_hooked(), cast)()
    expected = r"weights of torch\.float32, as the model's config says; got torch\.\w+; cast it with model\.to\(torch"
    for use in (lambda: ivlens.evaluate(model, ivlens.Prompt("the capital", " of")), lambda: ivlens.load_model(model)):
        with pytest.raises(MismatchError, match=expected):
            use()
    model.to(model.W_E.dtype, print_details=False)
    assert ivlens.evaluate(ivlens.load_model(model), ivlens.Prompt("the capital", " of")).n == 1
