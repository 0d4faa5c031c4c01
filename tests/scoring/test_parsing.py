"""What counts of a generated text, on the forms that models write, and on anything else."""

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens import ArgumentError, GenerationScoring, Prompt
from ivlens.scoring.generated import score_of
from ivlens.scoring.generation import before_stop
from ivlens.scoring.parsing import (
    PARSERS,
    canonical_number,
    last_number,
    option_letter,
    parsed,
    parsed_answers,
    parsed_reply,
    yes_no,
)

FORMS = [
    "{}", "({})", "{}.", "{})", "**{}**", "The answer is {}", "the answer is ({}).", "Answer: {}", "answer: **{}**",
    "\n{}\n\nbecause it is", "{}: it is", "The correct answer is:\n\n**{}) Paris**", "Option {} is right", '"{}"',
    "Let me see. The answer is option {}, not the others", "(A) is wrong, so (A) no. Answer: {}",
    "The stance is {}", "It has to be {}.", "{}\nBecause the answer depends on it",
    # in Chinese: support; the answer is, choose, brackets, with and without a blank
    "{} \u652f\u6301", "{}. \u652f\u6301", "{}\u3002", "{}\uff0c\u652f\u6301", "{}\u3001\u652f\u6301",
    "{}\uff1a\u652f\u6301", "\uff08{}\uff09", "\u7b54\u6848\uff1a{}", "\u7b54\u6848\u662f{}\u3002", "\u9009{}",
    "\u9009\u62e9{}\uff0c", "I pick {}\nBecause it is so",
]  # fmt: skip
LETTERS = [
    ("I think it is B", "B"), ("B Paris", "B"), ("c", "C"), ("(d)", "D"), ("the answer is a", "A"),
    ("not (A) but (C)", "C"), ("The answer is a dog", ""), ("A dog", ""),
    ("I don't know", ""), ("Answer: Paris", ""), ("B or C", ""), ("", ""),
    ("I think it is B, not A.", "B"), ("I choose C over A.", "C"), ("Unlike A, B is right", "B"), ("Not A.", ""),
    ("grade A+", ""), ("anything but C", ""),
    # in Chinese: blood group A; A is wrong, B right; the answer is not A
    ("A\u578b", ""), ("\u9009A\u4e0d\u5bf9\uff0c\u9009B", "B"), ("\u7b54\u6848\u4e0d\u662fA", ""),
]  # fmt: skip
NUMBERS = [
    ("The total is $1,234.50.", "1234.5"), ("-5", "-5"), ("\u22127", "-7"), ("-$3", "-3"), ("$-3", "-3"), ("10-5", "5"),
    ("4 - 3", "3"), ("1, 2, 3", "3"), ("1,2,3", "3"), ("about 1,234,567 people", "1234567"), ("50%", "50"),
    (".5", "0.5"), ("-0.0", "0"),
    ("007", "7"), ("#### 18", "18"), ("x = 3.50", "3.5"), ("100", "100"), ("none", ""), ("", ""),
    ("2 apples and 3.", "3"), ("1 mole of H2", "1"), ("3 moles of H2SO4.", "3"), ("H2", "2"), ("x2 = 5", "5"),
    ("5 dollars on 3 days, so US$15.", "15"), ("5 times is HK$20", "20"), ("8, so EUR20", "20"), ("8 or Rs18", "18"),
    ("3\u5929\uff0c\u4e00\u5171\u662f15\u5143", "15"), ("8 is \\boxed18", "18"),
]  # fmt: skip
YES_NO = [
    ("Yes", "yes"), ("no.", "no"), ("**Yes**, no doubt", "yes"), ("The answer is no", "no"),
    ("Not yes. Answer: No", "no"), ("I would say yes", "yes"), ("It is yes or no", ""), ("yesterday", ""), ("", ""),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_options_letter_is_found_in_every_form(form: str) -> None:
    for letter in "ABCDE":
        assert option_letter(form.format(letter)) == letter


@pytest.mark.parametrize(("text", "letter"), LETTERS)
def test_an_options_letter_and_words_that_look_like_one(text: str, letter: str) -> None:
    assert option_letter(text) == letter


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_the_last_number(text: str, number: str) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(("text", "found"), YES_NO)
def test_yes_or_no(text: str, found: str) -> None:
    assert yes_no(text) == found


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9), st.text())
def test_a_number_is_found_however_it_is_written(number: Decimal, before: str) -> None:
    for written in (f"{number:f}", f"{number:,f}", f"{number:f}.", f"${number:,.3f}"):
        assert Decimal(last_number(f"{before}\n{written}")) == number
        assert Decimal(canonical_number(written) or "nan") == number


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    for name in PARSERS:
        found = parsed(name, text)
        assert found == found.strip()
        assert parsed(name, found) == found or name == "yes-no"
    assert option_letter(text) in {"", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    assert yes_no(text) in {"", "yes", "no"}
    assert "\n" not in parsed("first-line", text)


@given(st.text(), st.lists(st.text(min_size=1), max_size=3))
def test_the_text_before_a_stop_is_the_longest_beginning_without_one(text: str, stops: list[str]) -> None:
    found = before_stop(text, stops)
    assert text.startswith(found)
    assert not any(stop in found for stop in stops)
    assert found == text or any(text.startswith(stop, len(found)) for stop in stops)


def test_answers_are_parsed_as_texts_are() -> None:
    assert parsed_answers("last-number", (" #### 1,800", " many"), ()) == ("1800", " many")
    assert parsed_answers("option-letter", (" Paris",), (" Rome", " Paris")) == ("B", " Paris")
    assert parsed_answers("option-letter", (" B",), (" A", " B")) == ("B",)
    assert parsed_answers("option-letter", (" vitamin C",), (" iron", " vitamin C", " zinc")) == ("B", " vitamin C")
    assert parsed_answers("option-letter", (" 4",), (" 3", " 4")) == ("B", " 4")
    assert parsed_answers("first-line", (" one\ntwo",), ()) == (" one\ntwo",)
    for letter in "ABC":  # an explanation may name others
        for why in ("The answer is B. cereus", "Option A is not", "The answer is U.S. territory"):
            assert parsed_answers("option-letter", (f"{letter}\n{why}",), ()) == (letter,)
    assert parsed_answers("option-letter", ("Not A, since it is cold. The answer is B",), ()) == ("B",)
    assert parsed_answers("option-letter", ("Answer: B\nBecause option A is colder.",), ()) == ("B",)


@pytest.mark.parametrize(
    "answer", ["B. because the answer is C", "(B) choice A is wrong", "A\nThe answer is B. cereus"]
)
def test_a_reply_that_is_the_accepted_answer_is_right(answer: str) -> None:
    asked = Prompt("Which?", (answer,), scoring=GenerationScoring(parse="option-letter"))
    assert score_of(asked, answer) == 1
    assert score_of(asked, answer[answer.index(answer.strip("(")[0])]) == 1


def test_no_text_takes_long_to_parse() -> None:
    began = time.perf_counter()
    for start in ("answer", "choice", "\u7b54\u6848", "("):
        for parser in PARSERS.values():
            parser(start + " " * 5000 + "option" + " " * 5000 + "!")
    assert time.perf_counter() - began < 2


def test_where_an_answer_holds_nothing_to_find_the_first_line_counts() -> None:
    assert parsed_reply("last-number", " October\nSince 3", ("October",)) == "October"
    assert parsed_reply("last-number", "It is 3", ("October",)) == "It is 3"
    assert parsed_reply("option-letter", "dovish", ("dovish",)) == "dovish"
    assert parsed_reply("last-number", "It is 3", ("October", "3")) == "3"
    assert parsed_reply("yes-no", "maybe", ("no",)) == ""
    named = Prompt("Where?", (" Paris",), options=(" Rome", " Paris"), scoring=GenerationScoring(parse="option-letter"))
    assert [score_of(named, said) for said in ("The answer is B", "A", "Paris", "Rome")] == [1, 0, 1, 0]


def test_a_function_of_the_users_gives_a_text() -> None:
    assert parsed(str.upper, "a") == "A"
    with pytest.raises(ArgumentError, match="parse to give a text; got 1"):
        parsed(len, "a")  # type: ignore[arg-type]
