"""Candidates of prompts: one run of each prompt gives what plain Hugging Face gives for each candidate."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ivlens as iv
from ivlens.models import PromptCandidates, candidate_scores, load_model
from ivlens.models import candidates as module
from ivlens.models.engines import has_hooked
from ivlens.vocabulary import TokenizedPrompt
from tiny_models import HYBRID, ONLY_BRIDGED, TINY

needs_hooked = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")
ENGINES = [pytest.param("hooked", marks=needs_hooked), "bridge"]
MIXTURES = ("mixtral", "gpt_oss", "qwen3_moe", "llama4_text")  # whose routers compute in float32
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
    def loaded(model_type: str, engine: str) -> Any:
        theirs = tiny_hf(model_type).double()
        return load_model(theirs, tokenizer=tiny_tokenizer(), engine=engine, dtype=torch.float64), theirs

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


def check(model: Any, theirs: Any, rounding: float = 1e-9, batch_size: int = 3) -> None:
    for asked, scored in zip(ASKED, candidate_scores(model, ASKED, batch_size), strict=True):
        for found, expected in zip(scored, by_hand(theirs, asked), strict=True):
            torch.testing.assert_close(found.log_probabilities, expected.double(), atol=rounding, rtol=rounding)
            assert found.finite


@contextmanager
def counted(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of what runs: whole rows, or prompts and tails."""
    done: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("answer_residual", "run_prompts", "run_after"):
            real = getattr(module, name)
            patch.setattr(module, name, lambda *given, name=name, real=real: done.append(name) or real(*given))
        yield done


@needs_hooked
@pytest.mark.parametrize("model_type", TINY)
def test_hooked_models_score_candidates_as_hugging_face_does(load: Any, model_type: str, monkeypatch: Any) -> None:
    model, theirs = load(model_type, "hooked")
    with counted(model, monkeypatch) as done:
        check(model, theirs)
    assert {"run_prompts", "run_after"} <= {*done}


@pytest.mark.parametrize("model_type", [*TINY, *ONLY_BRIDGED, *HYBRID])
def test_bridged_models_score_candidates_as_hugging_face_does(load: Any, model_type: str, monkeypatch: Any) -> None:
    model, theirs = load(model_type, "bridge")
    with counted(model, monkeypatch) as done:
        check(model, theirs, rounding=1e-5 if model_type in MIXTURES else 1e-9)
    print(model_type, model.shares_prefixes)
    assert ("run_prompts" in done) == model.shares_prefixes
