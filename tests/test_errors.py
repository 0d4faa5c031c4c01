"""Errors say what was expected, what came, and what to do; they are one tree and survive pickling."""

import inspect
import pickle
import re
from typing import Any

import pytest

from ivlens import errors
from ivlens.errors import ArgumentError, IvlensError, at_least, one_of

KINDS = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, IvlensError)]


def test_the_message_has_what_was_expected_what_came_and_what_to_do() -> None:
    error = IvlensError("a folder", "a file", "give a folder")
    assert str(error) == "expected a folder; got a file; give a folder"
    assert (error.expected, error.came, error.do) == ("a folder", "a file", "give a folder")


def test_parts_that_say_nothing_are_left_out() -> None:
    assert str(IvlensError("a folder")) == "expected a folder"
    assert str(IvlensError("a folder", do="give one")) == "expected a folder; give one"


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_pickling(kind: type[IvlensError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a", "b", "c")))
    assert (type(error), str(error), error.do) == (kind, "expected a; got b; c", "c")


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"[|`]-- (\w+)", errors.__doc__)
    assert drawn == [kind.__name__ for kind in KINDS[1:]]
    assert all(kind.__base__ is IvlensError for kind in KINDS[1:] if kind is not ArgumentError)


def test_an_argument_error_is_a_value_error() -> None:
    assert issubclass(ArgumentError, ValueError)


def test_one_of_names_the_option_and_the_allowed_values() -> None:
    one_of("method", "exact", ("exact", "loop"))
    with pytest.raises(ArgumentError, match=r"^expected method to be one of 'exact', 'loop'; got 'fast'$"):
        one_of("method", "fast", ("exact", "loop"))


@pytest.mark.parametrize("value", [0, 0.5, -3, float("nan")])
def test_at_least_names_the_option_and_the_bound(value: float) -> None:
    with pytest.raises(ArgumentError, match=f"^expected k to be a number of 1 or more; got {value}$"):
        at_least("k", value, 1)


@pytest.mark.parametrize("value", [True, "3", None])
def test_at_least_wants_a_number(value: Any) -> None:
    with pytest.raises(ArgumentError, match="to be a number"):
        inspect.unwrap(at_least)("k", value, 0)


def test_at_least_takes_the_bound_itself() -> None:
    refused = []
    for value in (0.999, 1, 1.5):
        try:
            at_least("k", value, 1)
        except ArgumentError:
            refused.append(value)
    assert refused == [0.999]
