from collections import Counter
from itertools import permutations
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens.errors import ArgumentError
from ivlens.tasks import Example, Task, Turns, list_tasks, load_task
from ivlens.tasks.corruptions import derange, with_shuffled_labels
from ivlens.vocabulary import Corruption

CORRUPTIONS = get_args(Corruption)

PAST = Task(
    "past",
    [(f"verb{n}", f"past{n}") for n in range(20)],
    instructions=("Write the past tense.", "Which is the past tense?"),
    labels=("Verb", "Past tense"),
)
CAPITALS = Task(
    "capital",
    [(f"land{n}", f"city{n}") for n in range(20)],
    instructions=("Write the capital.",),
    labels=("Country", "Capital"),
)


def changed(before, after):
    return sum(old != new for old, new in zip(before, after, strict=True))


@given(st.lists(st.sampled_from("abcde"), max_size=30))
def test_derangement_changes_as_many_places_as_can_be(values):
    deranged = derange(values)
    assert Counter(deranged) == Counter(values)
    largest = max(Counter(values).values(), default=0)
    assert changed(values, deranged) == len(values) - max(0, 2 * largest - len(values))


@given(st.lists(st.sampled_from("abc"), max_size=6))
def test_no_permutation_changes_more(values):
    best = max(changed(values, other) for other in permutations(values))
    assert changed(values, derange(values)) == best


def test_fraction_changed_counts_answers_that_are_no_longer_accepted():
    shots = (Example("large", ("big", "great")), Example("huge", ("great", "giant")))
    turns, fraction = with_shuffled_labels(Turns("Synonym!", ("Word", "Synonym"), shots, "tiny"))
    assert [shot.answers for shot in turns.demonstrations] == [("great",), ("big",)]
    assert fraction == 0.5
    assert turns.instruction is None
    assert turns.labels == ("Input", "Output")


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_task_cannot_be_read_off(corruption):
    for prompt in PAST.prompts(corruption=corruption, other=CAPITALS):
        assert not any(text in prompt.text for text in (*PAST.instructions, *PAST.labels))
        assert prompt.task == "past"
        assert prompt.answers == (" " + prompt.input.replace("verb", "past"),)


@pytest.mark.parametrize("seed", range(3))
def test_queries_and_demonstrations_pair_up(seed):
    clean = PAST.prompts(8, shots=4, seed=seed)
    for corruption in CORRUPTIONS:
        assert [p.input for p in PAST.prompts(8, shots=4, seed=seed, corruption=corruption)] == [p.input for p in clean]
    shuffled = PAST.prompts(8, shots=4, seed=seed, corruption="shuffled-labels")
    for before, after in zip(clean, shuffled, strict=True):
        asked = [line.split(": ")[1] for line in before.text.splitlines() if line.startswith("Verb: ")]
        assert asked == [line.split(": ")[1] for line in after.text.splitlines() if line.startswith("Input: ")]
        assert after.labels_changed == 1.0
        assert before.labels_changed is None


def test_no_instruction_is_a_bare_prompt():
    prompt = PAST.prompts(1, corruption="no-instruction", shots=5)[0]
    assert prompt.text == f"Input: {prompt.input}\nOutput:"
    assert prompt == PAST.prompts(1, shots=0, instruction=False)[0]


def test_other_instruction_asks_for_the_other_task():
    prompt = PAST.prompts(1, corruption="other-instruction", other=CAPITALS, instruction=1)[0]
    blocks = prompt.text.split("\n\n")
    assert blocks[0] == "Write the capital."
    assert blocks[-1] == f"Country: {prompt.input}\nCapital:"
    assert [block[:13] for block in blocks[1:-1]] == ["Country: land"] * 2
    without = PAST.prompts(1, corruption="other-instruction", other=CAPITALS, instruction=False)[0]
    assert without.text.startswith("Input: land")


def test_other_task_by_default_shares_no_answers():
    for seed in range(4):
        prompt = PAST.prompts(1, corruption="other-instruction", seed=seed)[0]
        assert prompt == PAST.prompts(1, corruption="other-instruction", seed=seed)[0]
        assert prompt.text.split("\n\n")[0] in {load_task(name).instructions[0] for name in list_tasks()}
    task = load_task("country-capital")
    asked = {task.prompts(1, corruption="other-instruction", seed=seed)[0].text.split("\n\n")[0] for seed in range(12)}
    assert len(asked) > 1
    factual = {load_task(name).instructions[0] for name in list_tasks() if load_task(name).kind == "factual"}
    assert asked.isdisjoint(factual)


def test_shuffled_labels_with_few_classes_reports_what_changed():
    task = Task("class", [(f"t{n}", "yes" if n % 4 else "no") for n in range(40)], instructions=("Class?",))
    for prompt in task.prompts(shots=5, corruption="shuffled-labels"):
        labels = [line for line in prompt.text.splitlines() if line.startswith("Output: ")]
        largest = max(Counter(labels).values())
        assert prompt.labels_changed == pytest.approx(1 - max(0, 2 * largest - 5) / 5)


def test_a_task_without_instructions_can_be_corrupted():
    task = Task("bare", PAST.examples)
    for corruption in CORRUPTIONS:
        assert len(task.prompts(3, corruption=corruption, other=CAPITALS)) == 3


def test_corrupted_chat_prompts(chat_tokenizer):
    for corruption in CORRUPTIONS:
        prompt = PAST.prompts(1, corruption=corruption, other=CAPITALS, format="chat", tokenizer=chat_tokenizer)[0]
        assert prompt.text.endswith(f"{prompt.input}<|im_end|>\n<|im_start|>assistant\n")
        assert "past tense" not in prompt.text


def test_what_corruptions_refuse():
    with pytest.raises(ArgumentError, match="shots to be a whole number of 2 or more; got 1"):
        PAST.prompts(1, shots=1, corruption="shuffled-labels")
    with pytest.raises(ArgumentError, match="corruption to be one of 'no-instruction'"):
        PAST.prompts(1, corruption="noise")
    with pytest.raises(ArgumentError, match="another task; got 'past' itself"):
        PAST.prompts(1, corruption="other-instruction", other=PAST)
    with pytest.raises(ArgumentError, match="'bare' without any"):
        PAST.prompts(1, corruption="other-instruction", other=Task("bare", CAPITALS.examples))
