"""The ``ivlens`` command as a program: signal handlers are set before anything large is imported."""

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# a signal that the caller has switched off (nohup, a background job) stays off
HEARD = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def command() -> int:
    """Run the command line of this process; the exit status is that of ``cli.main``, or 128 plus a signal's number."""
    _answer(_leave)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: the next file that is opened would get its descriptor
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    from .cli import main

    sys.unraisablehook = _raise_again
    try:
        return main(begun=lambda: _answer(_raise))
    except KeyboardInterrupt:  # before ``main`` handles it, or while it prints
        return 128 + signal.SIGINT
    finally:
        _answer(_leave)


def _answer(handler: Any) -> None:
    for number in HEARD:
        signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Exit at once: before and after the verb's work there is nothing to lose."""
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    """Raise in the main thread, so that open files are closed and temporary ones removed."""
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _raise_again(unraisable: Any) -> None:
    """Raise an interrupt again that arrived where Python cannot raise it, as in a destructor."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.exit(command())
