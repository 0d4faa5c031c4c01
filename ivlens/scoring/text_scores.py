"""Scores of a text against accepted answers, from 0 to 1: exact match, F1 of words, Rouge-L, or a user's function."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from numbers import Real
from typing import Any

from ..errors import ArgumentError, UnsupportedError, brief
from ..tasks.judging import ScoreName
from .parsing import canonical_number

TextScore = Callable[[str, Sequence[str]], float]
ARTICLES = re.compile(r"\b(a|an|the)\b")
# that of Chinese and Japanese, and curved quotation marks, too
WIDE = (*range(0x2018, 0x2020), *range(0x3001, 0x3004), *range(0x3008, 0x3012), 0xFF01, 0xFF08, 0xFF09, 0xFF0C, 0xFF1A,
        0xFF1B, 0xFF1F)  # fmt: skip
PUNCTUATION = str.maketrans("", "", string.punctuation + "".join(map(chr, WIDE)))


def normalised(text: str) -> str:
    """A text without case, punctuation, articles and repeated blanks, as SQuAD compares it (1606.05250, section 6.1).

    Two kinds of text would vanish or change their meaning that way: a number keeps its sign and decimal point, and a
    text of nothing but articles and punctuation, as the option "A", keeps them.
    """
    number = canonical_number(text)
    if number is not None:
        return number
    lowered = text.lower()
    words = ARTICLES.sub(" ", lowered.translate(PUNCTUATION)).split()
    return " ".join(words or lowered.split())


def exact_match(text: str, answer: str) -> float:
    """1 where the two are equal but for case, punctuation, articles and blanks, else 0."""
    return float(normalised(text) == normalised(answer))


def f1_of_words(text: str, answer: str) -> float:
    """Harmonic mean of the shares of the text's words that are the answer's and the other way around (1606.05250)."""
    ours, theirs = Counter(normalised(text).split()), Counter(normalised(answer).split())
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def rouge_l(text: str, answer: str) -> float:
    """F-measure of the longest common subsequence of words, stemmed, as ``rouge-score`` computes it (W04-1013)."""
    return float(_rouge().score(answer, text)["rougeL"].fmeasure)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


SCORES: dict[ScoreName, Callable[[str, str], float]] = {
    "exact-match": exact_match, "f1": f1_of_words, "rouge-l": rouge_l,
}  # fmt: skip


def check_available(score: ScoreName | TextScore) -> None:
    """Raise UnsupportedError where a score's package is not installed."""
    if score == "rouge-l" and find_spec("rouge_score") is None:
        raise UnsupportedError("the package rouge-score, for Rouge-L", "none", "pip install 'ivlens[text]'")


def scored(score: ScoreName | TextScore, text: str, answers: Sequence[str]) -> float:
    """The score of a parsed text, the best over the answers; 0 for "", in which nothing was found.

    Raises:
        ArgumentError: a function of the user's that does not give a number from 0 to 1.
    """
    if not text:
        return 0.0
    if isinstance(score, str):
        return max(SCORES[score](text, answer) for answer in answers)
    found = score(text, answers)
    number = float(found) if isinstance(found, Real) else math.nan
    if not 0 <= number <= 1:
        raise ArgumentError("score to give a number from 0 to 1", f"{brief(found)} for {brief(text)}")
    return number
