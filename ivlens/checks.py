"""The door: arguments are what their annotations say, or refused by name before anything is computed.

``@checked`` reads a function's annotations (or a dataclass's) and hands it each argument in the form that they name:
NumPy's whole numbers become ints, a generator becomes a list that can be read twice, a list of lists becomes a tuple of
tuples. What has no such form is an ArgumentError that names the argument. Nothing is guessed: 1.7 is no layer, True is
no number, a text is no sequence of names. Whatever happens behind the door (torch's own contexts do not survive every
interrupt), the caller's gradient mode is as it was.
"""

import inspect
import types
import typing
<<<<<<< HEAD
from collections.abc import Callable, Collection
from functools import wraps
from typing import Annotated, Any, TypeVar
=======
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, wraps
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union
>>>>>>> fix-b

import torch

from .errors import ArgumentError, brief
from .kinds import ANYTHING, Kind, Refused, collection_of, kind_of, mapping_of
from .kinds import Between as Between

F = TypeVar("F", bound=Callable[..., Any])

Count = Annotated[int, Between(1)]
Natural = Annotated[int, Between(0)]
Seed = Annotated[int, Between(0, 2**63 - 1)]
Index = Annotated[int, Between(-(2**31), 2**31 - 1)]
Resamples = Annotated[int, Between(1, 100_000)]
NotNegative = Annotated[float, Between(0)]
Fraction = Annotated[float, Between(0, 1)]


def checked(function: F) -> F:
    """Check a function's arguments, or a dataclass's fields, against their annotations at every call.

    Raises (the function that is returned):
        ArgumentError: naming the argument, what it should be, and what came.
    """
    if inspect.isclass(function):
        setattr(function, "__init__", checked(function.__init__))  # noqa: B010  (mypy knows no assignment to it)
        function.__checked__ = True  # type: ignore[attr-defined]
        return function
    signature = inspect.signature(function)
    kinds: dict[str, Kind] = {}

    @wraps(function)
    def check(*args: Any, **options: Any) -> Any:
        if not kinds:
            kinds.update(_kinds_of(function))
        try:
            bound = signature.bind(*args, **options)
        except TypeError as error:
            came = str(error).removeprefix("got ")
            raise ArgumentError(f"a call as {_called(function)}{_parameters(signature)}", came) from None
        for name, value in bound.arguments.items():
            bound.arguments[name] = _taken(name, kinds[name], value) if name in kinds else value
        gradients = torch.is_grad_enabled()
        try:
            return function(*bound.args, **bound.kwargs)
        finally:
            torch.set_grad_enabled(gradients)

    check.__checked__ = True  # type: ignore[attr-defined]
    return check  # type: ignore[return-value]


def is_checked(function: Any) -> bool:
    """Whether ``checked`` stands before a function or class."""
    return getattr(function, "__checked__", False)


def check_heads(shape: tuple[int, int], heads: Collection[tuple[int, int]]) -> None:
    """Raise ArgumentError unless there are heads, all of them those of a model of ``shape`` (layers, heads)."""
    if not heads:
        raise ArgumentError("heads as (layer, head), one or more", "none")
    for layer, head in heads:
        if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
            raise ArgumentError(f"layers below {shape[0]} and heads below {shape[1]}", repr((layer, head)))


def check_count(k: int, count: int, of: str = "heads", name: str = "k") -> None:
    """Raise ArgumentError unless ``k``, the argument called ``name``, is at most ``count``."""
    if k > count:
        raise ArgumentError(f"{name} to be at most {count}, the number of {of}", repr(k))


def check_layer(n_layers: int, layer: int, name: str = "layer") -> None:
    """Raise ArgumentError unless a model of so many layers has the ``layer``."""
    if not 0 <= layer < n_layers:
        raise ArgumentError(f"{name} to be from 0 to {n_layers - 1}", repr(layer))


def _taken(name: str, kind: Kind, value: object) -> Any:
    try:
        return kind.take(value)
    except Refused as refused:
        raise ArgumentError(
            f"{name}{refused.where} to be {refused.kind.words}", brief(refused.value), refused.kind.maker
        ) from None


def _called(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__")


def _parameters(signature: inspect.Signature) -> str:
    """A signature by its names alone."""
    bare = [
        each.replace(annotation=each.empty, default=each.empty if each.default is each.empty else ...)
        for each in signature.parameters.values()
        if each.name != "self"
    ]
    return str(inspect.Signature(bare)).replace("=Ellipsis", "=...")


def _kinds_of(function: Callable[..., Any]) -> dict[str, Kind]:
    """The kinds of a function's parameters, those without annotation left out."""
    inner: Any = inspect.unwrap(function)
    signature = inspect.signature(function)
    hints = {name: each.annotation for name, each in signature.parameters.items() if each.annotation is not each.empty}
    hints = {name: _evaluated(hint, inner.__globals__) for name, hint in hints.items()}
    kinds = {name: kind_of(hint) for name, hint in hints.items()}
    for name, each in signature.parameters.items():
        if name in kinds and each.kind is each.VAR_KEYWORD:
            kinds[name] = mapping_of(ANYTHING, kinds[name])
        if name in kinds and each.kind is each.VAR_POSITIONAL:
            kinds[name] = collection_of(tuple, kinds[name], "arguments")
    return kinds


def _evaluated(hint: Any, names: dict[str, Any]) -> Any:
    """An annotation with the names that it quotes looked up."""
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    return typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
<<<<<<< HEAD
=======


@cache
def kind_of(hint: Any) -> Kind:
    """What an annotation allows."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [each for each in inside[1:] if isinstance(each, Between)]
        return _number(inside[0], ranges[0]) if ranges else kind_of(inside[0])
    if origin in (Union, types.UnionType):
        paths = (str, Path) if Path in inside else ()
        return _union([_path()] * bool(paths) + [kind_of(each) for each in inside if each not in paths])
    if origin is Literal:
        return _literal(inside)
    if hint is int or hint is float:
        return _number(hint)
    if origin is Callable or hint is Callable:
        return _instance("a callable", callable)
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return _tensor(hint)
    if origin is tuple and inside[-1] is not ...:
        return _row([kind_of(each) for each in inside])
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return _mapping(*map(kind_of, inside))
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return _collection(origin, kind_of(inside[0]), _plural(kind_of(inside[0]).words))
    if hint in (None, type(None)):
        return _instance("None", lambda value: value is None)
    if hint is bool:
        return Kind("True or False", lambda value: _bool(value))
    return _class(origin or hint)


ANYTHING = Kind("anything", lambda value: value)


def _instance(words: str, fits: Callable[[Any], bool], maker: str = "") -> Kind:
    def take(value: Any) -> Any:
        if not fits(value):
            raise _Refused(kind, value)
        return value

    kind = Kind(words, take, maker)
    return kind


def _class(hint: Any) -> Kind:
    """An object of a class; anything where the annotation names none (Any, a type variable)."""
    if not inspect.isclass(hint) or hint in (object, Any):
        return ANYTHING
    words = "a text" if hint is str else f"a{'n' * (hint.__name__[0] in 'AEIOU')} {hint.__name__}"
    return _instance(words, lambda value: isinstance(value, hint), MAKERS.get(hint.__name__, ""))


def _path() -> Kind:
    """A path, as a text, a Path or what has one, that the file system can be asked for.

    An empty text, which the value of an unset variable is, would be the working directory.
    """

    def take(value: Any) -> str | Path:
        try:
            path = value if isinstance(value, (str, Path)) else Path(value)
            if value == "" or b"\0" in os.fsencode(path):
                raise ValueError
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.lstat(path)
        except (TypeError, ValueError, OSError):  # a text without bytes is the second, a name too long the last
            raise _Refused(kind, value) from None
        return path

    kind = Kind("a path or a name", take)
    return kind


def _bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _Refused(kind_of(bool), value)
    return bool(value)


def _number(hint: Any, allowed: Between | None = None) -> Kind:
    """Whole numbers, whatever library they are of; or finite ones. True and False are none."""
    whole = hint is int

    def take(value: Any) -> Any:
        try:
            value = value.item() if isinstance(value, (Tensor, np.ndarray)) and not value.ndim else value
            if isinstance(value, (bool, np.bool_)) or not (whole or isinstance(value, Real)):
                raise TypeError
            number = operator.index(value) if whole else float(value)
        except (TypeError, OverflowError, ValueError, RuntimeError):  # the last from a tensor without data
            raise _Refused(kind, value) from None
        if not math.isfinite(number if not whole else 0) or (allowed and not allowed.least <= number <= allowed.most):
            raise _Refused(kind, value)
        return number

    words = "a whole number" if whole else "a finite number"
    kind = Kind(words if allowed is None else f"{words} {allowed}", take)
    return kind


def _literal(values: tuple[Any, ...]) -> Kind:
    return _instance(f"one of {', '.join(map(repr, values))}", lambda value: isinstance(value, str) and value in values)


def _tensor(hint: Any) -> Kind:
    """A tensor of the annotation's dtype and number of axes; names of axes are not compared between arguments."""

    def fits(value: Any) -> bool:
        with jaxtyped("context"):
            return isinstance(value, hint) and value.layout == torch.strided and not value.is_meta

    axes = hint.dim_str.strip()
    return _instance(f"a {hint.__name__.partition('[')[0].lower()} tensor of shape [{', '.join(axes.split())}]", fits)


def _union(kinds: Sequence[Kind]) -> Kind:
    """The first of the kinds that takes it; of refusals, the one that looked into the argument is told."""

    def take(value: Any) -> Any:
        refusals = []
        for each in kinds:
            try:
                return each.take(value)
            except _Refused as refused:
                refusals.append(refused)
        inside = [each for each in refusals if each.where]
        raise max(inside, key=lambda each: len(each.where), default=_Refused(kind, value))

    maker = next((each.maker for each in kinds if each.maker), "")
    words = " or ".join(each.words for each in kinds if each.words != "None")
    kind = Kind(f"{words}, or None" if any(each.words == "None" for each in kinds) else words, take, maker)
    return kind


def _row(kinds: Sequence[Kind]) -> Kind:
    """A tuple with a kind for each place, as a head (layer, head)."""

    def take(value: Any) -> tuple[Any, ...]:
        if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not isinstance(value, Iterable):
            raise _Refused(kind, value)
        items = list(_items(kind, value))
        if len(items) != len(kinds):
            raise _Refused(kind, value)
        return tuple(_within(f"[{at}]", each, item) for at, (each, item) in enumerate(zip(kinds, items, strict=True)))

    kind = Kind(f"({', '.join(each.words for each in kinds)})", take)
    return kind


def _collection(origin: Any, item: Kind, plural: str) -> Kind:
    """Several of a kind: a list, or a tuple where the annotation says so; a text or a mapping is none."""
    made = tuple if origin is tuple else list

    def take(value: Any) -> Any:
        unordered = isinstance(value, (set, frozenset)) and issubclass(origin, Sequence)
        if isinstance(value, (str, bytes, Mapping)) or unordered or not isinstance(value, Iterable):
            raise _Refused(kind, value)
        return made(_within(f"[{at}]", item, each) for at, each in enumerate(_items(kind, value)))

    kind = Kind(plural, take, item.maker)
    return kind


def _items(kind: Kind, value: Iterable[Any]) -> Iterator[Any]:
    """The items of something iterable that may fail at it, as a tensor without axes does."""
    try:
        yield from value
    except TypeError:
        raise _Refused(kind, value) from None


def _mapping(keys: Kind, values: Kind) -> Kind:
    def take(value: Any) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise _Refused(kind, value)
        return {
            _within(f"'s key {brief(key)}", keys, key): _within(f"[{brief(key)}]", values, each)
            for key, each in value.items()
        }

    kind = Kind(f"a mapping of {keys.words} to {values.words}", take, values.maker)
    return kind


def _within(where: str, kind: Kind, value: Any) -> Any:
    """An item of an argument; a refusal says where in the argument it stands."""
    try:
        return kind.take(value)
    except _Refused as refused:
        refused.where = where + refused.where
        raise


def _plural(words: str) -> str:
    return f"a list of which each is {words}"
>>>>>>> fix-b
