"""The command line: parse, call, save, print."""

import argparse
import sys
from collections.abc import Sequence

from ..errors import IvlensError
from .checkpoints import add_compare
from .laboratory import add_figures, add_steer, add_vector, add_vectors
from .method import add_demo, add_heads, add_tasks
from .report import add_report
from .training import add_experiment, add_train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 after an error of ivlens, or 130 after an interrupt."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except IvlensError as error:
        print(f"ivlens: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ivlens: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="ivlens",
        description="Find the attention heads that carry an instruction, and the vector that they sum to.",
        epilog="'ivlens VERB --help' explains a verb. Start with 'ivlens demo'.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (
        add_demo,
        add_heads,
        add_vector,
        add_steer,
        add_vectors,
        add_tasks,
        add_figures,
        add_train,
        add_experiment,
        add_compare,
        add_report,
    ):
        add(verbs)
    return parser
