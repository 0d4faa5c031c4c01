"""The command line: parse, call, save, print.

``verbs`` is the table of all verbs; ``options`` reads their options from the signatures of the Python functions and
configs. Each verb's work is in its own module, which is imported when the verb is called.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..errors import IvlensError
from ..text import one_line
from .names import check_names
from .parser import build_parser
from .streams import LONGEST, readable_streams, say_line, say_wait
from .wording import as_options, in_options

CLOSED_PIPE = 141  # a shell's exit status for a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None, *, begun: Callable[[], None] = lambda: None) -> int:
    """Run the command line; the exit status is 0, 1 after an error, 130 after an interrupt, 141 after a closed pipe.

    A verb may have others, which it returns.

    Args:
        arguments: the verb and its arguments; None for those of this process.
        begun: called after parsing and imports, before the verb's work.

    Raises:
        SystemExit: the arguments cannot be parsed (2), or after --help or --version (0).
    """
    options = argparse.Namespace()
    with readable_streams(lambda text: as_options(text, vars(options).get("verb"))):
        try:
            try:
                words = sys.argv[1:] if arguments is None else arguments
                build_parser(words).parse_args(words, options)
                if not options.verb.light:
                    check_names(options)
                    say_wait()
                run = options.verb.function()
                begun()
                status: int | None = run(options)
            finally:
                sys.stdout.flush()
        except IvlensError as error:
            return _ended(f"{type(error).__name__}: {in_options(error, vars(options).get('verb'))}", 1)
        except KeyboardInterrupt:
            return _ended(f"interrupted{_kept(options)}", 130)
        except OSError as error:
            return _of_the_system(error)
        except (MemoryError, UnicodeError) as error:
            return _ended(f"{type(error).__name__}: {error}", 1)
    return status or 0


def _ended(words: str, status: int) -> int:
    """Print why the command ends, if stderr is open, and return its exit status."""
    with suppress(OSError):
        say_line(f"ivlens: {one_line(words, LONGEST)}")
    return status


def _of_the_system(error: OSError) -> int:
    """The exit status after an operating system error; a closed pipe is not reported."""
    status = CLOSED_PIPE if isinstance(error, BrokenPipeError) else _ended(f"{type(error).__name__}: {error}", 1)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again at exit, and complain
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _kept(options: argparse.Namespace) -> str:
    """A note on finished work after an interrupt: some verbs keep it in the folder --out."""
    if "verb" not in options or not options.verb.keeps:
        return ""
    return "; without --out nothing is kept" if options.out is None else f"; what was finished is kept in {options.out}"
