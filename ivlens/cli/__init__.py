"""The command line: parse, call, save, print."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from ..errors import IvlensError
from ..records.text import one_line
from .checkpoints import add_compare
from .common import LONGEST, Parser, say_line, short_warnings, shown_streams
from .laboratory import add_sweep, add_vector, add_vectors
from .method import add_demo, add_heads, add_tasks
from .report import add_report
from .training import add_train

CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 after an error, 130 after an interrupt, 141 after a closed pipe.

    Raises: SystemExit where the arguments cannot be parsed (2), or after --help (0).
    """
    options = argparse.Namespace()
    with shown_streams(), short_warnings():
        try:
            try:
                build_parser().parse_args(arguments, options)
                options.run(options)
            finally:
                sys.stdout.flush()
        except IvlensError as error:
            return _ended(f"{type(error).__name__}: {error}", 1)
        except KeyboardInterrupt:
            return _ended(f"interrupted{_kept(options)}", 130)
        except OSError as error:
            return _of_the_system(error)
        except (MemoryError, UnicodeError) as error:
            return _ended(f"{type(error).__name__}: {error}", 1)
    return 0


def _ended(words: str, status: int) -> int:
    """Say why the command ends, if anybody listens, and give its exit status."""
    with suppress(OSError):
        say_line(f"ivlens: {one_line(words, LONGEST)}")
    return status


def _of_the_system(error: OSError) -> int:
    """The exit status after an error of the system: a closed pipe is nothing to speak of."""
    status = CLOSED_PIPE if isinstance(error, BrokenPipeError) else _ended(f"{type(error).__name__}: {error}", 1)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again, and complain, when it ends
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _kept(options: argparse.Namespace) -> str:
    """What an interrupted verb leaves behind: those that keep finished work keep it in the folder --out."""
    if not getattr(options, "keeps", False):
        return ""
    return "; without --out nothing is kept" if options.out is None else f"; what was finished is kept in {options.out}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = Parser(
        prog="ivlens",
        description="Find the attention heads that carry an instruction, and the vector that they sum to.",
        epilog="'ivlens VERB --help' explains a verb. Start with 'ivlens demo'.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (
        add_demo,
        add_heads,
        add_vector,
        add_sweep,
        add_vectors,
        add_tasks,
        add_train,
        add_compare,
        add_report,
    ):
        add(verbs)
    return parser
