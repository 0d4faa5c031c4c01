import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens.errors import ArgumentError, TaskError
from ivlens.tasks import Example, Task, load_task, option_count, prompts_for

EXAMPLES = [(f"verb{n}", [f"past{n}", f"alt{n}"]) for n in range(20)]
PAST = Task(
    "past",
    EXAMPLES,
    instructions=("Write the past tense.", "Which is the past tense?"),
    labels=("Verb", "Past tense"),
    cloze="Today I {input}, yesterday I",
)


def test_examples_are_normalised():
    task = Task("t", [Example(" a ", "b "), ("c", ["d", "d", "e"])], instructions=" Do it. ")
    assert task.examples == (Example("a", ("b",)), Example("c", ("d", "e")))
    assert task.instructions == ("Do it.",)
    assert pickle.loads(pickle.dumps(task)) == task
    assert len(repr(PAST)) < 300


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "the name of a task"),
        ({"name": 3}, "the name of a task"),
        ({"examples": []}, "the examples of task 't' to be a list of one or more"),
        ({"examples": 3}, "the examples of task 't'"),
        ({"examples": [("a", "b", "c")]}, "pairs of an input and its answers"),
        ({"examples": ["ab"]}, "pairs of an input and its answers"),
        ({"examples": [("a", [])]}, "one answer or more"),
        ({"examples": [("a", "b"), ("a", "c")]}, "different inputs; got 'a' 2 times"),
        ({"examples": [("a", " ")]}, "the answers of the example 'a' to be a text that is not blank"),
        ({"examples": [(None, "a")]}, "the input of an example to be a text"),
        ({"instructions": ("",)}, "the instructions of task 't'"),
        ({"instructions": 3}, "the instructions of task 't'"),
        ({"labels": ("a",)}, "the labels of task 't' to be two"),
        ({"labels": ("a", "a")}, "the labels of task 't' to be two"),
        ({"labels": 3}, "the labels of task 't'"),
        ({"cloze": "no place"}, "the cloze of task 't' to hold {input} once"),
        ({"cloze": "{input} {input}"}, "the cloze of task 't' to hold {input} once"),
        ({"cloze": 3}, "the cloze of task 't'"),
        ({"kind": None}, "the kind of task 't'"),
        ({"source": 3}, "the source of task 't'"),
    ],
)
def test_what_is_not_a_task_names_the_field(fields, said):
    with pytest.raises(TaskError) as caught:
        Task(**{"name": "t", "examples": [("a", "b")], **fields})
    assert said in str(caught.value)


@given(st.integers(1, 60), st.integers(0, 5))
def test_splits_are_disjoint_and_complete(size, seed):
    task = Task("t", [(str(n), str(n)) for n in range(size)])
    parts = [task.split(name, seed) for name in ("train", "validation", "test")]
    assert sorted(example.input for part in parts for example in part) == sorted(map(str, range(size)))
    assert [len(part) for part in parts] == pytest.approx([size * share for share in (0.5, 0.2, 0.3)], abs=1)
    assert task.split("all", seed) == task.examples


def demonstrated(prompt, label="Verb"):
    *shots, query = [line.split(": ")[1] for line in prompt.text.splitlines() if line.startswith(f"{label}: ")]
    assert query == prompt.input
    return shots


def test_draws_are_the_same_in_every_process():
    test = [example.input for example in PAST.split("test", 3)]
    assert test == ["verb2", "verb18", "verb16", "verb17", "verb8", "verb3"]
    assert [prompt.input for prompt in PAST.prompts(4, seed=2)] == ["verb15", "verb5", "verb12", "verb6"]
    assert demonstrated(PAST.prompts(1, seed=2)[0]) == ["verb5", "verb11"]
    assert PAST.split("train", 0) != PAST.split("train", 1)


def test_split_name():
    with pytest.raises(ArgumentError, match="split to be one of 'train', 'validation', 'test', 'all'; got 'dev'"):
        PAST.split("dev")
    with pytest.raises(ArgumentError, match="split to be one of"):
        PAST.prompts(1, split="dev")


@pytest.mark.parametrize("split", ["train", "validation", "test", "all"])
def test_demonstrations_come_from_train_and_never_hold_the_query(split):
    train = {example.input for example in PAST.split("train")}
    prompts = PAST.prompts(shots=9, split=split, seed=4)
    assert sorted(prompt.input for prompt in prompts) == sorted(example.input for example in PAST.split(split))
    for prompt in prompts:
        shots = demonstrated(prompt)
        assert len(set(shots)) == 9
        assert set(shots) <= train - {prompt.input}
    assert len({tuple(demonstrated(prompt)) for prompt in prompts}) > 1


def test_prompts_are_one_draw_per_seed():
    assert PAST.prompts(5, seed=1) == PAST.prompts(5, seed=1)
    assert [p.input for p in PAST.prompts(5, seed=1)] != [p.input for p in PAST.prompts(5, seed=2)]
    assert PAST.prompts(5, seed=1) == PAST.prompts(9, seed=1)[:5]
    assert len({p.input for p in PAST.prompts()}) == 20


def test_formats_and_instructions_leave_the_draw_as_it_is():
    clean = PAST.prompts(6)
    for other in (PAST.prompts(6, format="qa"), PAST.prompts(6, instruction=1), PAST.prompts(6, instruction="Say it.")):
        assert [p.input for p in other] == [p.input for p in clean]
    bare = PAST.prompts(6, instruction=False)
    assert [demonstrated(p) for p in clean] == [demonstrated(p, "Input") for p in bare]
    assert [p.input for p in PAST.cloze_prompts(6)] == [p.input for p in clean]


def test_a_whole_prompt():
    prompt = PAST.prompts(1, shots=1)[0]
    shot = demonstrated(prompt)[0]
    assert prompt.text == (
        f"Write the past tense.\n\nVerb: {shot}\nPast tense: past{shot[4:]}\n\nVerb: {prompt.input}\nPast tense:"
    )
    number = prompt.input[4:]
    assert prompt.answers == (f" past{number}", f" alt{number}")
    assert prompt.special_tokens
    assert prompt.task == "past"


def test_instruction_by_number_text_and_not_at_all():
    assert PAST.prompts(1, instruction=0) == PAST.prompts(1)
    assert PAST.prompts(1, instruction=1)[0].text.startswith("Which is the past tense?\n\nVerb: ")
    assert PAST.prompts(1, instruction="Say it.")[0].text.startswith("Say it.\n\nVerb: ")
    assert PAST.prompts(1, shots=0, instruction=False)[0].text.startswith("Input: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 21}, "n to be at most 20, the size of 'all' in 'past'; got 21"),
        ({"n": 5, "split": "validation"}, "n to be at most 4, the size of 'validation' in 'past'; got 5"),
        ({"n": 0}, "n to be a whole number of 1 or more, or None; got 0"),
        ({"shots": -1}, "shots to be a whole number of 0 or more; got -1"),
        ({"shots": 11, "split": "test"}, "shots to be at most 10, the examples in the training half of 'past'"),
        ({"shots": 10, "split": "train"}, "shots to be at most 9"),
        ({"instruction": 2}, "instruction to be from 0 to 1; got 2"),
        ({"instruction": -1}, "instruction to be from 0 to 1; got -1"),
        ({"instruction": " "}, "instruction to be a text that is not blank"),
    ],
)
def test_options_outside_their_values(options, said):
    with pytest.raises(ArgumentError) as caught:
        PAST.prompts(**options)
    assert said in str(caught.value)


def test_a_task_without_instructions_says_what_to_do():
    task = Task("bare", EXAMPLES)
    with pytest.raises(ArgumentError, match=r"pass instructions= to load_task, .* or instruction=False"):
        task.prompts(1, instruction=True)
    assert task.prompts(1) == task.prompts(1, instruction=False)
    assert task.prompts(1, instruction=False, shots=0)[0].text.startswith("Input: verb")
    assert task.prompts(1, instruction="Say it.")[0].text.startswith("Say it.")


def test_cloze_prompts():
    prompt = PAST.cloze_prompts(1)[0]
    assert prompt.text == f"Today I {prompt.input}, yesterday I"
    assert prompt.answers[0] == " " + prompt.input.replace("verb", "past")
    with pytest.raises(TaskError, match="a task with a cloze"):
        Task("t", EXAMPLES).cloze_prompts()


def test_no_second_space_after_whitespace_and_braces_are_text():
    task = Task("t", [("{x}", "y")], cloze="{input} is {z} ")
    assert task.cloze_prompts()[0].text == "{x} is {z} "
    assert task.cloze_prompts()[0].answers == ("y",)


def test_inputs_of_another_task_are_asked_as_its_own_are():
    own = PAST.prompts(5, shots=2, split="test")
    asked = prompts_for(PAST, [*(each.input for each in own), "verb99"], shots=2)
    assert asked[:5] == own
    assert asked[5].text.startswith("Write the past tense.")
    assert asked[5].text.endswith("Verb: verb99\nPast tense:")
    assert asked[5].answers == (" verb99",)


@pytest.mark.parametrize(
    ("name", "options"),
    [("sentiment", 2), ("word-topic", 4), ("choose-animal", 3), ("antonym", None), ("lowercase-first-letter", None)],
)
def test_a_guess_has_a_few_options_or_none(name, options):
    assert option_count(load_task(name)) == options
