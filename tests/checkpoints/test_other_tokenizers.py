"""Checkpoints whose tokenizers are missing, larger, or begin with another token than the base's."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from ivlens import Task, load_model
from ivlens.checkpoints import CheckpointConfig, compare_checkpoints
from ivlens.errors import SourceError, SourceWarning
from ivlens.records import CheckpointComparison
from tiny_models import WORDS

PAIRS = tuple((word, WORDS[(at + 1) % len(WORDS)]) for at, word in enumerate(WORDS))
TASK = Task("next", PAIRS, ("the quick fox jumps",), ("Q", "A"), None)
CONFIG = CheckpointConfig(
    n_clean=4, groups=2, n_corrupted=2, k=2, shots=1, n_test=4, n_validation=2, layers=(0,), scales=(1.0,),
    random_seeds=(0,), general=False,
)  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft"),
]


@pytest.fixture
def folder(tmp_path: Path, tiny_hf: Any) -> Callable[..., Path]:
    """``folder(name, tokenizer, **config)``: a tiny model of one layer and a tokenizer, or none."""

    def made(name: str, tokenizer: Any = None, seed: int = 0, **config: Any) -> Path:
        tiny_hf("llama", seed=seed, num_hidden_layers=1, **config).save_pretrained(tmp_path / name)
        if tokenizer is not None:
            tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return made


def permuted(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The tokenizer with the ids of two of its tokens exchanged."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = settings["model"]["vocab"]
    one, two = [token for token, at in vocabulary.items() if at in (300, 301)]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(settings)), bos_token="<s>", eos_token="</s>"
    )


def numbers(comparison: CheckpointComparison, name: str) -> list[float]:
    frame = comparison.to_frame()
    found = frame[frame["checkpoint"] == name].iloc[0]
    return [found["probability"], found["cosine"], found["forgetting"]]


def test_a_checkpoint_without_a_tokenizer_has_the_bases(folder: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    base, good, bare = folder("base", tiny_tokenizer()), folder("good", tiny_tokenizer(), 1), folder("bare", None, 1)
    with pytest.warns(SourceWarning, match="bare has no tokenizer of its own; it is given the base's"):
        comparison = compare_checkpoints(base, {"bare": bare, "good": good}, [TASK], CONFIG)
    assert comparison.failures == {}
    assert numbers(comparison, "bare") == numbers(comparison, "good")


@pytest.mark.parametrize("kind", ["hugging face", "hooked"])
def test_the_base_that_lends_its_tokenizer_may_be_an_object(folder: Any, tiny_tokenizer: Any, kind: str) -> None:
    base, bare = folder("base", tiny_tokenizer()), folder("bare", None, 1)
    model = load_model(base) if kind == "hooked" else AutoModelForCausalLM.from_pretrained(base)
    with pytest.warns(SourceWarning, match="it is given the base's"):
        assert compare_checkpoints(model, {"bare": bare}, [TASK], CONFIG).failures == {}


@pytest.mark.parametrize(
    ("own", "warned"),
    [("{{ bos_token }}", True), ("{# said otherwise #}", False), ("{{ raise_exception('no') }}", True), (None, False)],
)
def test_the_bases_chat_template_is_used_for_all(
    folder: Any, tiny_tokenizer: Any, chatml: str, own: str | None, warned: bool, recwarn: pytest.WarningsRecorder
) -> None:
    base = folder("base", tiny_tokenizer(chat_template=chatml), max_position_embeddings=512)
    theirs = tiny_tokenizer(chat_template=None if own is None else own + chatml)
    tuned = folder("tuned", theirs, 1, max_position_embeddings=512)
    same = folder("same", tiny_tokenizer(chat_template=chatml), 1, max_position_embeddings=512)
    comparison = compare_checkpoints(base, {"tuned": tuned, "same": same}, [TASK], replace(CONFIG, format="chat"))
    assert comparison.failures == {}
    assert numbers(comparison, "tuned") == numbers(comparison, "same")
    said = [str(each.message) for each in recwarn if "its chat template" in str(each.message)]
    expected = "tuned: its chat template writes prompts otherwise than the base's, which is used for all"
    assert said == [expected] * warned


def test_a_checkpoint_object_without_a_tokenizer_has_the_bases(folder: Any, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    base, theirs = folder("base", tiny_tokenizer()), tiny_hf("llama", num_hidden_layers=1, seed=1)
    with pytest.warns(SourceWarning, match="it is given the base's"):
        assert compare_checkpoints(base, {"object": theirs}, [TASK], CONFIG).failures == {}


def test_with_a_tokenizer_given_nobody_needs_one(folder: Any, tiny_tokenizer: Any, recwarn: Any) -> None:
    comparison = compare_checkpoints(folder("base"), {"tuned": folder("tuned", None, 1)}, [TASK], CONFIG,
                                     tokenizer=tiny_tokenizer())  # fmt: skip
    assert comparison.failures == {}
    assert not [each for each in recwarn if each.category is SourceWarning]


def test_an_added_pad_token_is_no_hindrance(folder: Any, tiny_tokenizer: Any) -> None:
    padding = tiny_tokenizer()
    padding.add_special_tokens({"pad_token": "<pad>"})
    base, same = folder("base", tiny_tokenizer()), folder("same", tiny_tokenizer(), 1)
    more = folder("more", padding, 1)
    with pytest.warns(SourceWarning, match="more: its tokenizer and the base's differ in 1 tokens that only one"):
        comparison = compare_checkpoints(base, {"same": same, "more": more}, [TASK], CONFIG)
    assert comparison.failures == {}
    assert numbers(comparison, "more") == numbers(comparison, "same")


def test_embeddings_resized_for_added_tokens_are_no_hindrance(folder: Any, tiny_tokenizer: Any) -> None:
    padding = tiny_tokenizer()
    padding.add_special_tokens({"pad_token": "<pad>"})
    base, wide = folder("base", tiny_tokenizer()), folder("wide", padding, vocab_size=328)
    with pytest.warns(SourceWarning, match="tokens that only one of them has"):
        assert compare_checkpoints(base, {"wide": wide}, [TASK], CONFIG).failures == {}


def test_a_bos_that_only_the_checkpoint_has_is_told_of_and_measured(folder: Any, tiny_tokenizer: Any) -> None:
    base, with_bos = folder("base", tiny_tokenizer()), folder("bos", tiny_tokenizer("<s> $A"), 1)
    with pytest.warns(
        SourceWarning, match="bos: its tokenizer and the base's differ in a BOS that only one of them adds"
    ):
        comparison = compare_checkpoints(base, {"bos": with_bos}, [TASK], CONFIG)
    assert comparison.failures == {}
    probability, *_ = numbers(comparison, "bos")
    alone = compare_checkpoints(with_bos, {"same": with_bos}, [TASK], CONFIG)
    assert probability == pytest.approx(numbers(alone, "same")[0])
    without = folder("without", tiny_tokenizer(), 1)
    assert probability != numbers(compare_checkpoints(base, {"without": without}, [TASK], CONFIG), "without")[0]


def test_another_vocabulary_is_a_failure_by_name(folder: Any, tiny_tokenizer: Any) -> None:
    base, other = folder("base", tiny_tokenizer()), folder("other", permuted(tiny_tokenizer()))
    comparison = compare_checkpoints(base, {"other": other, "good": base}, [TASK], CONFIG)
    assert set(comparison.failures) == {"other"}
    assert "the base's tokenizer; got another vocabulary: 2 tokens have other ids" in comparison.failures["other"]
    assert "--tokenizer" in comparison.failures["other"]


def test_other_ids_of_one_vocabulary_are_a_failure_by_prompt(folder: Any, tiny_tokenizer: Any) -> None:
    other = tiny_tokenizer()
    settings = json.loads(other.backend_tokenizer.to_str())
    settings["normalizer"] = {"type": "Lowercase"}
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(settings)), bos_token="<s>", eos_token="</s>"
    )
    other.add_tokens(["<more>"])
    base, lower = folder("base", tiny_tokenizer()), folder("lower", other)
    with pytest.raises(SourceError, match="gives the prompts the base's ids; got other ids for 'the quick"):
        compare_checkpoints(base, {"lower": lower}, [TASK], CONFIG)


def test_an_adapters_tokenizer_is_compared_as_its_own(folder: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    base = folder("base", tiny_tokenizer())
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    tiny_tokenizer("<s> $A").save_pretrained(tmp_path / "adapter")
    with pytest.warns(SourceWarning, match="a BOS that only one of them adds"):
        assert compare_checkpoints(base, {"tuned": tmp_path / "adapter"}, [TASK], CONFIG).failures == {}


def test_no_checkpoint_ends_the_comparison_of_others(
    folder: Any, tiny_tokenizer: Any, tiny_hf: Any, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    base, good = folder("base", tokenizer), folder("good", tokenizer, 1)
    stray, broken, endless = folder("stray", tokenizer), folder("nan", tokenizer), folder("endless", tokenizer)
    for path, name, value in (
        (stray, "score.weight", torch.ones(2)),
        (broken, "model.norm.weight", torch.full((32,), torch.nan)),
    ):
        save_file(load_file(path / "model.safetensors") | {name: value}, path / "model.safetensors", {"format": "pt"})
    settings = json.loads((endless / "config.json").read_text())
    (endless / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 10**9}))
    bad = {"stray": stray, "nan": broken, "endless": endless, "object": torch.nn.Linear(2, 2), "good": good}
    comparison = compare_checkpoints(base, bad, [TASK], CONFIG)
    assert comparison.checkpoints == ("base", "good")
    assert set(comparison.failures) == {*bad} - {"good"}
    assert all(len(reason) < 900 and "\n" not in reason for reason in comparison.failures.values())
    assert "score.weight" in comparison.failures["stray"]
    assert "NaN or infinity in model.norm.weight" in comparison.failures["nan"]
