"""Token ids are those of the Hugging Face tokenizer: BOS where it puts one, and never twice."""

from typing import Any

import pytest
import torch

from ivlens import load_model
from ivlens.models.loading import attach_tokenizer

TEXTS = ["the capital of France is Paris", "", " a leading space", "<s>a BOS by hand", "naïve ½\n\n"]
# What the tokenizer adds, and whether that is a BOS.
TEMPLATES = {
    "nothing": (None, False),
    "BOS": ("<s> $A", True),
    "BOS and EOS": ("<s> $A </s>", True),
    "EOS": ("$A </s>", False),
}


@pytest.fixture(params=TEMPLATES.values(), ids=TEMPLATES)
def case(request: pytest.FixtureRequest, tiny_hf: Any, tiny_tokenizer: Any) -> tuple[Any, Any, bool]:
    template, bos = request.param
    return load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(template)), tiny_tokenizer(template), bos


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_tokenizers(case: Any, text: str) -> None:
    model, tokenizer, _ = case
    assert model.to_tokens(text)[0].tolist() == tokenizer(text)["input_ids"]


def test_a_batch_is_padded_on_the_right(case: Any) -> None:
    model, tokenizer, _ = case
    rows = [tokenizer(text)["input_ids"] for text in TEXTS[:3]]
    for ids, row in zip(rows, model.to_tokens(TEXTS[:3]).tolist(), strict=True):
        assert row == ids + [tokenizer.eos_token_id] * (max(map(len, rows)) - len(ids))


def test_the_models_config_and_provenance_say_whether_there_is_a_bos(case: Any) -> None:
    model, _, bos = case
    assert model.cfg.tokenizer_prepends_bos == model.cfg.default_prepend_bos == model.ivlens_facts["bos"] == bos


def test_bos_is_never_there_twice(case: Any) -> None:
    model, tokenizer, bos = case
    ids = model.to_tokens("the capital")[0].tolist()
    assert ids.count(tokenizer.bos_token_id) == bos


def test_bos_can_be_left_out_without_losing_a_token(case: Any) -> None:
    model, tokenizer, bos = case
    assert model.to_tokens("the capital", prepend_bos=False)[0].tolist() == tokenizer("the capital")["input_ids"][bos:]


def test_a_chat_template_gives_the_tokenizers_ids(tiny_hf: Any, tiny_tokenizer: Any, chatml: str) -> None:
    tokenizer = tiny_tokenizer(None, chatml)
    model = load_model(tiny_hf("qwen2"), tokenizer=tokenizer)
    messages = [{"role": "user", "content": "the capital"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert model.to_tokens(text)[0].tolist() == ids


def test_a_pad_token_is_kept_where_there_is_one(tiny_hooked: Any, tiny_tokenizer: Any) -> None:
    model, tokenizer = tiny_hooked(), tiny_tokenizer()
    assert model.tokenizer.pad_token == "</s>"
    tokenizer.pad_token = "<|im_end|>"
    attach_tokenizer(model, tokenizer)
    assert model.tokenizer.pad_token == "<|im_end|>"


@torch.no_grad()
def test_text_and_ids_give_the_same_logits(case: Any) -> None:
    model, tokenizer, _ = case
    ids = torch.tensor([tokenizer("the capital of")["input_ids"]])
    assert torch.equal(model("the capital of"), model(ids))
