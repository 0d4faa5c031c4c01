"""What an annotation allows: in words for a message, and as a conversion of an argument.

Libraries of arrays take seconds to import and are not imported here: an array comes from a caller who did.
"""

import inspect
import math
import operator
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from .errors import brief, with_article
from .remedies import head_meant, is_table, number_spelled, remedy_for
from .text import did_you_mean


@dataclass(frozen=True)
class Between:
    """In an annotation, the allowed numbers: from ``least`` to ``most``, both included."""

    least: float
    most: float = math.inf

    def __repr__(self) -> str:
        return f">= {self.least}" if self.most == math.inf else f"{self.least} to {self.most}"

    def __str__(self) -> str:
        return f"of {self.least} or more" if self.most == math.inf else f"from {self.least} to {self.most}"


LIST = "a list of "


def _nothing(value: Any) -> None:
    """What was meant by a value of which nobody knows."""


@dataclass(frozen=True)
class Kind:
    """What an annotation allows: in words, and as ``take``, which converts an argument or raises Refused.

    Of a value that it refuses, ``meant`` is what was probably meant (None: nobody knows), and ``remedy`` says how to
    come by what was expected.
    """

    words: str
    take: Callable[[Any], Any]
    remedy: Callable[[Any], str] = lambda value: ""
    meant: Callable[[Any], Any] = _nothing

    def advice(self, value: Any) -> str:
        """What to pass instead of a value that it refuses."""
        meant = self.meant(value)
        return self.remedy(value) if meant is None else f"pass {brief(meant)}"


class Refused(Exception):
    """An argument that is not of the expected kind: where in it (an index, a key), what was expected, what came."""

    def __init__(self, kind: Kind, value: object, where: str = "") -> None:
        super().__init__(kind.words)
        self.kind, self.value, self.where = kind, value, where


def is_of(value: Any, library: str, *names: str) -> bool:
    """Whether a value is of one of a library's classes; no value is of a library that has not been imported."""
    module = sys.modules.get(library)
    return module is not None and isinstance(value, tuple(getattr(module, name) for name in names))


@cache
def kind_of(hint: Any) -> Kind:
    """What an annotation allows."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [each for each in inside[1:] if isinstance(each, Between)]
        return _number(inside[0], ranges[0]) if ranges else kind_of(inside[0])
    if origin in (Union, types.UnionType):
        if Path in inside:
            return _union([_path(), *(kind_of(each) for each in inside if each not in (str, Path))])
        return _union([kind_of(each) for each in inside])
    if origin is Literal:
        return _literal(inside)
    if hint is int or hint is float:
        return _number(hint)
    if origin is Callable or hint is Callable:
        return _instance("a callable", callable)
    if inspect.isclass(hint) and hasattr(hint, "dim_str"):  # of jaxtyping
        return _tensor(hint)
    if origin is tuple and inside[-1] is not ...:
        return _row([kind_of(each) for each in inside])
    if inspect.isclass(hint) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return _named_row(hint)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return mapping_of(*map(kind_of, inside))
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return collection_of(origin, kind_of(inside[0]), _plural(kind_of(inside[0]).words))
    if hint in (None, type(None)):
        return _instance("None", lambda value: value is None)
    if hint is bool:
        return Kind("True or False", lambda value: _bool(value))
    return _class(origin or hint)


ANYTHING = Kind("anything", lambda value: value)


def _instance(words: str, fits: Callable[[Any], bool], remedy: Callable[[Any], str] = lambda value: "") -> Kind:
    def take(value: Any) -> Any:
        if not fits(value):
            raise Refused(kind, value)
        return value

    kind = Kind(words, take, remedy)
    return kind


def _class(hint: Any) -> Kind:
    """An object of a class; anything where the annotation names no class (Any, a type variable)."""
    if not inspect.isclass(hint) or hint in (object, Any):
        return ANYTHING
    words = "a text" if hint is str else with_article(hint.__name__)
    return _instance(words, lambda value: isinstance(value, hint), partial(remedy_for, hint.__name__))


def _path() -> Kind:
    """A path that the file system accepts, as a text, a Path or an object with a path.

    An empty text, as from an unset variable, would mean the working directory.
    """

    def take(value: Any) -> str | Path:
        try:
            path = value if isinstance(value, (str, Path)) else Path(value)
            if value == "" or b"\0" in os.fsencode(path):
                raise ValueError
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.lstat(path)
        except (TypeError, ValueError, OSError):  # null characters, lone surrogates, too long names
            raise Refused(kind, value) from None
        return path

    kind = Kind("a path or a name", take)
    return kind


def _bool(value: Any) -> bool:
    if not _is_bool(value):
        raise Refused(kind_of(bool), value)
    return bool(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or is_of(value, "numpy", "bool_")


def _number(hint: Any, allowed: Between | None = None) -> Kind:
    """Whole or finite numbers of any library; True and False are not numbers."""
    whole = hint is int

    def take(value: Any) -> Any:
        try:
            array = is_of(value, "torch", "Tensor") or is_of(value, "numpy", "ndarray")
            value = value.item() if array and not value.ndim else value
            if _is_bool(value) or not (whole or isinstance(value, Real)):
                raise TypeError
            number = operator.index(value) if whole else float(value)
        except (TypeError, OverflowError, ValueError, RuntimeError):  # the last from a tensor without data
            raise Refused(kind, value) from None
        if not math.isfinite(number if not whole else 0) or (allowed and not allowed.least <= number <= allowed.most):
            raise Refused(kind, value)
        return number

    words = "a whole number" if whole else "a finite number"

    def meant(value: Any) -> Any:
        with suppress(Refused, ValueError, OverflowError):
            return take(number_spelled(value))

    kind = Kind(words if allowed is None else f"{words} {allowed}", take, meant=meant)
    return kind


def _literal(values: tuple[Any, ...]) -> Kind:
    def meant(value: Any) -> str:
        return did_you_mean(value, map(str, values)) if isinstance(value, str) else ""

    words = f"one of {', '.join(map(repr, values))}"
    return _instance(words, lambda value: isinstance(value, str) and value in values, meant)


def _tensor(hint: Any) -> Kind:
    """A tensor of the annotation's dtype and number of axes; axes are not compared between arguments."""

    def fits(value: Any) -> bool:
        import torch
        from jaxtyping import jaxtyped

        with jaxtyped("context"):
            return isinstance(value, hint) and value.layout == torch.strided and not value.is_meta

    axes = hint.dim_str.strip()
    return _instance(f"a {hint.__name__.partition('[')[0].lower()} tensor of shape [{', '.join(axes.split())}]", fits)


def _union(kinds: Sequence[Kind]) -> Kind:
    """The first kind that accepts the argument; otherwise the refusal that got furthest into the argument."""

    def take(value: Any) -> Any:
        refusals = []
        for each in kinds:
            try:
                return each.take(value)
            except Refused as refused:
                refusals.append(refused)
        inside = [each for each in refusals if each.where]
        raise max(inside, key=lambda each: len(each.where), default=Refused(kind, value))

    def remedy(value: Any) -> str:
        return next(filter(None, (each.remedy(value) for each in kinds)), "")

    def meant(value: Any) -> Any:
        return next((found for each in kinds if (found := each.meant(value)) is not None), None)

    listed = sorted((each.words for each in kinds if each.words != "None"), key=lambda words: words.startswith(LIST))
    words = " or ".join(listed)  # one Prompt before a list of Prompts
    words = f"{words}, or None" if any(each.words == "None" for each in kinds) else words
    kind = Kind(words, take, remedy, meant)
    return kind


def _named_row(hint: Any) -> Kind:
    """A NamedTuple from any sequence of as many items of its fields' kinds, such as a head from [0, 1]."""
    fields = typing.get_type_hints(hint, include_extras=True)
    words = f"({', '.join(fields)})"
    meant = head_meant if hint.__name__ == "Head" else _nothing
    row = Kind(words, _nothing, partial(remedy_for, hint.__name__), meant)
    return _row([kind_of(each) for each in fields.values()], hint._make, row)


def _row(kinds: Sequence[Kind], make: Callable[[Iterable[Any]], Any] = tuple, like: Kind | None = None) -> Kind:
    """A tuple with one kind per item, described as ``like`` is (None: by its items)."""

    def take(value: Any) -> Any:
        if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not isinstance(value, Iterable):
            raise Refused(kind, value)
        items = list(_items(kind, value))
        if len(items) != len(kinds):
            raise Refused(kind, value)
        return make(_within(f"[{at}]", each, item) for at, (each, item) in enumerate(zip(kinds, items, strict=True)))

    kind = replace(like or Kind(f"({', '.join(each.words for each in kinds)})", take), take=take)
    return kind


def collection_of(origin: Any, item: Kind, plural: str) -> Kind:
    """Several items of a kind: a list, or a tuple where the annotation says so, but no text, mapping or table."""
    made = tuple if origin is tuple else list

    def take(value: Any) -> Any:
        unordered = isinstance(value, (set, frozenset)) and issubclass(origin, Sequence)
        single = isinstance(value, (str, bytes, Mapping)) or is_table(value)
        if single or unordered or not isinstance(value, Iterable):
            raise Refused(kind, value)
        items = list(_items(kind, value))
        try:
            return made(_within(f"[{at}]", item, each) for at, each in enumerate(items))
        except Refused:
            if meant(items) is not None:  # one item that is itself a list, as a head is
                raise Refused(kind, value) from None
            raise

    def meant(value: Any) -> Any:
        """The list of the one item that was passed without it."""
        if value is None or isinstance(value, (set, frozenset, Mapping)) or is_table(value):
            return None
        try:
            return [item.take(value)]
        except Refused:
            one = item.meant(value)
            return None if one is None else [one]

    kind = Kind(plural, take, item.remedy, meant)
    return kind


def _items(kind: Kind, value: Iterable[Any]) -> Iterator[Any]:
    """The items of an iterable, which may fail, as a tensor without axes does."""
    try:
        yield from value
    except TypeError:
        raise Refused(kind, value) from None


def mapping_of(keys: Kind, values: Kind) -> Kind:
    """A mapping with keys of one kind and values of another."""

    def take(value: Any) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise Refused(kind, value)
        return {
            _within(f"'s key {brief(key)}", keys, key): _within(f"[{brief(key)}]", values, each)
            for key, each in value.items()
        }

    kind = Kind(f"a mapping of {keys.words} to {values.words}", take, values.remedy)
    return kind


def _within(where: str, kind: Kind, value: Any) -> Any:
    """An item of an argument; a refusal says where in the argument it is."""
    try:
        return kind.take(value)
    except Refused as refused:
        refused.where = where + refused.where
        raise


def _plural(words: str) -> str:
    """A list of what the words say one of: "a Prompt" becomes "a list of Prompts"."""
    several = re.sub(r"\ban? ((?:whole |finite |\w+(?= tensor) )?\w*[^\Ws])(s?)\b", r"\1s", words)
    several = re.sub(r"(?<=[^aeiou])ys\b", "ies", several)
    return f"{LIST}{several.replace('one of', 'names among', 1)}"
