"""SIGINT and SIGTERM as a wish: the loop finishes its step, saves, and ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts() -> Iterator[Callable[[], int]]:
    """Within this context, a call tells which signal asked to end (0: none); a second signal acts at once.

    Only the main thread can listen; elsewhere nothing is changed.
    """
    asked = 0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return

    def listen(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, listen)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
