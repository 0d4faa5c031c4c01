"""The rows of the built-in tasks of a word or two: enough for a verdict, and right where a rule can tell."""

import re
from collections import Counter
from collections.abc import Callable

import pytest

from ivlens.tasks import list_tasks, load_task, word_tasks

OPEN = (
    "adjective-comparative", "antonym", "capitalize", "choose-animal", "choose-first-of-3", "choose-last-of-3",
    "english-french", "english-german", "english-spanish", "hypernym", "lowercase-first-letter", "present-past",
    "sentiment", "singular-plural", "synonym", "verb-gerund", "word-topic",
)  # fmt: skip
IRREGULAR_PASTS = """
    become begin bend bite bleed blow break bring build buy catch choose come dig do draw drink drive eat fall feed
    feel fight find fly forget forgive freeze get give go grow hang have hear hide hold keep know lead leave lend lose
    make mean meet pay ride ring rise run say see seek sell send shake shoot sing sit sleep slide speak spend stand
    steal stick sweep swim take teach tear tell think throw understand wake wear win write
"""
IRREGULAR_PLURALS = """
    analysis axis bacterium cactus calf child crisis criterion die fireman foot gentleman goose grandchild half hoof
    hypothesis knife leaf life loaf louse man mouse ox person phenomenon policeman scarf self shelf snowman thesis
    thief tooth wife wolf woman
"""
IRREGULAR_COMPARATIVES = "bad far good shy sly"
STRESSED_AT_THE_END = {"admit", "begin", "forget", "occur", "permit", "prefer", "regret"}  # the last letter is doubled
LETTERS = {
    "english-french": "a-zàâçèéêëîïôöùûüœ' -",
    "english-german": "A-ZÄÖÜa-zäöüß",
    "english-spanish": "a-záéíñóúü ",
}


def rows(name: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(example.input, example.answers) for example in load_task(name).examples]


def doubled(word: str) -> str:
    """The word, its last letter doubled where English doubles it before -ed, -er and -ing."""
    short = re.fullmatch(r"([^aeiou]|qu)*[aeiou][bdgklmnprt]", word)
    return word + word[-1] if short or word in STRESSED_AT_THE_END else word


def with_vowel_ending(word: str, ending: str) -> str:
    """The word with -ed or -er."""
    if word.endswith("e"):
        return word + ending[1:]
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "i" + ending
    return doubled(word) + ending


def gerund(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    return (verb[:-1] if re.search("[^eoy]e$", verb) else doubled(verb)) + "ing"


def plural(noun: str) -> str:
    if noun in {"hero", "potato", "tomato"} or re.search("(s|x|z|sh|ch)$", noun):
        return noun + "es"
    return noun[:-1] + "ies" if re.search("[^aeiou]y$", noun) else noun + "s"


@pytest.mark.parametrize("name", list_tasks())
def test_a_test_split_can_decide_a_verdict(name):
    task = load_task(name)
    assert len(task.examples) >= (220 if name in OPEN else 150)
    assert len(task.split("test")) >= 45


@pytest.mark.parametrize("name", word_tasks())
def test_every_input_once_and_no_answer_twice(name):
    inputs, answers = zip(*rows(name), strict=True)
    assert max(Counter(each.casefold() for each in inputs).values()) == 1
    assert all(len(set(each)) == len(each) for each in answers)
    assert not [one for one, each in zip(inputs, answers, strict=True) if one in each]


@pytest.mark.parametrize(
    ("name", "rule", "irregular"),
    [
        ("present-past", lambda word: with_vowel_ending(word, "ed"), IRREGULAR_PASTS),
        ("verb-gerund", gerund, ""),
        ("singular-plural", plural, IRREGULAR_PLURALS),
        ("adjective-comparative", lambda word: with_vowel_ending(word, "er"), IRREGULAR_COMPARATIVES),
        ("capitalize", str.capitalize, ""),
        ("lowercase-first-letter", lambda word: word[0].lower(), ""),
        ("choose-first-of-3", lambda text: text.split(", ")[0], ""),
        ("choose-last-of-3", lambda text: text.split(", ")[2], ""),
    ],
)
def test_forms_follow_their_rule(name: str, rule: Callable[[str], str], irregular: str):
    found = {word for word, answers in rows(name) if answers[0] != rule(word)}
    assert found == {*irregular.split()}


@pytest.mark.parametrize("name", ["choose-animal", "choose-first-of-3", "choose-last-of-3"])
def test_lists_hold_three_words(name):
    for text, _ in rows(name):
        assert len({*text.split(", ")}) == 3, text


def test_one_word_of_a_list_is_an_animal_at_each_position_equally_often():
    lists = [(text.split(", "), answer) for text, (answer,) in rows("choose-animal")]
    animals = {answer for _, answer in lists}
    assert not [words for words, answer in lists if animals & {*words} != {answer}]
    counts = Counter(words.index(answer) for words, answer in lists)
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize(
    ("name", "classes"),
    [("sentiment", {"positive", "negative"}), ("word-topic", {"sport", "music", "food", "science"})],
)
def test_classes_are_about_equally_frequent(name: str, classes: set[str]):
    counts = Counter(answer for _, (answer,) in rows(name))
    assert {*counts} == classes
    assert min(counts.values()) > 0.85 * max(counts.values())


@pytest.mark.parametrize("name", ["antonym", "synonym"])
def test_relations_hold_in_both_directions(name):
    answers = dict(rows(name))
    one_sided = {word for word, each in answers.items() if word not in answers.get(each[0], (word,))}
    assert one_sided <= {"wise"}  # the wise are smart, the smart need not be wise


@pytest.mark.parametrize("name", LETTERS)
def test_translations_are_spelled_in_their_language(name):
    words = [answer for _, answers in rows(name) for answer in answers]
    assert not [word for word in words if not re.fullmatch(f"[{LETTERS[name]}]+", word)]


def test_no_two_countries_have_one_capital():
    capitals = [answers[0] for _, answers in rows("country-capital")]
    assert len(set(capitals)) == len(capitals)
