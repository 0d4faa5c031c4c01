"""Candidates of prompts: one run of each prompt gives what plain Hugging Face gives for each candidate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ivlens as iv
from ivlens.models import (
    PromptCandidates,
    answer_logits,
    candidate_scores,
    decode_greedily,
    hooked,
    load_model,
    padded,
)
from ivlens.models import candidates as module
from ivlens.models.engines import has_hooked
from ivlens.models.streams import once
from ivlens.models.tails import read_rows
from ivlens.vocabulary import TokenizedPrompt
from tiny_models import HYBRID, ONLY_BRIDGED, TINY

needs_hooked = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")
# What Hugging Face computes in float32 whatever the weights' dtype: routers, norms, angles, scores beside padding.
COARSE = ("mixtral", "gpt_oss", "qwen3_moe", "llama4_text", "gptj", "gpt_neo", "bloom", "qwen3_5_text")
TOKENS = torch.randint(4, 320, (60,), generator=torch.Generator().manual_seed(0)).tolist()
ASKED = [
    PromptCandidates(tuple(TOKENS[:23]), ((5,), (6, 7, 8), (6, 9), (10, 11, 12, 13, 14), (6, 7))),
    PromptCandidates(tuple(TOKENS[23:30]), ((20, 21), (22, 23), (24,))),
    PromptCandidates(tuple(TOKENS[30:33]), ((30,), (31,), (32,))),  # of one token each
    PromptCandidates(tuple(TOKENS[33:34]), ((40, 41), (41, 40))),
    PromptCandidates(tuple(TOKENS[34:50]), ((50, 51, 52),)),  # alone
]


@pytest.fixture(scope="module")
def load(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """``load(model_type, engine)``: a model in float64, and Hugging Face's."""

    def loaded(model_type: str, engine: str, dtype: torch.dtype = torch.float64) -> Any:
        theirs = tiny_hf(model_type).to(dtype)
        return load_model(theirs, tokenizer=tiny_tokenizer(), engine=engine, dtype=dtype), theirs

    return loaded


@torch.no_grad()
def by_hand(theirs: Any, asked: PromptCandidates) -> list[Tensor]:
    """The log probabilities of each candidate's tokens, from a pass of Hugging Face's model for each."""
    found = []
    for candidate in asked.candidates:
        ids = torch.tensor([asked.prompt_ids + candidate[:-1]])
        logs = theirs(input_ids=ids, use_cache=False).logits[0, len(asked.prompt_ids) - 1 :].log_softmax(-1)
        found.append(logs[range(len(candidate)), candidate])
    return found


@torch.no_grad()
def in_whole_rows(model: Any, asked: PromptCandidates) -> list[Tensor]:
    """The same from a pass of ivlens' model for each."""
    found = []
    for candidate in asked.candidates:
        (logits,) = answer_logits(model, padded([TokenizedPrompt(asked.prompt_ids, candidate)], "cpu"))
        found.append(logits.double().log_softmax(-1)[range(len(candidate)), candidate])
    return found


def check(model: Any, oracle: Callable[[PromptCandidates], list[Tensor]], rounding: float, batch_size: int = 3) -> None:
    for asked, scored in zip(ASKED, candidate_scores(model, ASKED, batch_size), strict=True):
        for found, expected in zip(scored, oracle(asked), strict=True):
            torch.testing.assert_close(found.log_probabilities, expected.double(), atol=rounding, rtol=rounding)
            assert found.finite


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of what runs: whole rows, or prompts and tails."""
    done: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("answer_streams", "run_prompts", "run_after"):
            real = getattr(module, name)
            patch.setattr(
                module, name,
                lambda *given, name=name, real=real, **options: done.append(name) or real(*given, **options),
            )  # fmt: skip
        yield done


@needs_hooked
@pytest.mark.parametrize("model_type", TINY)
def test_hooked_models_run_prompts_once(load: Any, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, theirs = load(model_type, "hooked")
    check(model, partial(in_whole_rows, model), 1e-9)
    check(model, partial(by_hand, theirs), 1e-5)  # its norms and angles are float32's
    with (
        counted(monkeypatch) as done,
        iv.steer(model, torch.zeros(model.cfg.d_model).double(), 0, position="generated"),
    ):
        check(model, partial(in_whole_rows, model), 1e-9)  # from a key-value cache
    assert done == ["answer_streams", "run_prompts", "run_after", "run_after"]


@needs_hooked
def test_what_a_model_is_is_asked_once_for_all_batches(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a walk over all modules."""
    model, asked = load("llama", "hooked")[0], list[Any]()
    real = once.edits_at_last
    monkeypatch.setattr(once, "edits_at_last", lambda model, points: asked.append(model) or real(model, points))
    candidate_scores(model, ASKED, 1)
    ids = tuple(range(5, 9))
    decode_greedily(model, [ids, ids[1:], ids[2:]], [2, 2, 2], lambda reply: False, 1)
    assert len(asked) == 2


@pytest.mark.parametrize("model_type", [*TINY, *ONLY_BRIDGED, *HYBRID])
def test_bridged_models_run_prompts_once(load: Any, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    half = model_type in ("gemma2", "bloom")  # which make not-a-numbers of padding in float64
    model, theirs = load(model_type, "bridge", torch.float32 if half else torch.float64)
    with counted(monkeypatch) as done:
        check(model, partial(by_hand, theirs), 1e-5 if half or model_type in COARSE else 1e-9)
    assert done == ["answer_streams", "run_prompts", "run_after", "run_after"]


def test_a_bridge_whose_two_passes_go_wrong_runs_whole_rows(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load("bloom", "bridge")
    with counted(monkeypatch) as done:
        candidate_scores(model, ASKED, 3)
    assert not model.shares_prefixes
    assert {*done} == {"answer_streams"}


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("engine", [pytest.param("hooked", marks=needs_hooked), "bridge"])
def test_batches_change_no_number(load: Any, engine: str, batch_size: int) -> None:
    model, _ = load("gemma3_text", engine)
    done: list[int] = []
    scored = candidate_scores(model, ASKED, batch_size, done.append)
    assert sum(done) == sum(len(each.candidates) for each in ASKED)
    for found, expected in zip(scored, candidate_scores(model, ASKED, 3), strict=True):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.log_probabilities, other.log_probabilities, atol=1e-9, rtol=1e-9)
            assert one.greedy == other.greedy


@pytest.mark.parametrize("engine", [pytest.param("hooked", marks=needs_hooked), "bridge"])
@pytest.mark.parametrize("model_type", ["gpt2", "opt", "llama"])
def test_prompts_of_a_batch_fit_the_context_each_for_itself(load: Any, model_type: str, engine: str) -> None:
    """A long prompt with short candidates, and a short one with long candidates: 126 and 21 tokens, of 128."""
    model, _ = load(model_type, engine)
    long, short = tuple((TOKENS * 3)[:126]), tuple(TOKENS[:3])
    asked = [
        PromptCandidates(long, ((5, 6), (7, 8))),
        PromptCandidates(short, (tuple(TOKENS[10:31]), tuple(TOKENS[31:52]))),
    ]
    for own, scored in zip(asked, candidate_scores(model, asked, 8), strict=True):
        for found, expected in zip(scored, in_whole_rows(model, own), strict=True):
            torch.testing.assert_close(found.log_probabilities, expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("engine", [pytest.param("hooked", marks=needs_hooked), "bridge"])
def test_only_edits_that_say_so_let_a_prompt_run_in_parts(
    load: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load("llama", engine)
    vector = torch.ones(32).double()
    with counted(monkeypatch) as done, iv.steer(model, vector, 0, position="generated"), iv.ablate(model, [(1, 1)]):
        candidate_scores(model, ASKED, 9)
    assert "run_prompts" in done
    keep = hooked(model, {"blocks.1.hook_resid_pre": lambda stream: stream})
    with counted(monkeypatch) as done, iv.steer(model, vector, 0), keep:
        candidate_scores(model, ASKED, 9)
    assert {*done} == {"answer_streams"}


def test_one_token_candidates_need_the_prompt_alone(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load("llama", "bridge")
    with counted(monkeypatch) as done:
        candidate_scores(model, [PromptCandidates((5, 6, 7), ((8,), (9,), (10,), (8, 11)))] * 4, 4)
    assert done == ["answer_streams"]


TEXTS = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)


@given(st.lists(TEXTS, min_size=1, max_size=8, unique=True), st.integers(1, 12))
def test_every_candidate_is_in_a_row_and_in_a_piece(candidates: list[tuple[int, ...]], width: int) -> None:
    asked = PromptCandidates((7, 8), tuple(candidates))
    assert len({*asked.rows}) == len(asked.tails)
    for candidate, row in zip(candidates, asked.rows, strict=True):
        assert asked.tails[row][: len(candidate) - 1] == candidate[:-1]
    assert not any(one != other and other[: len(one)] == one for one in asked.tails for other in asked.tails)
    pieces = asked.pieces(width)
    assert sorted(number for numbers, _ in pieces for number in numbers) == [*range(len(candidates))]
    for numbers, piece in pieces:
        assert piece.candidates == tuple(candidates[number] for number in numbers)
        assert piece.width <= width or len(numbers) == 1
    read = read_rows(asked, asked.tails, lambda tail, own: [(tail[: len(each) - 1], each[-1]) for each in own])
    assert [(*before, last) for before, last in read] == candidates
