import json
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files

import pytest

from ivlens.errors import ArgumentError
from ivlens.tasks import list_tasks, load_task, word_tasks

# examples of each task when the kept figures were measured: later ones stand after them in its file
MEASURED = {
    "adjective-comparative": 127, "antonym": 136, "capitalize": 138, "choose-animal": 120, "choose-first-of-3": 120,
    "choose-last-of-3": 120, "country-capital": 133, "country-currency": 132, "country-language": 116,
    "english-french": 159, "english-german": 158, "english-spanish": 162, "hypernym": 165, "landmark-country": 157,
    "lowercase-first-letter": 128, "person-profession": 157, "present-past": 137, "product-company": 157,
    "sentiment": 104, "singular-plural": 132, "synonym": 137, "verb-gerund": 127, "word-topic": 128,
}  # fmt: skip
KINDS = {"factual", "grammatical", "lexical", "extractive", "classification", "translation", "general ability"}


def test_the_list():
    names = list_tasks()
    assert len(names) >= 12
    assert names == sorted(names)
    assert {"country-capital", "present-past", "singular-plural", "capitalize", "antonym"} <= set(names)
    assert {load_task(name).kind for name in names} == KINDS
    names.clear()
    assert list_tasks()


def test_the_list_of_a_kind():
    kinds = [list_tasks(kind) for kind in sorted(KINDS)]
    assert sorted(name for names in kinds for name in names) == list_tasks()
    assert sorted([*word_tasks(), *list_tasks("general ability")]) == list_tasks()
    with pytest.raises(ArgumentError, match="kind"):
        list_tasks("hard")


@pytest.mark.parametrize("name", list_tasks())
def test_data_file(name):
    task = load_task(name)
    assert task.name == name
    assert task.source == "ivlens"
    assert len(task.instructions) >= 2
    assert task.labels != ("Input", "Output")
    assert task.cloze is None or task.cloze.count("{input}") == 1


@pytest.mark.parametrize("name", list_tasks())
def test_data_is_as_written(name):
    data = json.loads((files("ivlens.tasks") / "data" / f"{name}.json").read_text(encoding="utf-8"))
    inputs = [row[0] for row in data["examples"]]
    assert len(set(inputs)) == len(inputs)
    answers = [text for row in data["examples"] for texts in row[1:] for text in texts]
    texts = [*inputs, *answers, *data["instructions"], *data["labels"]]
    assert all(text and text == text.strip() for text in texts)


@pytest.fixture(scope="module")
def wordy_tokenizer(make_tokenizer):
    """A tokenizer whose vocabulary holds the words of the built-in tasks, as a real model's holds most."""
    tasks = [load_task(name) for name in list_tasks()]
    corpus = [prompt.text + prompt.answers[0] for task in tasks for prompt in task.prompts()]
    return make_tokenizer("<s> $A", corpus=corpus, vocab_size=30_000)


@pytest.mark.parametrize("name", list_tasks())
def test_prompts_are_encoded(name, wordy_tokenizer):
    task = load_task(name)
    prompts = task.prompts(20, shots=3)
    prompts += task.cloze_prompts(20) if task.cloze else []
    for corruption in ("no-instruction", "other-instruction", "shuffled-labels"):
        corrupted = task.prompts(20, shots=3, corruption=corruption)
        assert [prompt.answers for prompt in corrupted] == [prompt.answers for prompt in prompts[:20]]
        prompts += corrupted
    for prompt in prompts:
        encoded = prompt.encode(wordy_tokenizer)
        assert wordy_tokenizer.decode(encoded.answer_ids) == prompt.answers[0]


@pytest.mark.parametrize(("format", "digest"), [("labelled", "75e9fbdb5fc07751"), ("chat", "b35f53eed4441399")])
def test_the_ids_are_those_that_the_kept_figures_were_measured_with(smollm2, format, digest):
    found = sha256()
    for name, count in MEASURED.items():
        task = replace(load_task(name), examples=load_task(name).examples[:count])
        for corruption in (None, "no-instruction", "shuffled-labels"):
            options = {"format": format, "tokenizer": smollm2.tokenizer, "corruption": corruption}
            for prompt in task.prompts(8, **options):
                encoded = prompt.encode(smollm2.tokenizer)
                found.update(repr((encoded.prompt_ids, encoded.answer_ids)).encode())
    assert found.hexdigest()[:16] == digest
