"""Independent pieces of work on several workers, through joblib: its processes here, dask or ray where users have them.

The caller's ``joblib.parallel_config(backend=...)`` chooses the engine; the default is loky's processes. joblib divides
this machine's cores among loky's workers; a cluster decides how many threads its workers have.
"""

import io
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from functools import cache
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import psutil

from .checks import Count, checked
from .errors import ArgumentError, IvlensError, WorkerError, reason

P = TypeVar("P")
_one_piece = threading.Lock()  # a cluster's worker may have several threads but memory for one model only
left_behind: set[Path] = set()  # in a worker: folders to remove if its parent, which would do it, is killed


@checked
def workers(n_jobs: Count | None) -> int:
    """The number of workers: ``n_jobs``, or where it is None what ``joblib.parallel_config`` says.

    Raises:
        ArgumentError: n_jobs below 1, or an engine of threads, since all threads of a process share a model's hooks.
    """
    if n_jobs == 1:
        return 1
    from joblib import effective_n_jobs
    from joblib.parallel import get_active_backend

    count: int = effective_n_jobs(n_jobs)
    if count > 1 and getattr(get_active_backend()[0], "supports_sharedmem", False):
        raise ArgumentError("a joblib backend of processes", "one of threads", "use 'loky', 'dask' or 'ray'")
    return count


def map_pieces(
    work: Callable[..., Any],
    pieces: Sequence[P],
    n_jobs: int | None,
    names: Sequence[str],
    *shared: Any,
    finished: Callable[[P, Any], object] = lambda piece, result: None,
) -> list[Any]:
    """Results of ``work(piece, *shared)`` on several workers, in the order of the pieces.

    After a piece fails, no further one begins; an interrupt stops the workers.

    Args:
        work: what is done with each piece, in a worker.
        pieces: the pieces.
        n_jobs: number of workers; None for what ``joblib.parallel_config`` says.
        names: what an error calls each piece.
        shared: further arguments of ``work``. A NumPy array travels once: a memory-mapped one by its file's name to
            processes of this machine, scattered to dask's workers; ray's get it with each piece.
        finished: called with each piece and its result as it arrives.

    Raises:
        IvlensError: what a piece raised, with its name; other errors of a piece as they are.
        WorkerError: a worker died, or the engine failed.
    """
    from joblib import delayed

    named = enumerate(zip(names, pieces, strict=True))
    failures: list[Exception] = []
    calls = (delayed(_attempt)(at, name, work, piece, *shared) for at, (name, piece) in named if not failures)
    results: list[Any] = [None] * len(pieces)
    with closing(_outcomes(calls, n_jobs)) as outcomes:
        for at, result in outcomes:
            if isinstance(result, Exception):
                failures.append(result)
            else:
                results[at] = result
                finished(pieces[at], result)
    if failures:
        raise failures[0]
    return results


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Within this context SIGTERM ends the process like Ctrl-C, after workers and temporary files are removed.

    Only in the main thread and where no other handler is set; a second SIGTERM ends it at once.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)


def _listen_no_more() -> None:
    """In a forked worker: restore the default, so that SIGTERM ends it at once."""
    if signal.getsignal(signal.SIGTERM) is _end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_listen_no_more)


def _outcomes(calls: Iterator[Any], n_jobs: int | None) -> Generator[tuple[int, Any]]:
    """Outcomes as they arrive; on leaving early, joblib stops the workers."""
    try:
        yield from _as_they_come(calls, n_jobs)
    except Exception as error:  # a piece's own error is an outcome, so this is the engine's
        raise WorkerError(
            "every worker to finish its work",
            reason(error),
            "a worker may have been killed for its memory: try a smaller n_jobs; what was saved is found again",
        ) from error


def _as_they_come(calls: Iterator[Any], n_jobs: int | None) -> Generator[tuple[int, Any]]:
    """Outcomes one by one; an engine that returns only lists, such as ray's, gets one piece per worker at a time."""
    from joblib import Parallel, effective_n_jobs
    from joblib.parallel import get_active_backend

    if get_active_backend()[0].supports_return_generator:
        yield from Parallel(n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)(calls)
        return
    with Parallel(n_jobs, batch_size=1) as parallel:
        while some := list(islice(calls, effective_n_jobs(n_jobs))):
            yield from parallel(some)


def _attempt(index: int, name: str, work: Callable[..., Any], piece: Any, *shared: Any) -> tuple[int, Any]:
    """In the worker: the piece's index and its result, or its error, which names the piece."""
    _end_with_parent()
    try:
        with _one_piece, redirect_stderr(_NoTerminal()):
            return index, work(piece, *shared)
    except IvlensError as error:
        do = "; ".join(filter(None, [error.do, f"in {name}"]))
        return index, type(error)(error.expected, error.came, do)
    except Exception as error:
        error.add_note(f"in {name}, in a worker:\n{traceback.format_exc()}")
        return index, error


@cache
def _end_with_parent() -> None:
    """Make this loky process end within a second after its parent, which may be killed without notice."""
    from joblib.externals.loky.backend.process import LokyProcess

    parent = multiprocessing.parent_process()
    if parent is not None and isinstance(multiprocessing.current_process(), LokyProcess):
        threading.Thread(target=_watch, args=(parent.pid,), daemon=True).start()


def _watch(parent: int) -> None:
    while (now := psutil.Process().parent()) is not None and now.pid == parent:
        time.sleep(0.5)
    for folder in left_behind:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


class _NoTerminal(io.TextIOBase):
    """The worker's stderr, not seen as a terminal, so that its progress bars do not overwrite the caller's."""

    def __init__(self) -> None:
        self.stream = sys.stderr

    def write(self, text: str) -> int:
        return self.stream.write(text)
