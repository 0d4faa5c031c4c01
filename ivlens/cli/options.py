"""Options of the command line, read from the signatures of the functions and configs that it calls.

Names, types, bounds, closed sets of values, defaults and help are those of the Python API, so the two cannot differ.
Signatures are read from the source, as documentation tools do: importing the modules would import torch, which takes
seconds, and neither help nor a misspelt option should wait for that.
"""

import argparse
import ast
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..errors import ArgumentError

PACKAGE = Path(__file__).parents[1]
DTYPES = {"dtype": ("float32", "float64", "bfloat16", "float16"), "stream_dtype": ("float32", "float64")}
MOST = 1000  # numbers in a list
SEVERAL = {"tuple", "list", "Sequence", "Iterable", "Collection"}


@dataclass(frozen=True)
class Value:
    """An option's value: ``read`` parses it from text; ``choices`` lists the allowed values of a closed set."""

    read: Callable[..., Any]
    metavar: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function, or a field of a config, that the command line can set."""

    name: str
    value: Value
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """``n_clean`` is ``--n-clean``."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def help_text(self) -> str:
        """What the docstring says of it, with its choices and its default."""
        return in_words(self.help, self.value.choices, self.default)

    def add_to(self, group: Any) -> None:
        """Add the option to a parser's group."""
        help = self.help_text.replace("%", "%%")
        if self.value.read is bool:
            group.add_argument(self.flag, action=argparse.BooleanOptionalAction, default=self.default, help=help)
        else:
            group.add_argument(
                self.flag,
                type=self.value.read,
                metavar=self.value.metavar,
                choices=self.value.choices or None,
                default=self.default,
                help=help,
            )


def in_words(help: str, choices: tuple[str, ...], default: Any) -> str:
    """What a docstring says of an argument, as an option's help: all its choices, and what None stands for."""
    help, _, unset = help.replace('"', "").partition(" (None: ")
    if not all(choice in help for choice in choices):
        help = f"{help}: {', '.join(choices)}"
    if default in ("", ()):
        return help
    if default is None:
        return f"{help} (default: {unset}" if unset else help
    return f"{help} (default: {_shown(default)})"


@cache
def parameters(name: str) -> dict[str, Parameter]:
    """The parameters of an ivlens function or config that have a default and can be parsed from text."""
    node = definition(name)
    helps = argument_helps(ast.get_docstring(node) or "") if isinstance(node, ast.FunctionDef | ast.ClassDef) else {}
    found = {}
    for parameter, annotation, default in _fields(node) if isinstance(node, ast.ClassDef) else _arguments(node):
        value = _value(annotation)
        if value is not None and value.metavar == "DTYPE":
            value = replace(value, choices=DTYPES[parameter])
        if value is None or default is None:
            continue
        try:
            found[parameter] = Parameter(parameter, value, _default(default), helps.get(parameter, ""))
        except ValueError:  # computed by a call, which text cannot express
            continue
    return found


def argument_helps(docstring: str) -> dict[str, str]:
    """The first sentence about each argument in a docstring's ``Args:``."""
    _, _, section = docstring.partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
    entries = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", section, re.MULTILINE)
    return {name: _sentence(" ".join(text.split())) for names, text in entries for name in names.split(", ")}


def _sentence(text: str) -> str:
    return re.split(r"\.(?:\s|$)", text.replace("``", ""), maxsplit=1)[0]


@cache
def _sources() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def definition(name: str) -> ast.stmt:
    """The top-level statement in the package that defines ``name``, which may be ``Class.method``.

    Raises: LookupError where there is none.
    """
    outer, _, inner = name.partition(".")
    start = re.compile(rf"^(?:(?:def|class) {outer}\b|{outer}(?:: .*)? = )", re.MULTILINE)
    for source in _sources().values():
        if start.search(source):
            node = next(each for each in reversed(ast.parse(source).body) if outer in _names(each))  # after overloads
            if inner and isinstance(node, ast.ClassDef):
                return next(each for each in node.body if inner in _names(each))
            return node
    raise LookupError(f"ivlens defines no {name}")


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {each.id for each in targets if isinstance(each, ast.Name)}


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """A dataclass's fields: name, annotation, default."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id, each.annotation, each.value


def _arguments(node: ast.stmt) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """A function's arguments: name, annotation, default."""
    assert isinstance(node, ast.FunctionDef)
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(positional) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    for argument, default in zip([*positional, *given.kwonlyargs], defaults, strict=True):
        if argument.annotation is not None:
            yield argument.arg, argument.annotation, default


def _value(annotation: ast.expr) -> Value | None:
    """The value that text can give for an annotation; None where it cannot."""
    match annotation:
        case ast.Constant(value=str(text)):
            return _value(ast.parse(text, mode="eval").body)
        case ast.Name(id="str" | "Any"):
            return Value(str, "TEXT")
        case ast.Name(id="Path"):
            return Value(a_path, "PATH")
        case ast.Name(id="bool"):
            return Value(bool, "")
        case ast.Name(id="int"):
            return Value(whole_number, "N")
        case ast.Name(id="float"):
            return Value(finite_number, "X")
        case ast.Name(id=name):
            return _named(name)
        case ast.Attribute(attr="dtype"):
            return Value(str, "DTYPE")
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _value(left) or _value(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            return Value(str, "NAME", tuple(str(_default(each)) for each in _items(inside)))
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[of, *conditions])):
            return _bounded(_value(of), conditions)
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in SEVERAL:
            return _several(_value(_items(inside)[0]))
    return None


def _items(inside: ast.expr) -> list[ast.expr]:
    return inside.elts if isinstance(inside, ast.Tuple) else [inside]


def _named(name: str) -> Value | None:
    """The value of an annotation that ivlens defines by name, such as ``Count``."""
    try:
        node = definition(name)
    except LookupError:
        return None
    return _value(node.value) if isinstance(node, ast.Assign | ast.AnnAssign) and node.value else None


def _bounded(value: Value | None, conditions: list[ast.expr]) -> Value | None:
    """A number within ``Between(least, most)``."""
    for each in conditions:
        if value is not None and isinstance(each, ast.Call) and getattr(each.func, "id", "") == "Between":
            least = _default(each.args[0])
            most = _default(each.args[1]) if len(each.args) > 1 else math.inf
            return replace(value, read=partial(value.read, least=least, most=most))
    return value


def _several(value: Value | None) -> Value | None:
    """Values separated by commas; pairs among them as FIRST:LAST."""
    if value is None or value.choices or value.read is bool:
        return None
    if getattr(value.read, "func", None) is read_list:
        value = Value(partial(read_pair, value.read.args[0]), value.metavar.replace(",", ":"))  # type: ignore[attr-defined]
    return Value(partial(read_list, value.read), f"{value.metavar},{value.metavar}")


def _default(node: ast.expr) -> Any:
    """The value of a default; for ``torch.float32``, its name as the option takes it.

    Raises: ValueError where it is not a plain value.
    """
    match node:
        case ast.Attribute(value=ast.Name(id="torch"), attr=name):
            return name
        case ast.Name(id=name):
            assigned = definition(name)
            if isinstance(assigned, ast.Assign | ast.AnnAssign) and assigned.value:
                return _default(assigned.value)
        case ast.BinOp(left=ast.BinOp(op=ast.Pow(), left=base, right=power), op=ast.Sub(), right=less):  # 2**63 - 1
            return _default(base) ** _default(power) - _default(less)
    return ast.literal_eval(node)


def _shown(default: Any, *, nested: bool = False) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        pair = ":" if default and not isinstance(default[0], tuple) and nested else ","
        return pair.join(_shown(each, nested=True) for each in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def whole_number(text: str, least: float = -math.inf, most: float = math.inf) -> int:
    """A whole number within bounds."""
    try:
        number = int(text)
    except ValueError:
        raise _refused("a whole number", text) from None
    if not least <= number <= most:
        raise _refused(f"a whole number {_range(least, most)}", text)
    return number


def finite_number(text: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number within bounds."""
    try:
        number = float(text)
    except ValueError:
        raise _refused("a number", text) from None
    if not (math.isfinite(number) and least <= number <= most):
        raise _refused(f"a finite number{f' {_range(least, most)}' if least > -math.inf else ''}", text)
    return number


def _range(least: float, most: float) -> str:
    return f"of {least:g} or more" if most >= 2**63 - 1 else f"from {least:g} to {most:g}"


def read_list(read: Callable[[str], Any], text: str) -> tuple[Any, ...]:
    """Values separated by commas; whole numbers also as ranges like 6-12."""
    values: list[Any] = []
    whole = getattr(read, "func", read) is whole_number
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if whole and dash and first:
            found = range(read(first), read(last) + 1)
            if not 0 < len(found[: MOST + 1]) <= MOST:
                raise _refused(f"a range of 1 to {MOST} numbers", part)
            values += found
        else:
            values.append(read(part.strip()))
    return tuple(values)


def read_pair(read: Callable[[str], Any], text: str) -> tuple[Any, Any]:
    """Two values separated by a colon."""
    first, colon, last = text.partition(":")
    if not colon:
        raise _refused("two numbers as FIRST:LAST", text)
    return read(first.strip()), read(last.strip())


def columns_of(fields: Sequence[str] | None) -> Sequence[str] | dict[str, str | list[str]] | None:
    """What ``--fields`` names: two columns, or columns by role, several of them separated by commas."""
    if fields is None or not any("=" in each for each in fields):
        return fields
    by_role: dict[str, str | list[str]] = {}
    for each in fields:
        role, equals, column = each.partition("=")
        if not equals or role in by_role:
            raise ArgumentError("--fields to be two columns, or ROLE=COLUMN once for each role", repr(each))
        by_role[role] = column.split(",") if role == "options" and "," in column else column
    return by_role


def a_path(text: str) -> Path:
    """A path that is not empty, as from an unset variable."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def template_option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON, or else as the text that it is."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise _refused("NAME=VALUE", text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _refused(expected: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"expected {expected}; got {text!r:.60}")
