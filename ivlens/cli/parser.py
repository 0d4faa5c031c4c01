"""The parser of all verbs, from their tables of options; a verb's options are added only when it is called."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..text import one_line
from .streams import LONGEST
from .verbs import VERBS, Verb


class Parser(argparse.ArgumentParser):
    """A parser, also for the verbs, whose errors are one line of readable length."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse ``--`` as an option's value, which argparse would treat as no value."""
        args = sys.argv[1:] if args is None else list(args)
        if empty := next((word for word in args if re.fullmatch("--[a-z-]+=--", word)), None):
            self.error(f"argument {empty.removesuffix('=--')}: '--' is no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with 2."""
        super().error(one_line(message, LONGEST))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and errors, and fail where a pipe is closed or a disk is full, which argparse ignores."""
        print(message, end="", file=file or sys.stderr)


class _Version(argparse.Action):
    """Print the version, looked up only when needed."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"ivlens {version('ivlens')}")
        parser.exit()


def build_parser(arguments: Sequence[str]) -> Parser:
    """The parser of all verbs, with the options of those that ``arguments`` name."""
    parser = Parser(
        prog="ivlens",
        description="Find the attention heads that carry an instruction, and the vector that they sum to.",
        epilog="'ivlens VERB --help' explains a verb. Start with 'ivlens demo'.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        own = verbs.add_parser(name, help=verb.help, description=verb.description)
        own.set_defaults(verb=verb)
        if name in arguments:
            _add_options(own, verb)
    return parser


def _add_options(parser: argparse.ArgumentParser, verb: Verb) -> None:
    """Add a verb's own arguments, then one group of options per function or config."""
    for argument in verb.arguments:
        parser.add_argument(*argument.names, **argument.settings)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    for source, generated in verb.generated().items():
        group = parser.add_argument_group(f"options of {source} in Python")
        for parameter in generated.values():
            parameter.add_to(group)
