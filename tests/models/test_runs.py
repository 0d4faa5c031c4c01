"""Plain runs: batches of similar length, padding on the right, logits where answers are read."""

from typing import Any

import pytest
import torch

from ivlens.errors import PromptError
from ivlens.models import (
    answer_logits,
    batches,
    check_length,
    final_residual,
    hooked,
    last_token,
    padded,
    resid_pre_name,
)
from ivlens.models.runs import final_logits
from ivlens.vocabulary import TokenizedPrompt

PAIRS = [
    TokenizedPrompt(*ids)
    for ids in (((10, 11, 12, 13), (14, 15)), ((20, 21), (22,)), ((30,), (31, 32, 33)), ((40, 41, 42), ()))
]


def test_padding_keeps_prompts_answers_and_their_border() -> None:
    rows = padded(PAIRS, None)
    assert rows.tokens.tolist() == [[10, 11, 12, 13, 14], [20, 21, 0, 0, 0], [30, 31, 32, 0, 0], [40, 41, 42, 0, 0]]
    assert rows.mask.sum(1).tolist() == [5, 2, 3, 3]
    assert rows.last.tolist() == [3, 1, 0, 2]


def test_batches_cover_every_pair_once_with_its_place() -> None:
    pairs = PAIRS * 5
    groups = list(batches(pairs, 3))
    assert sorted(place for places, _ in groups for place in places) == list(range(len(pairs)))
    assert all(pairs[place] == pair for places, batch in groups for place, pair in zip(places, batch, strict=True))
    assert max(len(batch) for _, batch in groups) == 3


def test_batches_put_similar_lengths_together() -> None:
    lengths = [sum(map(len, pair)) for _, batch in batches(PAIRS * 5, 4) for pair in batch]
    assert lengths == sorted(lengths)


@torch.no_grad()
@pytest.mark.parametrize(
    ("model_type", "config"), [("llama", {}), ("gpt2", {}), ("gemma3_text", {"final_logit_softcapping": 5.0})]
)
def test_answer_logits_are_those_of_each_prompt_alone(tiny_hooked: Any, model_type: str, config: Any) -> None:
    model = tiny_hooked(model_type, **config)
    for (prompt, answer), logits in zip(PAIRS, answer_logits(model, padded(PAIRS, "cpu")), strict=True):
        alone = model(torch.tensor([prompt + answer]))[0, len(prompt) - 1 :][: len(answer)]
        torch.testing.assert_close(logits, alone, atol=5e-5, rtol=0)


@torch.no_grad()
def test_the_final_residual_final_logitss_to_the_models_logits(tiny_hooked: Any) -> None:
    model = tiny_hooked("gpt_neox")
    rows = padded(PAIRS[:1], "cpu")
    torch.testing.assert_close(final_logits(model, final_residual(model, rows)[0]), model(rows.tokens)[0])


@torch.no_grad()
def test_hooks_find_the_last_prompt_tokens_of_the_batch(tiny_hooked: Any) -> None:
    model, found = tiny_hooked(), []
    with hooked(model, {resid_pre_name(0): lambda x: found.append(x[last_token(x)])}):
        final_residual(model, padded(PAIRS, "cpu"))
    expected = torch.stack([model.embed.W_E[prompt[-1]] for prompt, _ in PAIRS])
    torch.testing.assert_close(found[0], expected)


def test_a_prompt_longer_than_the_context_is_refused(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    check_length(model, [TokenizedPrompt((5,) * 126, (6, 7))])
    with pytest.raises(PromptError, match="context of 128 tokens; got one of 129; shorten it"):
        check_length(model, [TokenizedPrompt((5,), (6,)), TokenizedPrompt((5,) * 127, (6, 7))])
