"""Scores of texts against the packages and scripts that define them."""

import re
import string
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivlens import ArgumentError, UnsupportedError
from ivlens.scoring.text_scores import check_available, exact_match, f1_of_words, normalised, rouge_l, scored

WORDS = ["The", "a", "an", "An", "cat,", "dog!", "Sat", "sat.", "über", "x-ray", "it's", "U.S.", "(on)", "mat"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
PAIRS = [  # prediction, answer, exact match and F1, as SQuAD's script computes them
    ("Denver Broncos", "The Denver Broncos", 1.0, 1.0),
    ("the Denver Broncos!", "denver broncos", 1.0, 1.0),
    ("Broncos", "Denver Broncos", 0.0, 2 / 3),
    ("Santa Clara, California", "Levi's Stadium in Santa Clara", 0.0, 0.5),
    ("gold gold", "gold", 0.0, 2 / 3),
    ("silver", "gold", 0.0, 0.0),
]


def squad_words(text: str) -> list[str]:
    """The steps of SQuAD's evaluation script, one by one."""
    lowered = text.lower()
    unpunctuated = "".join(letter for letter in lowered if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", unpunctuated).split()


def squad_f1(text: str, answer: str) -> float:
    ours, theirs = squad_words(text), squad_words(answer)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(("text", "answer", "exact", "f1"), PAIRS)
def test_published_forms_of_answers(text: str, answer: str, exact: float, f1: float) -> None:
    assert exact_match(text, answer) == exact
    assert f1_of_words(text, answer) == pytest.approx(f1)
    assert squad_f1(text, answer) == pytest.approx(f1)


@given(TEXTS, TEXTS)
def test_words_are_compared_as_squads_script_does(text: str, answer: str) -> None:
    if squad_words(text) and squad_words(answer):
        assert exact_match(text, answer) == (squad_words(text) == squad_words(answer))
        assert f1_of_words(text, answer) == pytest.approx(squad_f1(text, answer))


@settings(deadline=None)  # the first call imports
@given(st.text(), st.text())
def test_scores_of_anything_lie_between_0_and_1_and_a_text_matches_itself(text: str, answer: str) -> None:
    for score in (exact_match, f1_of_words, rouge_l):
        assert 0 <= score(text, answer) <= 1
        assert score(text, answer) == pytest.approx(score(answer, text))
    assert exact_match(text, text) == 1
    assert f1_of_words(text, text) == pytest.approx(float(bool(text.split())))


def test_what_squad_would_strip_to_nothing_or_to_another_number_stays_itself() -> None:
    assert not exact_match("The", "A")
    assert exact_match("a", "A")
    assert not exact_match("!", "?")
    assert not exact_match("3.5", "35")
    assert not exact_match("-5", "5")
    assert exact_match("$1,000.0", "1000")
    assert normalised("The 3.5 cats") == "35 cats"  # as SQuAD has it


GOLDEN = [  # prediction, answer, rougeL of rouge-score with stemming; the first is its own documentation's
    ("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog", 10 / 17),
    ("cats were running", "the cat runs", 2 * (2 / 3) * (2 / 3) / (4 / 3)),
    ("b a", "a b", 0.5),
    ("", "a", 0.0),
]


@pytest.mark.parametrize(("text", "answer", "golden"), GOLDEN)
def test_rouge_l_is_rouge_scores(text: str, answer: str, golden: float) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(["rougeL"], use_stemmer=True).score(answer, text)["rougeL"].fmeasure
    assert rouge_l(text, answer) == theirs == pytest.approx(golden)


def test_the_best_answer_counts_and_nothing_found_is_0() -> None:
    assert scored("f1", "a gold cup", ["silver", "gold cup", "cup"]) == 1
    assert scored("exact-match", "", [""]) == 0
    assert scored(lambda text, answers: 0.25 * len(answers), "x", ["a", "b"]) == 0.5
    assert scored(lambda text, answers: text in answers, "x", ["x"]) == 1


@pytest.mark.parametrize("given_back", [1.5, -0.1, float("nan"), "1", None])
def test_a_function_of_the_users_gives_a_number_from_0_to_1(given_back: Any) -> None:
    with pytest.raises(ArgumentError, match=r"score to give a number from 0 to 1; got .* for 'x'"):
        scored(lambda text, answers: given_back, "x", ["x"])


def test_a_missing_package_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_available("rouge-l")
    monkeypatch.setattr("ivlens.scoring.text_scores.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"rouge-score, for Rouge-L; got none; pip install 'ivlens\[text\]'"):
        check_available("rouge-l")
    check_available("f1")
