"""The real default model: logits, token ids and provenance against plain transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ivlens.models import padded
from ivlens.vocabulary import TokenizedPrompt

VERBS = {"go": "went", "sing": "sang", "walk": "walked", "take": "took", "eat": "ate"}
TEXT = "\n\n".join(f"Verb: {verb}\nPast tense: {past}" for verb, past in VERBS.items())


@pytest.fixture(scope="module")
def ids(smollm2_folder: Path) -> tuple[int, ...]:
    return tuple(AutoTokenizer.from_pretrained(smollm2_folder)(TEXT)["input_ids"][:40])


@pytest.fixture(scope="module")
@torch.no_grad()
def theirs(smollm2_folder: Path, ids: tuple[int, ...]) -> Any:
    return AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)(torch.tensor([ids])).logits[0]


@torch.no_grad()
def test_logits_are_those_of_plain_transformers(smollm2: Any, theirs: Any, ids: tuple[int, ...]) -> None:
    ours = smollm2(torch.tensor([ids]))[0]
    assert len(ids) == 40
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@torch.no_grad()
def test_padded_rows_are_those_of_plain_transformers(smollm2: Any, theirs: Any, ids: tuple[int, ...]) -> None:
    rows = padded([TokenizedPrompt(some) for some in (ids[:13], ids, ids[:1])], "cpu")
    logits = smollm2(rows.tokens, attention_mask=rows.mask)
    for row, length in enumerate((13, 40, 1)):
        assert (logits[row, :length] - theirs[:length]).abs().max() <= 1e-4 * theirs.abs().max()


def test_there_is_no_bos(smollm2: Any, ids: tuple[int, ...]) -> None:
    assert tuple(smollm2.to_tokens(TEXT)[0, :40].tolist()) == ids
    assert smollm2.tokenizer.bos_token_id not in ids
    assert smollm2.ivlens_facts["bos"] is False


def test_its_shape_and_weights_are_the_known_ones(smollm2: Any) -> None:
    facts = smollm2.ivlens_facts
    assert [facts[name] for name in ("n_layers", "n_heads", "d_head", "d_model")] == [30, 9, 64, 576]
    assert (facts["source"], facts["processing"], facts["dtype"]) == ("smollm2", "none", "float32")
    assert facts["weights_sha256"].startswith("597481437492183f")
