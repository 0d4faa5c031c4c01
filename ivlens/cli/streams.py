"""The command line's output on stderr: progress, warnings and errors, each on one line in printable characters."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from ..text import one_line

LONGEST = 1000  # letters of an error or a warning


def say_line(words: str) -> None:
    """Print one line to stderr, with unprintable characters escaped."""
    print(one_line(words), file=sys.stderr, flush=True)


def say_wait() -> None:
    """Say at a terminal that libraries are imported, which takes seconds, unless they are already."""
    if "torch" not in sys.modules and sys.stderr.isatty():
        say_line("importing torch and transformers")


@contextmanager
def readable_streams(worded: Callable[[str], str]) -> Iterator[None]:
    """Within this context stderr shows progress and short warnings, and characters without an encoding are escaped.

    ``worded`` puts warnings into the words of the command line.
    """
    with ExitStack() as stack:
        stack.enter_context(escaped_streams())
        stack.enter_context(progress_lines(worded))
        stack.enter_context(short_warnings(worded))
        yield


@contextmanager
def escaped_streams() -> Iterator[None]:
    """Within this context, characters that stdout and stderr cannot encode are printed as escapes."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


class _Lines(logging.Handler):
    """Each message on one line of stderr, so that stdout can be piped."""

    def __init__(self, worded: Callable[[str], str]) -> None:
        super().__init__()
        self.worded = worded

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        with _bars_cleared():
            say_line(self.worded(text) if record.levelno >= logging.WARNING else text)


def _bars_cleared() -> AbstractContextManager[None]:
    """Within this context the terminal shows no progress bar, so that a line stands above it."""
    tqdm = sys.modules.get("tqdm")
    return nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(file=sys.stderr)


@contextmanager
def progress_lines(worded: Callable[[str], str]) -> Iterator[None]:
    """Within this context the progress that ivlens logs is shown."""
    log, handler = logging.getLogger("ivlens"), _Lines(worded)
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])  # not by assignment: loggers remember whether they are enabled
        log.propagate = before[1]


@contextmanager
def short_warnings(worded: Callable[[str], str]) -> Iterator[None]:
    """Within this context each warning is shown once as one line, without its file and line of code."""
    seen: set[str] = set()

    def shown(message: Warning | str, *_: Any, **__: Any) -> str:
        text = f"ivlens: warning: {one_line(worded(str(message).removeprefix('ivlens: ')), LONGEST)}\n"
        once = "" if text in seen else text
        seen.add(text)
        return once

    before, warnings.formatwarning = warnings.formatwarning, shown
    try:
        yield
    finally:
        warnings.formatwarning = before
