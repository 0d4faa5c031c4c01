"""New tasks that take more than another format: rules on letters and lists, over the words of a built-in task."""

import random
from collections.abc import Callable

from ivlens import Example, Task, load_task

SIZE = 240  # examples of a task on lists
DRAWS = 1500  # of lists, more than are needed


def words() -> list[str]:
    """Lower-case words of four letters or more."""
    inputs = (example.input for example in load_task("capitalize").examples)
    return [word for word in inputs if word.isalpha() and word.islower() and len(word) > 3]


def lists(name: str) -> list[tuple[str, ...]]:
    """Lists of three words, others for each name."""
    chance, drawn_from = random.Random(name), words()
    return list(dict.fromkeys(tuple(chance.sample(drawn_from, 3)) for _ in range(DRAWS)))


def shifted(name: str, instruction: str, by: int) -> Task:
    """The letter so many places after a word's first letter in the alphabet."""
    found = [Example(word, (chr(ord(word[0]) + by),)) for word in words() if ord(word[0]) + by <= ord("z")]
    return Task(name, tuple(found), (instruction,), ("Word", "Letter"))


def first_by(name: str, instruction: str, key: Callable[[str], int]) -> Task:
    """Of three words, the first one by a key that tells it from the others."""
    found = []
    for each in lists(name):
        first, second, _ = sorted(each, key=key)
        if key(first) < key(second):
            found.append(Example(", ".join(each), (first,)))
    return Task(name, tuple(found[:SIZE]), (instruction,), ("List", "Word"))


def initials(name: str, instruction: str) -> Task:
    """The first letters of three words, in upper case."""
    found = [Example(", ".join(each), ("".join(word[0] for word in each).upper(),)) for each in lists(name)]
    return Task(name, tuple(found[:SIZE]), (instruction,), ("List", "Initials"))


RULES: dict[str, Callable[[], Task]] = {
    "next-letter": lambda: shifted(
        "next-letter", "Write the letter of the alphabet that follows the first letter of the word.", 1
    ),
    "letter-after-next": lambda: shifted(
        "letter-after-next", "Write the letter two places after the first letter of the word in the alphabet.", 2
    ),
    "initials": lambda: initials("initials", "Write the initials of the words."),
    "first-in-alphabet": lambda: first_by(
        "first-in-alphabet", "Write the word that comes first in the alphabet.", lambda word: ord(word[0])
    ),
    "last-in-alphabet": lambda: first_by(
        "last-in-alphabet", "Write the word that comes last in the alphabet.", lambda word: -ord(word[0])
    ),
    "longest": lambda: first_by("longest", "Write the longest of the words.", lambda word: -len(word)),
    "shortest": lambda: first_by("shortest", "Write the shortest of the words.", len),
}
