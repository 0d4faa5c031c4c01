"""Prompts that begin alike run once: the numbers of a pass for each, from one row for each token that they share."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ivlens as iv
from ivlens.models import (
    answer_logits,
    answer_residual,
    answer_streams,
    hooked,
    padded,
    recorded_meanwhile,
    recorded_points,
    resid_pre_name,
    run_once,
    runs_edited_once,
    runs_once,
)
from ivlens.models.engines import has_hooked
from ivlens.models.streams import decoder, decodes_once, once
from ivlens.models.streams import tree as trees
from ivlens.models.streams.tree import Tree
from ivlens.vocabulary import TokenizedPrompt
from tiny_models import TINY

pytestmark = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")
TOKENS = torch.randint(4, 320, (90,), generator=torch.Generator().manual_seed(0)).tolist()
SHARED = tuple(TOKENS[:20])
PAIRS = [
    TokenizedPrompt((*SHARED, *TOKENS[20:31]), (5, 6)),
    TokenizedPrompt((*SHARED, *TOKENS[20:25], 7), (8,)),
    TokenizedPrompt(SHARED, (9, 10, 11)),  # a prompt that others begin with
    TokenizedPrompt(tuple(TOKENS[31:32]), (12, 13)),  # one token
    TokenizedPrompt(tuple(TOKENS[32:90]), (14,)),  # alone, longer than the tiny models' windows
    TokenizedPrompt((*SHARED, *TOKENS[20:31]), (5, 7)),  # the first one again, with another answer
    TokenizedPrompt((*SHARED, 15), ()),  # only recorded
]


@pytest.fixture(scope="module")
def load(tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    def loaded(model_type: str) -> Any:
        theirs = tiny_hf(model_type).double()
        return iv.load_model(theirs, tokenizer=tiny_tokenizer(), engine="hooked", dtype=torch.float64)

    return loaded


@pytest.mark.parametrize("at_once", [1 << 22, 400, 1])
@pytest.mark.parametrize("model_type", TINY)
@torch.no_grad()
def test_one_pass_gives_what_a_pass_for_each_gives(
    load: Any, model_type: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recorded, one_by_one = load(model_type), dict[str, Tensor](), dict[str, list[Tensor]]()
    assert runs_once(model)
    monkeypatch.setattr(trees, "SCORES_AT_ONCE", at_once)
    streams = run_once(model, PAIRS, lambda point, values: recorded.update({point: values}))
    points = recorded_points(model)
    for pair, stream in zip(PAIRS, streams, strict=True):
        at = len(pair.prompt_ids) - 1
        edits = {
            point: (lambda values, point=point, at=at: one_by_one.setdefault(point, []).append(values[0, at]))
            for point in points
        }
        with hooked(model, edits):
            expected = answer_residual(model, padded([pair._replace(answer_ids=pair.answer_ids or (0,))], "cpu"))
        torch.testing.assert_close(stream, expected[: len(pair.answer_ids)], atol=1e-9, rtol=1e-9)
    assert recorded.keys() == points == one_by_one.keys()
    for point in points:
        torch.testing.assert_close(recorded[point], torch.stack(one_by_one[point]), atol=1e-9, rtol=1e-9)


def test_hooks_gradients_and_half_precision_run_as_they_are(load: Any) -> None:
    model = load("llama")
    assert not runs_once(model)  # gradients are on
    with torch.no_grad():
        assert runs_once(model)
        with iv.ablate(model, [(0, 0)]):
            assert not runs_once(model)
            assert runs_edited_once(model)
            model(torch.tensor([[5, 6]]))
        vector = torch.ones(model.cfg.d_model, dtype=torch.float64)
        elsewhere = {"position": "all"}, {"position": "generated"}, {"position": -1}, {"site": "attn_out"}
        steered = [iv.steer(model, vector, 0, **each) for each in elsewhere]
        for edit in (hooked(model, {resid_pre_name(0): lambda stream: None}), *steered):
            with edit:
                assert not runs_edited_once(model)
                model(torch.tensor([[5, 6]]))
        assert not runs_once(model.to(torch.bfloat16))


def edits(model: Any, seed: int) -> ExitStack:
    """Two vectors added at one layer, one at another, and heads ablated."""
    noise = torch.Generator().manual_seed(seed)
    stack = ExitStack()
    end = model.cfg.n_layers - 1
    for layer, site in ((0, "resid_pre"), (1, "resid_pre"), (1, "resid_pre"), (0, "resid_post"), (end, "resid_post")):
        vector = torch.randn(model.cfg.d_model, generator=noise).double()
        stack.enter_context(iv.steer(model, vector, layer, 2.0, site=site))
    stack.enter_context(iv.ablate(model, [(0, 1), (1, 0)]))
    return stack


@pytest.mark.parametrize("model_type", TINY)
@torch.no_grad()
def test_edits_of_last_prompt_tokens_run_as_in_a_pass_for_each(load: Any, model_type: str) -> None:
    model = load(model_type)
    assert PAIRS[0].prompt_ids[: len(SHARED)] == PAIRS[2].prompt_ids  # one prompt begins with another
    asked = [pair for pair in PAIRS if pair.answer_ids]
    plain = answer_streams(model, asked, once=runs_edited_once(model))
    with edits(model, 0):
        expected = [answer_residual(model, padded([pair], "cpu")) for pair in asked]
    with edits(model, 0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(once, "answer_residual", None)
        found = answer_streams(model, asked, once=runs_edited_once(model))
    for of_plain, of_found, of_expected in zip(plain, found, expected, strict=True):
        assert (of_found - of_plain).abs().max() > 1e-3
        torch.testing.assert_close(of_found, of_expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("model_type", TINY)
@torch.no_grad()
def test_edited_prompts_decode_as_in_a_pass_for_each(load: Any, model_type: str) -> None:
    model = load(model_type)
    prompts, tokens = [pair.prompt_ids for pair in PAIRS], torch.randint(4, 320, (3, len(PAIRS)))
    with edits(model, 1):
        if not decodes_once(model):
            model(torch.tensor([[5, 6]]))
            return
        feed = decoder(model, prompts)
        for step in range(4):
            found = feed(None if step == 0 else tokens[step - 1])
            for number, prompt in enumerate(prompts):
                text = TokenizedPrompt(prompt, (*tokens[:step, number].tolist(), 0))
                expected = answer_logits(model, padded([text], "cpu"))[0][-1]
                torch.testing.assert_close(found[number], expected, atol=1e-9, rtol=1e-9)


TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), min_size=1, max_size=6)


@given(TEXTS, st.integers(1, 40))
def test_a_tree_has_one_row_for_each_beginning(texts: list[tuple[int, ...]], at_once: int) -> None:
    tree = Tree.of(texts, None)
    assert len(tree.tokens) == len({text[:end] for text in texts for end in range(1, len(text) + 1)})
    for text, path, span in zip(texts, tree.paths, tree.spans, strict=True):
        assert tuple(tree.tokens[row] for row in path) == text
        assert tree.positions[path].tolist() == [*range(len(text))]
        assert torch.arange(len(tree.tokens))[span].tolist() == path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "SCORES_AT_ONCE", at_once)
        groups = Tree.of(texts, None).together
    assert {row for group in groups for row in group.new.tolist()} == {*range(len(tree.tokens))}
    for group in groups:
        assert group.rows[group.text, group.pos].tolist() == group.new.tolist()
        assert len(group.rows) == 1 or group.rows.shape[0] * group.rows.shape[1] ** 2 <= at_once


@pytest.mark.parametrize("model_type", TINY)
@torch.no_grad()
def test_decoding_gives_what_a_pass_over_the_whole_text_gives(load: Any, model_type: str) -> None:
    model = load(model_type)
    assert decodes_once(model) == (model_type not in ("gemma2", "bloom"))  # capped scores, ALiBi
    if not decodes_once(model):
        return
    prompts = [pair.prompt_ids for pair in PAIRS]
    feed, tokens = decoder(model, prompts), torch.randint(4, 320, (4, len(prompts)))
    for step in range(5):
        found = feed(None if step == 0 else tokens[step - 1])
        for number, prompt in enumerate(prompts):
            text = TokenizedPrompt((*prompt, *tokens[:step, number].tolist()), (0,))
            (expected,) = answer_logits(model, padded([text], "cpu"))
            torch.testing.assert_close(found[number], expected[0], atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_answers_record_the_streams_that_they_come_from(load: Any) -> None:
    model, asked = load("llama"), [pair for pair in PAIRS if pair.answer_ids]
    expected: dict[str, Tensor] = {}
    run_once(model, PAIRS, lambda point, values: expected.update({point: values}))
    with recorded_meanwhile() as recorded:
        answer_streams(model, asked, once=runs_edited_once(model))
        with iv.steer(model, torch.ones(model.cfg.d_model, dtype=torch.float64), 0, position="all"):
            answer_streams(model, [PAIRS[-1]._replace(answer_ids=(3,))], once=runs_edited_once(model))
    answer_streams(model, [PAIRS[-1]._replace(answer_ids=(3,))], once=runs_edited_once(model))
    assert recorded.keys() == {pair.prompt_ids for pair in asked}
    for number, pair in enumerate(PAIRS[:-1]):
        for point in recorded_points(model):
            torch.testing.assert_close(recorded[pair.prompt_ids][point], expected[point][number], rtol=1e-9, atol=1e-9)
