"""The ``ivlens`` command as a program: signals have their answers before anything large is imported."""

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# a signal that whoever started the command has switched off (nohup, a job in the background) stays off
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
    except KeyboardInterrupt:  # before ``main`` listens, or while it says something
        return 128 + signal.SIGINT
    finally:
        _answer(_leave)


def _answer(handler: Any) -> None:
    for number in HEARD:
        signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Before the verb works and after it, nothing is lost by leaving at once."""
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    """While the verb works, an exception closes what is open and removes what is temporary."""
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _raise_again(unraisable: Any) -> None:
    """An interrupt that arrived where Python cannot raise it, as in a destructor, is raised at the next step."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.exit(command())
