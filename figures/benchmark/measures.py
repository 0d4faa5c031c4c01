"""Seconds of runs that take turns, and what is told of them: medians of the ratios within a round.

A machine's speed drifts, so runs that are compared follow one another in each round.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

Times = Mapping[str, list[float]]


def seconds(run: Callable[[], Any]) -> float:
    """Seconds until ``run``, and what it left to do on a GPU, is finished."""
    _finish()
    started = time.perf_counter()
    run()
    _finish()
    return time.perf_counter() - started


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def cpu_seconds(run: Callable[[], object], rounds: int, *, warm: bool = True) -> float:
    """Median CPU time of a run, where ``warm`` after one that is not timed; other programs change it little."""
    if warm:
        run()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return statistics.median(times)


def interleaved(runs: Mapping[str, Callable[[], Any]], rounds: int, repeats: int = 1) -> dict[str, list[float]]:
    """Each run's seconds in each round: the median of ``repeats`` in a row."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(statistics.median(seconds(run) for _ in range(repeats)))
    return times


def warm(runs: Mapping[str, Callable[[], Any]]) -> None:
    """Run each once, so that what happens only the first time is not measured."""
    interleaved(runs, 1)


def ratio(times: Times, above: str, below: str, scale: float = 1.0) -> float:
    """Median over rounds of ``scale`` times one run's seconds to another's."""
    return shown(scale * statistics.median(a / b for a, b in zip(times[above], times[below], strict=True)))


def shown(value: float) -> float:
    """Three significant digits, which is more than these measurements have."""
    return float(f"{value:.3g}")


def say(line: str) -> None:
    """Tell how far the benchmark is, beside what it prints."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
