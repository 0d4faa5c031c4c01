"""The built-in general abilities: many rows, each right, none of them given away by its options."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from ivlens.tasks import Example, OptionScoring, list_tasks, load_task, option_count
from ivlens.tasks.builtin import members

GENERAL = list_tasks("general ability")
CHOICE = [name for name in GENERAL if name != "short-answer"]
EXPRESSIONS = json.loads((Path(__file__).parent / "word_problems.json").read_text(encoding="utf-8"))
BUILTINS = (print, len, max, min, sum, sorted, list, range, int, str, abs, round, type, set)


def accuracy_of(name: str, choose: Callable[[list[int]], int]) -> float:
    """Accuracy of always taking an option of the chosen length, any of them where several have it."""
    rows = [(example.answers[0], example.options) for example in load_task(name).examples]
    taken = [[each for each in options if len(each) == choose([*map(len, options)])] for _, options in rows]
    return sum((answer in some) / len(some) for (answer, _), some in zip(rows, taken, strict=True)) / len(rows)


def evaluated(expression: str) -> float:
    assert re.fullmatch(r"[\d +\-*/()]+", expression)
    return float(eval(expression))


def printed(code: str) -> str:
    """What one of our own programs prints, which may use a few builtins only."""
    out = io.StringIO()
    with redirect_stdout(out):
        exec(code, {"__builtins__": {each.__name__: each for each in BUILTINS}})
    return out.getvalue().strip()


def test_the_group():
    assert len(GENERAL) >= 7
    assert members("general") == GENERAL
    assert members("antonym") == ["antonym"]


@pytest.mark.parametrize("name", GENERAL)
def test_paraphrases_and_different_rows(name):
    task = load_task(name)
    assert len(task.instructions) >= 3
    assert len({example.input.casefold() for example in task.examples}) == len(task.examples)


def test_scoring():
    by_character = {name for name in GENERAL if load_task(name).scoring == OptionScoring(normalise="character")}
    assert by_character == {"commonsense", "reading", "translation"}
    assert {load_task(name).scoring for name in GENERAL if name not in by_character} == {None}


@pytest.mark.parametrize("name", CHOICE)
def test_four_different_options_with_one_right_answer(name):
    for example in load_task(name).examples:
        assert len({option.casefold().strip(" .") for option in example.options}) == 4 or name == "code-output", example
        assert len(example.options) == 4, example
        assert len(example.answers) == 1, example
    assert option_count(load_task(name)) == 4


@pytest.mark.parametrize("name", CHOICE)
def test_the_right_answer_stands_at_each_position_equally_often(name):
    examples = load_task(name).examples
    counts = Counter(example.options.index(example.answers[0]) for example in examples)
    assert max(counts.values()) - min(counts[at] for at in range(4)) <= 1


@pytest.mark.parametrize("choose", [max, min])
@pytest.mark.parametrize("name", CHOICE)
def test_length_does_not_give_the_answer_away(name, choose):
    assert 0.15 < accuracy_of(name, choose) < 0.32


@pytest.mark.parametrize("name", ["arithmetic", "code-output"])
def test_size_does_not_give_a_number_away(name):
    rows = [each for each in load_task(name).examples if all(option.isdecimal() for option in each.options)]
    ranks = Counter(sorted(map(int, each.options)).index(int(each.answers[0])) for each in rows)
    assert len(rows) > 40
    assert all(0.18 < ranks[rank] / len(rows) < 0.32 for rank in range(4)), ranks


def test_every_sum_is_right():
    for example in load_task("arithmetic").examples:
        expression = re.fullmatch(r"What is ([\d +\-*/()]+)\?", example.input)
        result = evaluated(expression[1] if expression else EXPRESSIONS[example.input])
        assert result == int(example.answers[0]), example
        assert len({len(option) for option in example.options}) == 1, example  # as many digits: no sum favours one


def test_every_program_prints_its_answer():
    for example in load_task("code-output").examples:
        assert printed(example.input) == example.answers[0], example


def listed(example: Example) -> list[str]:
    return example.input.rpartition(": ")[2].removesuffix("?").split(", ")


def test_every_order_lists_its_options_and_the_computable_ones_are_right():
    keys: dict[str, Callable[[str], object]] = {
        "comes first in the alphabet": lambda text: text.casefold(),
        "comes last in the alphabet": lambda text: text.casefold(),
        "numbers is the largest": int, "numbers is the smallest": int, "year came": int,
    }  # fmt: skip
    computed = 0
    for example in load_task("ordering").examples:
        if ": " in example.input:
            assert listed(example) == list(example.options), example
        key = next((keys[phrase] for phrase in keys if phrase in example.input), None)
        if key is not None:
            most = max if re.search("largest|last", example.input) else min
            assert most(example.options, key=key) == example.answers[0], example
            computed += 1
    assert computed >= 20


def test_no_translation_is_the_word_itself():
    for example in load_task("translation").examples:
        asked = re.search(r'"(.+)"', example.input)
        assert asked, example
        assert asked[1] not in example.options, example


def test_short_answers_are_short():
    for example in load_task("short-answer").examples:
        assert not example.options
        assert len(example.answers[0].split()) <= 2, example
