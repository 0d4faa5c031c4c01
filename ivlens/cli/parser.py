"""The parser of all verbs, from their tables of options; a verb's options are added only when it is called."""

import argparse
import sys
from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from ..text import did_you_mean, one_line
from .streams import LONGEST
from .verbs import VERBS, Verb

# What other tools, or older notes, call a verb or an option, and its name here.
OTHER_NAMES = {
    "--top": "--k", "--heads": "--k", "--jobs": "--n-jobs", "--layer": "--vector-layer", "--scale": "--vector-scale",
    "steer": "sweep", "figures": "python -m figures", "experiment": "python -m figures",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a line of readable length."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with 2."""
        super().error(one_line(message, LONGEST))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and errors, and fail where a pipe is closed or a disk is full, which argparse ignores."""
        print(message, end="", file=file or sys.stderr)


class AllVerbs(Parser):
    """The parser of the command line, which knows all verbs."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an unknown verb, and say which may be meant."""
        verb = next((word for word in args if not word.startswith("-")), None)
        if verb is not None and verb not in VERBS:
            self.error(f"there is no verb {verb!r}; {_meant(verb, VERBS)}the verbs are {', '.join(VERBS)}")
        return super().parse_known_args(args, namespace)


class OneVerb(Parser):
    """The parser of one verb's arguments."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an unknown option, and say which may be meant; and what argparse would take for no value: ``--``."""
        known = self._option_string_actions
        for word in takewhile(lambda word: word != "--", args):
            option, _, value = word.partition("=")
            if option.startswith("--") and " " not in option and option not in known:
                self.error(f"there is no option {option}; {_meant(option, known)}see {self.prog} --help")
            if option in known and value == "--":
                self.error(f"argument {option}: '--' is no value")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value outside a closed set, and say which may be meant."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if question := did_you_mean(str(value), map(str, action.choices or ())):
                error.message = f"{error.message}; {question}"
            raise


def _meant(word: str, known: Collection[str]) -> str:
    """A question after what may be meant by a word that is not known."""
    other = OTHER_NAMES.get(word, "")
    names_here = other in known or (other and not other.startswith("--"))
    question = f"did you mean {other!r}?" if names_here else did_you_mean(word, known)
    return f"{question} If not, " if question else ""


class _Version(argparse.Action):
    """Print the version, looked up only when needed."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"ivlens {version('ivlens')}")
        parser.exit()


def build_parser(arguments: Sequence[str]) -> AllVerbs:
    """The parser of all verbs, with the options of those that ``arguments`` name."""
    parser = AllVerbs(
        prog="ivlens",
        description="Find the attention heads that carry an instruction, and the vector that they sum to.",
        epilog="'ivlens VERB --help' explains a verb. Start with 'ivlens demo'.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=OneVerb)
    for name, verb in VERBS.items():
        own = verbs.add_parser(name, help=verb.help, description=verb.description, allow_abbrev=False)
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
        group = parser.add_argument_group(f"{verb.options_of(source).title} ({source} in Python)")
        for parameter in generated.values():
            parameter.add_to(group)
