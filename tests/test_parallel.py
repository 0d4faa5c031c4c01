"""Pieces of work on several workers: order, names, errors (a killed worker: ``checkpoints/test_workers.py``)."""

import os
import time
from typing import Any

import joblib
import pytest
from joblib._parallel_backends import MultiprocessingBackend

from ivlens import ArgumentError, PromptError
from ivlens.parallel import map_pieces, workers

NAMES = [f"piece {at}" for at in range(6)]


def square(piece: int, plus: int) -> tuple[int, int]:
    time.sleep(0.2)  # one worker does not finish before the other begins
    return piece**2 + plus, os.getpid()


def picky(piece: int) -> int:
    if piece == 3:
        raise PromptError("a piece that is not 3", "3", "take another")
    return piece


def buggy(piece: int) -> float:
    return 1 / (piece - 3)


@pytest.mark.usefixtures("two_workers")
def test_results_are_in_order_and_each_is_told_of_once() -> None:
    told: list[Any] = []
    results = map_pieces(square, range(6), 2, NAMES, 10, finished=lambda piece, result: told.append((piece, result)))
    assert [value for value, _ in results] == [10, 11, 14, 19, 26, 35]
    assert sorted(told) == list(enumerate(results))
    assert os.getpid() not in {process for _, process in results}


@pytest.mark.usefixtures("two_workers")
def test_a_piece_that_fails_raises_its_own_error_with_its_name_and_the_workers_live_on() -> None:
    before = {process for _, process in map_pieces(square, range(6), 2, NAMES, 0)}
    with pytest.raises(PromptError, match=r"^expected a piece that is not 3; got 3; take another; in piece 3$"):
        map_pieces(picky, range(6), 2, NAMES)
    with pytest.raises(ZeroDivisionError) as caught:
        map_pieces(buggy, range(6), 2, NAMES)
    assert "in piece 3, in a worker" in caught.value.__notes__[0]
    assert "1 / (piece - 3)" in caught.value.__notes__[0]
    assert {process for _, process in map_pieces(square, range(6), 2, NAMES, 0)} <= before


@pytest.mark.usefixtures("two_workers")
def test_after_a_failure_no_other_piece_begins() -> None:
    told: list[int] = []
    with pytest.raises(PromptError):
        map_pieces(picky, [3] * 40, 2, NAMES[:1] * 40, finished=lambda piece, _: told.append(piece))
    assert told == []


def test_an_engine_that_returns_lists_only_is_given_a_piece_for_each_worker_at_a_time() -> None:
    """As ray's is; multiprocessing's pool is such a one where it is not asked for a generator."""

    class Lists(MultiprocessingBackend):
        supports_return_generator = False

    joblib.register_parallel_backend("lists", Lists)
    told: list[int] = []
    with joblib.parallel_config("lists", n_jobs=2):
        results = map_pieces(square, range(6), None, NAMES, 10, finished=lambda piece, _: told.append(piece))
        assert told == [*range(6)]
        with pytest.raises(PromptError, match="in piece 3"):
            map_pieces(
                picky, [0, 3, *range(4, 40)], None, NAMES[:1] + NAMES[3:4] * 37, finished=lambda *_: told.append(99)
            )
    assert told == [*range(6), 99]
    assert [value for value, _ in results] == [10, 11, 14, 19, 26, 35]
    assert os.getpid() not in {process for _, process in results}


def test_jobs_are_one_or_more_or_what_joblib_says() -> None:
    assert workers(1) == workers(None) == 1
    assert workers(3) == 3
    with joblib.parallel_config("loky", n_jobs=2):
        assert workers(None) == 2
        assert workers(1) == 1
    for wrong in (0, -1, True):
        with pytest.raises(ArgumentError, match="n_jobs to be a whole number of 1 or more"):
            workers(wrong)
    with joblib.parallel_config("threading", n_jobs=2), pytest.raises(ArgumentError, match="backend of processes"):
        workers(None)
