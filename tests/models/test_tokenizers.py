"""Tokenizers: the model's own or one error that says tokenizer=; nothing in their files takes time without end."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ivlens import Prompt, evaluate, load_model
from ivlens.errors import PromptError, SourceError, SourceWarning
from ivlens.models import lacks_tokenizer, open_tokenizer, tokenizer_sha256, tokenizers

pytestmark = pytest.mark.slow

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@pytest.fixture
def folder(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Path:
    """A Hugging Face folder of a tiny llama."""
    tiny_hf("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def of_words(*words: str, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, "<unk>" for all others."""
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **options)


@pytest.mark.parametrize("family", ["gemma", "gpt2", "qwen2", "qwen3", "llama", "phi", "olmo", "gptj", "opt"])
def test_no_vocabulary_is_made_up_for_a_folder_without_one(tmp_path: Path, tiny_hf: Any, family: str) -> None:
    tiny_hf(family).save_pretrained(tmp_path / "bare")
    with pytest.raises(
        SourceError, match=r"bare with a tokenizer; got no tokenizer there; pass tokenizer= \(--tokenizer\)"
    ):
        load_model(tmp_path / "bare")


def test_a_tokenizer_may_be_given_as_a_source(folder: Path, tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    tiny_hf("llama").save_pretrained(tmp_path / "bare")
    expected = tiny_tokenizer()("the capital")["input_ids"]
    for source in (folder, str(folder), tiny_tokenizer(), load_model(folder)):
        assert load_model(tmp_path / "bare", tokenizer=source).tokenizer("the capital")["input_ids"] == expected
    with pytest.raises(SourceError, match="no tokenizer there"):
        load_model(folder, tokenizer=tmp_path / "bare")


def test_the_tokenizer_of_a_packaged_model_is_read_alone(smollm2: Any) -> None:
    assert open_tokenizer("smollm2")("Verb: go") == smollm2.tokenizer("Verb: go")


def test_a_folder_lacks_a_tokenizer_where_only_its_settings_are(folder: Path) -> None:
    assert not lacks_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    assert lacks_tokenizer(folder)


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (of_words("one", "two"), "320 embeddings; got one of 3 tokens, to which a sentence is unknown; pass"),
        (of_words(*map(str, range(400))), "320 embeddings; got one of 401 tokens; pass tokenizer="),
        (Tokenizer(models.BPE()), "a Hugging Face tokenizer; got a Tokenizer as tokenizer=; wrap one"),
        (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), r"one without a vocabulary \(0 tokens\)"),
        (3, "a Hugging Face tokenizer; got a int as tokenizer="),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_be_the_models_is_refused(folder: Path, tokenizer: Any, text: str) -> None:
    with pytest.raises(SourceError, match=text):
        load_model(folder, tokenizer=tokenizer)


def test_a_small_tokenizer_that_knows_the_words_is_told_of(folder: Path) -> None:
    with pytest.warns(SourceWarning, match="the tokenizer has 15 tokens, the model 320: is it the model's own"):
        load_model(folder, tokenizer=of_words(*tokenizers.CHECK_TEXT.replace(".", " .").split()))


def test_tokens_added_beyond_the_embeddings_pass_until_a_prompt_holds_one(folder: Path, tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.pad_token_id == 320
    model = load_model(folder, tokenizer=tokenizer)
    assert model.tokenizer.pad_token == "</s>"
    assert evaluate(model, [Prompt("the capital", " of")]).probability > 0
    with pytest.raises(PromptError, match="tokens that the model has embeddings for, 320 of them; got id 320"):
        evaluate(model, [Prompt("the <pad> capital", " of")])


def test_a_bos_beyond_the_embeddings_is_refused(folder: Path, tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<new>"})
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["post_processor"] = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<new>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<new>": {"id": "<new>", "ids": [320], "tokens": ["<new>"]}},
    }  # fmt: skip
    adding = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(settings)), bos_token="<new>")
    with pytest.raises(SourceError, match="a tokenizer for the model's 320 embeddings; got"):
        load_model(folder, tokenizer=adding)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:(?:a|aa)+)+c", "(.*a){20}b", "("])
def test_a_pattern_without_end_is_refused_in_time(folder: Path, pattern: str) -> None:
    path = folder / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": split}))
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"a readable tokenizer at .*base; got .*pass tokenizer="):
        load_model(folder)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
            "do not end within 3 s",
        ),
        (
            "{% set x = namespace(s='a') %}{% for i in range(99) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s }}",
            "(not end|Memory)",
        ),
        ("{{ 'a' * 10 ** 11 }}", "does not end: MemoryError"),
        ("{{ range(10 ** 12) }}", "does not end: OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "does not end: RecursionError"),
    ],
)
def test_a_template_without_end_is_refused_in_time(
    folder: Path, template: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "PATIENCE", 3)
    (folder / "chat_template.jinja").write_text(template)
    started = time.monotonic()
    with pytest.raises(SourceError, match=rf"a readable tokenizer at .*base; got .*{text}"):
        load_model(folder)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("template", ["{% for message in messages %}{{ message['content'] }}{% endfor %}",
                                      "{{ raise_exception('no') }}", "{% if %}", "{{ messages[0].x.y }}"])  # fmt: skip
def test_other_templates_are_left_to_whoever_uses_them(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    assert load_model(folder).tokenizer.chat_template == template


def test_a_tokenizer_is_tried_once_for_its_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }} once")
    load_model(folder)
    monkeypatch.setattr(tokenizers.subprocess, "run", lambda *_, **__: pytest.fail("tried again"))
    load_model(folder)


@torch.no_grad()
def test_a_tokenizer_that_is_given_goes_before_the_models(folder: Path, tiny_tokenizer: Any) -> None:
    assert load_model(folder, tokenizer=tiny_tokenizer("<s> $A")).cfg.tokenizer_prepends_bos


def test_a_tokenizer_is_read_once_and_copied_only_from_somebody_elses(
    folder: Path, tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, copied, given = [], [], tiny_tokenizer()
    reading, copying = AutoTokenizer.from_pretrained, copy.deepcopy
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *a, **b: read.append(a) or reading(*a, **b))
    monkeypatch.setattr("ivlens.models.loading.copy.deepcopy", lambda each: copied.append(each) or copying(each))
    model = load_model(folder)
    assert len(read) == 1
    assert not any(isinstance(each, type(model.tokenizer)) for each in copied)
    tiny_hf("llama").save_pretrained(tmp_path / "bare")
    assert load_model(tmp_path / "bare", tokenizer=given).tokenizer is not given
    assert len(read) == 1


def test_a_tokenizer_is_sorted_to_be_hashed_once(tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, parse, parsed = tiny_hooked(), json.loads, []
    before = tokenizer_sha256(model.tokenizer)
    monkeypatch.setattr("ivlens.models.facts.json.loads", lambda text: parsed.append(text) or parse(text))
    assert tokenizer_sha256(copy.deepcopy(model.tokenizer)) == before
    assert not parsed
    model.tokenizer.add_tokens(["<another>"])
    assert tokenizer_sha256(model.tokenizer) != before
    assert len(parsed) == 1
