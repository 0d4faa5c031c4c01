"""Arguments are checked against their annotations before anything is computed, and refused by name.

``@checked`` reads the annotations of a function or dataclass and converts each argument to its annotated type: NumPy's
whole numbers become ints, a generator becomes a list that can be read twice, a list [layer, head] becomes a ``Head``,
a value outside a ``Literal`` is refused with the list of allowed ones. An argument that cannot be converted is an
ArgumentError that names it. Nothing is guessed: 1.7 is no layer, True is no number, a text is no sequence of names.
After the call the caller's gradient mode is as it was, since torch's own contexts do not survive every interrupt.
"""

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from .errors import ArgumentError, brief
from .kinds import ANYTHING, Kind, Refused, collection_of, kind_of, mapping_of
from .kinds import Between as Between

if TYPE_CHECKING:
    import torch

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
        except TypeError:
            bound = None
        if bound is None:
            return function(*args, **options)  # Python's own TypeError
        for name, value in bound.arguments.items():
            bound.arguments[name] = _taken(name, kinds[name], value) if name in kinds else value
        with _gradient_mode_kept():
            return function(*bound.args, **bound.kwargs)

    check.__checked__ = True  # type: ignore[attr-defined]
    return check  # type: ignore[return-value]


@contextmanager
def _gradient_mode_kept() -> Iterator[None]:
    """Set the gradient mode back afterwards; torch begins with gradients, where it is imported only within."""
    before = sys.modules.get("torch")
    gradients = before is None or before.is_grad_enabled()
    try:
        yield
    finally:
        if (after := sys.modules.get("torch")) is not None:
            after.set_grad_enabled(gradients)


def check_finite(what: str, values: "torch.Tensor") -> None:
    """Raise ArgumentError where ``values`` are infinite or not a number, since these cannot be averaged or ranked."""
    odd = (~values.isfinite()).nonzero().tolist()
    if odd:
        raise ArgumentError(
            f"finite {what}", f"{len(odd)} of {values.numel()} infinite or not a number, the first at {tuple(odd[0])}",
            "measure them anew, in float32 if half precision overflowed",
        )  # fmt: skip


def _taken(name: str, kind: Kind, value: object) -> Any:
    try:
        return kind.take(value)
    except Refused as refused:
        advice = refused.kind.advice(refused.value)
        raise ArgumentError(f"{name}{refused.where} to be {refused.kind.words}", brief(refused.value), advice) from None


def _kinds_of(function: Callable[..., Any]) -> dict[str, Kind]:
    """The kinds of a function's annotated parameters."""
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
    """An annotation, with quoted names evaluated."""
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    return typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
