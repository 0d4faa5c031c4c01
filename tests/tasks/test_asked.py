"""What prompts show beside inputs: options, histories, instructions of their own; inputs that are cut; many rows."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens.errors import ArgumentError, PromptError, TaskError
from ivlens.tasks import Example, GenerationScoring, OptionScoring, Task, load_task, option_count, prompts_for
from ivlens.tasks.cutting import PIECE

COLOURS = ("red", "green", "blue")
THINGS = [Example(f"Thing {n}?", COLOURS[n % 3], COLOURS) for n in range(12)]


def choice(**scoring: Any) -> Task:
    return Task("colours", tuple(THINGS), ("Say the colour.",), ("Thing", "Colour"), scoring=OptionScoring(**scoring))


class Words:
    """A tokenizer whose tokens are words and line ends."""

    all_special_ids = ()

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.replace("\n", " \n ").split(" ") if word]}


def test_options_are_not_shown_by_default() -> None:
    prompt = choice().prompts(1, shots=0)[0]
    assert prompt.text == f"Say the colour.\n\nThing: {prompt.input}\nColour:"
    assert prompt.options == (" red", " green", " blue")
    assert prompt.scoring == OptionScoring()


def test_options_shown_by_letters() -> None:
    for prompt in choice(shown="letters").prompts(shots=1):
        shot, query = prompt.text.split("\n\n")[1:]
        lines = "\nA. red\nB. green\nC. blue\nColour:"
        assert query == f"Thing: {prompt.input}{lines}"
        letter = "ABC"[int(prompt.input[6:-1]) % 3]
        assert prompt.answers == (f" {letter}",)
        assert prompt.options == (" A", " B", " C")
        asked = shot.partition("?")[0].removeprefix("Thing: Thing ")
        assert shot == f"Thing: Thing {asked}?{lines} {'ABC'[int(asked) % 3]}"
        roles = dict(prompt.parts)
        assert roles["query options"] == roles["demonstration options"] == "\nA. red\nB. green\nC. blue"


def test_options_shown_by_texts() -> None:
    prompt = choice(shown="texts").prompts(1, shots=0)[0]
    assert prompt.text.endswith("?\nOptions:\n- red\n- green\n- blue\nColour:")
    assert prompt.options == (" red", " green", " blue")


def test_the_letter_of_a_generated_answer_is_of_options_that_are_shown() -> None:
    task = Task("colours", tuple(THINGS), scoring=GenerationScoring(parse="option-letter"))
    prompt = task.prompts(1, shots=0)[0]
    assert "A. red" in prompt.text
    assert prompt.answers[0] in (" A", " B", " C")


@pytest.mark.parametrize("shown", ["none", "letters", "texts"])
def test_corruptions_keep_the_querys_options_and_hide_the_task(shown: Any) -> None:
    task = choice(shown=shown)
    other = Task("size", [(f"x{n}", "big") for n in range(9)], ("Say the size.",))
    for corruption in ("no-instruction", "other-instruction", "shuffled-labels"):
        clean = task.prompts(shots=3)
        for prompt, before in zip(task.prompts(shots=3, corruption=corruption, other=other), clean, strict=True):
            assert (prompt.input, prompt.answers, prompt.options) == (before.input, before.answers, before.options)
            assert "Say the colour." not in prompt.text
            assert dict(prompt.parts).get("query options") == dict(before.parts).get("query options")
            assert prompt.labels_changed == (1.0 if corruption == "shuffled-labels" else None)


def test_a_demonstration_of_another_task_does_not_ask_what_the_query_asks() -> None:
    words = ("hot", "big", "up", "old", "dry", "in")
    choice = Task("choice", [Example(word, ("a",), ("a", "b")) for word in words], ("Choose.",))
    other = Task("other", [(word, word) for word in words], ("Repeat.",))
    for seed in range(5):
        for prompt in choice.prompts(shots=2, corruption="other-instruction", other=other, seed=seed):
            assert prompt.text.count(f": {prompt.input}\n") == 1


def test_a_format_that_leaves_out_shown_options_is_refused() -> None:
    with pytest.raises(PromptError, match=r"writes the options of Turns\.options; got a text without 'A\. red'"):
        choice(shown="letters").prompts(1, format=lambda turns: turns.query)
    assert choice().prompts(1, format=lambda turns: turns.query)
    many = Example("a", "o1", tuple(f"o{n}" for n in range(27)))
    with pytest.raises(TaskError, match="at most 26 options"):
        Task("many", (many,), scoring=OptionScoring(shown="letters")).prompts(1, shots=0)
    with pytest.raises(TaskError, match="options in every example of task 't'; got none in 'a'"):
        Task("t", (Example("a", "b"),), scoring=OptionScoring())


def test_an_instruction_is_written_where_it_changes() -> None:
    words = [Example(f"w{n}", f"a{n}", instruction=("Translate.", "Shorten.")[n % 2]) for n in range(8)]
    task = Task("mixed", tuple(words))
    for prompt in task.prompts(shots=3):
        said, expected = [text for role, text in prompt.parts if role == "instruction"], []
        for block in prompt.text.split("\n\n"):
            if block.startswith("Input: w"):
                own = ("Translate.", "Shorten.")[int(block.split("\n")[0][8:]) % 2]
                expected += [own] if expected[-1:] != [own] else []
        assert said == expected
    bare = task.prompts(2, shots=1, instruction=False) + task.prompts(2, corruption="shuffled-labels")
    assert not any("Translate." in prompt.text or "Shorten." in prompt.text for prompt in bare)
    assert task.prompts(1, shots=1, instruction="Say.")[0].text.startswith("Say.\n\nInput: w")
    other = Task("other", [(f"x{n}", f"y{n}") for n in range(8)], ("Do.",))
    foreign = other.prompts(1, shots=1, corruption="other-instruction", other=task)[0]
    assert {text for role, text in foreign.parts if role == "instruction"} <= {"Translate.", "Shorten."}
    assert prompts_for(task, ["w1"], shots=0)[0].text == "Shorten.\n\nInput: w1\nOutput:"


def test_equal_inputs_that_ask_for_other_things_are_other_examples() -> None:
    twins = (
        Example("dog", "chien", instruction="Translate."), Example("dog", "puppy", instruction="Name its young."),
        Example("dog", "a", ("a", "b")), Example("dog", "b", ("b", "c")), Example("dog", "c", history=(("user", "x"),)),
    )  # fmt: skip
    task = Task("dogs", twins)
    assert len(task.examples) == 5
    assert len(task.prompts(shots=1)) == 5
    with pytest.raises(TaskError, match="different inputs; got 'dog' 2 times"):
        Task("dogs", (*twins, twins[3]))
    with pytest.raises(TaskError, match="the history of the example 'a' to be pairs of a role"):
        Example("a", "b", history=(("someone", "x"),))


def test_a_history_reads_like_demonstrations() -> None:
    history = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
    prompt = Task("talk", (Example("Bye", "Ciao", history=history),)).prompts(1, shots=0)[0]
    assert prompt.text == "Be brief.\n\nInput: Hi\nOutput: Hello\n\nInput: Bye\nOutput:"
    assert [text for role, text in prompt.parts if role == "history"] == ["Be brief.", "Input: Hi", "\nOutput: Hello"]


def test_options_are_what_a_guess_chooses_from() -> None:
    assert option_count(choice()) == 3
    four = tuple(Example(f"q{n}", "a", tuple("abcd"[: 2 + 2 * (n % 2)])) for n in range(4))
    assert option_count(Task("t", four)) == 3  # the harmonic mean of 2 and 4 is 2.67


LONG = Task("long", [(" ".join(f"w{n}x{m}" for m in range(5 * n + 1)), f"a{n}") for n in range(12)], ("Do it.",))


@pytest.mark.parametrize("cut", ["left", "right", "middle"])
def test_inputs_are_cut_from_the_side_that_is_said(cut: Any) -> None:
    whole = LONG.prompts(shots=1)
    with pytest.warns(UserWarning, match=rf"of 12 prompts of 'long' were cut to 30 tokens \(cut='{cut}'\)") as told:
        prompts = LONG.prompts(shots=1, max_tokens=30, cut=cut, tokenizer=Words())
    assert told[0].filename == __file__
    changed = 0
    for before, after in zip(whole, prompts, strict=True):
        assert len(after.token_ids(Words())) <= 30
        assert (after.answers, after.input) == (before.answers, before.input)
        texts = {role: text.strip() for role, text in after.parts}
        full = {role: text.strip() for role, text in before.parts}
        for role in full.keys() - {"query input", "demonstration input"}:
            assert texts[role] == full[role]
        query, original = texts["query input"], full["query input"]
        half = len(query) // 2
        fits = {"left": original.endswith(query), "right": original.startswith(query),
                "middle": original.startswith(query[: half // 2])}  # fmt: skip
        assert fits[cut]
        changed += before.text != after.text
    assert str(told[0].message).startswith(f"{changed} of 12")


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(PromptError, match="prompts of at most 3 tokens, beside their inputs"):
        LONG.prompts(1, shots=1, max_tokens=3, tokenizer=Words())
    with pytest.raises(ArgumentError, match="tokenizer= with max_tokens="):
        LONG.prompts(1, max_tokens=30)


@given(st.text().filter(lambda text: text.strip()))
def test_pieces_make_up_a_text(text: str) -> None:
    assert "".join(PIECE.findall(text.strip())) == text.strip()


class Counted(str):
    """A text that counts how often it is compared with another one."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


def test_10_000_rows_are_sampled_and_not_compared_with_each_other() -> None:
    task = load_task([(f"in {n}", f"out {n}") for n in range(10_000)], name="many")
    counted = Task("many", tuple(Example(each.input, each.answers) for each in task.examples))
    for example in counted.examples:
        object.__setattr__(example, "input", Counted(example.input))
    Counted.compared = 0
    assert len(counted.prompts(shots=2)) == 10_000
    assert Counted.compared < 30 * 10_000
    assert len(repr(task)) < 300


def test_rows_are_read_one_after_another() -> None:
    def rows() -> Any:
        for n in range(20_000):
            yield {"input": f"in {n}", "output": f"out {n}", "text": "x" * 2000}

    tracemalloc.start()
    with pytest.warns(UserWarning, match="not read: 'text'"):
        assert len(load_task(rows()).examples) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
