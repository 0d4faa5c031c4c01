"""How a record is saved: one safetensors file, written atomically.

Its tensors are the file's tensors, everything else is JSON in the file's header, so the two stay together; a digest of
both reveals damage.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_type_hints

import torch
from jaxtyping import jaxtyped
from torch import Tensor

from ..checks import checked
from ..errors import RecordError
from ..tensor_files import load_facts, load_tensors, save_tensors
from ..vocabulary import Condition, Head
from .html import block, frame_table

WIDTH = 120  # characters of a record's repr, at most
# Earlier names of classes and fields in saved files.
EARLIER_KINDS = {"Comparison": "ConditionComparison"}
EARLIER_FIELDS = {"correct": "hits", "ks": "counts", "positions": "places"}
EARLIER_CONDITIONS = {
    "bare + IV": Condition.VECTOR, "clean + IV": Condition.CLEAN_VECTOR, "IV of": Condition.TASK_VECTOR,
    "minus IV of": Condition.MINUS_VECTOR, "mean difference": Condition.MEAN_DIFFERENCE,
    "random vector": Condition.RANDOM_VECTOR, "random heads": Condition.RANDOM_HEADS,
}  # fmt: skip
# Of the files: format 1, which is not written in them, has earlier names of conditions, format 2 of verdicts.
FORMAT = 3
R = TypeVar("R", bound="Record")


@dataclass(frozen=True, eq=False)
class Record:
    """Base of all records: saves to one safetensors file and loads from it.

    ``provenance`` says where the numbers come from: model (source, revision or hash, dtype, weight processing),
    prompts (task, template, BOS, seed), settings and library versions.

    A field's annotation says what ``load`` accepts. ``field(metadata={"axis": name})`` says that the field has an entry
    for each step of that axis of the record's tensors; ``metadata={"record": kind}``, that it is a record itself;
    ``metadata={"added": True}``, that files from before the field was added have its default.
    """

    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __init_subclass__(cls) -> None:
        cls.__repr__ = Record.__repr__  # type: ignore[method-assign]  # a subclass' @dataclass would write its own

    def __repr__(self) -> str:
        return short_repr(self)

    @checked
    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the record to one safetensors file, atomically.

        Args:
            path: the file to write; an earlier record of this class from the same weights is replaced.
            overwrite: also replace anything else.

        Returns:
            The path.

        Raises:
            RecordError: something else is there, ``path`` cannot be written, or the record could not be loaded again:
                fields that do not fit together, or something in its provenance that JSON does not know.

        Example:
            >>> path = effects.save(tmp_path / "effects.safetensors")
            >>> path.name
            'effects.safetensors'
        """
        if not overwrite:
            check_replaceable(path, type(self), self.provenance)
        tensors, facts = self._pack("")
        try:
            self._unpack("", tensors, json.loads(json.dumps(facts)))  # as it would be loaded
        except (KeyError, ValueError, TypeError) as error:
            expected = f"the fields of a {type(self).__name__} that loads again, its provenance JSON's, to save"
            raise RecordError(expected, " ".join(str(error).split())[:200]) from error
        return save_tensors(path, tensors, {"record": type(self).__name__, "format": FORMAT, **facts})

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Self:
        """Read a record of this class from ``path``.

        Args:
            path: a file that ``save`` wrote.

        Returns:
            The record, equal to what was saved.

        Raises:
            RecordError: the file is missing or damaged, or holds another kind of record or invalid fields.

        Example:
            >>> path = effects.save(tmp_path / "effects.safetensors")
            >>> iv.HeadEffects.load(path).top(1) == effects.top(1)
            True
        """
        path = Path(path)
        again = f"save one with {cls.__name__}.save(path)"
        if not os.path.isfile(path):  # False also for an invalid path, unlike path.is_file()
            came = "a folder" if os.path.isdir(path) else "no file" if os.path.exists(path) else "no such file"
            held = sorted(each.name for each in path.glob("*.safetensors")) if came == "a folder" else []
            do = f"name the file, such as {str(path / held[0])!r}" if held else again
            raise RecordError(f"a saved {cls.__name__} at {path}", came, do)
        kind = load_facts(path).get("record")
        kind = EARLIER_KINDS.get(str(kind), kind)
        if kind is None:
            raise RecordError(f"{path} to be an ivlens record", "another safetensors file", again)
        if kind != cls.__name__:
            do = "load it with its own class, or with records.load_record(path)"
            raise RecordError(f"a {cls.__name__} in {path}", f"a {kind!s:.60}", do)
        tensors, facts = load_tensors(path, unsealed=True)
        try:
            record = cls._unpack("", tensors, facts)
        except (KeyError, ValueError, TypeError) as error:
            raise RecordError(f"the fields of a {cls.__name__} in {path}", f"{_one_line(error)}", again) from error
        return record if facts.get("format") == FORMAT else record._with_todays_names()

    def _with_todays_names(self) -> Self:
        """The record, its conditions and verdicts called as they are today."""
        return self

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the first rows, or only the text of a record without a frame."""
        to_frame = getattr(self, "to_frame", None)
        return None if to_frame is None else block(type(self).__name__, self._facts(), frame_table(to_frame()))

    def _facts(self) -> str:
        """Task, number of prompts and model, where known."""
        tasks = [*filter(None, [getattr(self, "task", "")]), *getattr(self, "tasks", ())]
        model = self.provenance.get("model")
        source = model.get("source") if isinstance(model, Mapping) else model
        counted = [f"n = {self.n}"] if hasattr(self, "n") else []
        return "; ".join(filter(None, [", ".join(map(str, tasks)), *counted, str(source or "")]))

    def _pack(self, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                tensors[prefix + name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            elif isinstance(value, Record):
                inner, facts[name] = value._pack(f"{prefix}{name}.")
                tensors |= inner
            else:
                facts[name] = value
        return tensors, facts

    @classmethod
    def _unpack(cls, prefix: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Self:
        values: dict[str, Any] = {}
        hints = get_type_hints(cls)
        for each in fields(cls):
            inner, name = each.metadata.get("record"), each.name
            if not {prefix + name, name} & {*tensors, *facts}:
                name = EARLIER_FIELDS.get(name, name)
            if each.metadata.get("added") and not {prefix + name, name} & {*tensors, *facts}:
                values[each.name] = each.default
            elif prefix + name in tensors:
                values[each.name] = tensors[prefix + name]
            elif inner and isinstance(facts[name], Mapping):
                values[each.name] = inner._unpack(f"{prefix}{name}.", tensors, facts[name])
            else:
                values[each.name] = _tuples(facts[name], hints[each.name])
        _check(cls, values)
        return cls(**values)


def load_or_compute(path: Path, kind: type[R], key: Mapping[str, Any], compute: Callable[[], R]) -> R:
    """The record at ``path`` if it was saved under the same ``key``; otherwise compute, save and return it.

    Args:
        path: the record's file; recomputed if it is missing, has another key, or is damaged (with a warning).
        kind: the record's class.
        key: whatever the numbers depend on (weights' hash, settings, versions), as JSON.
        compute: computes the record.

    Returns:
        The record, with ``key`` in its provenance.
    """
    key = json.loads(json.dumps(key))
    if path.exists():
        try:
            kept = kind.load(path)
            if kept.provenance.get("key") == key:
                return kept
        except RecordError as error:
            warnings.warn(f"ivlens: {error}; it is measured again", stacklevel=2)
    record = compute()
    record = replace(record, provenance={**record.provenance, "key": key})
    record.save(path, overwrite=True)
    return record


def todays_condition(name: str) -> str:
    """What a condition of an earlier name is called today, with its seed or task."""
    for earlier, now in EARLIER_CONDITIONS.items():
        if name == earlier or name.startswith(f"{earlier} "):
            return now + name.removeprefix(earlier)
    return name


def short_repr(instance: Any) -> str:
    """A dataclass in one line: names first, tensors as ``f32[25,30,9]``, long values by length, no provenance."""
    values = {each.name: getattr(instance, each.name) for each in fields(instance) if each.name != "provenance"}
    named = {name: value for name, value in values.items() if isinstance(value, str)}
    parts = [f"{name}={_short(value)}" for name, value in (named | values).items() if not _is_empty(value)]
    line = f"{type(instance).__name__}({', '.join(parts)})"
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 5].rpartition(', ')[0]}, ...)"


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, Sized) and not isinstance(value, Tensor) and not len(value))


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.").replace("float", "f").replace("int", "i")
        return f"{kind}[{','.join(map(str, value.shape))}]"
    if isinstance(value, Record):
        return type(value).__name__
    names = isinstance(value, tuple) and len(value) <= 3 and all(isinstance(each, str) for each in value)
    if isinstance(value, Sized) and not isinstance(value, str) and not names:
        return f"{type(value).__name__}[{len(value)}]"
    shown = repr(value)
    return shown if len(shown) <= 50 else f"{shown[:46]}...{shown[-1]}"


def check_replaceable(path: str | Path, kind: type[Record], provenance: Mapping[str, Any]) -> None:
    """Raise RecordError unless ``path`` is free or holds a record of this class from the weights of ``provenance``."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return
    remedy = "choose another path, or save with overwrite=True"
    expected = f"nothing, or a {kind.__name__} of the same weights, at {path}"
    try:
        facts = load_facts(path)
    except RecordError as error:
        raise RecordError(expected, "a file that is no readable record", remedy) from error
    if facts.get("record") != kind.__name__:
        raise RecordError(expected, f"a {facts.get('record', 'file of another kind')!s:.60}", remedy)
    theirs, ours = (_weights(each) for each in (facts.get("provenance"), provenance))
    if theirs and ours and theirs != ours:
        raise RecordError(expected, f"one of other weights ({theirs[:12]} against {ours[:12]})", remedy)


def _weights(provenance: Any) -> str:
    model = provenance.get("model") if isinstance(provenance, Mapping) else None
    return str(model.get("weights_sha256") or "") if isinstance(model, Mapping) else ""


def _check(kind: type[Record], values: Mapping[str, Any]) -> None:
    """Raise ValueError unless the values have the types, shapes and lengths of the class's annotations."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    sizes: dict[str, int] = {}
    with jaxtyped("context"):  # an axis has one size in all fields
        for name, hint in get_type_hints(kind).items():
            value = values[name]
            try:
                check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
            except TypeCheckError as error:
                shape = f", {value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
                raise ValueError(f"{name}{shape}: {error}") from error
            if isinstance(value, Tensor):
                shape = next(each for each in (hint, *get_args(hint)) if hasattr(each, "dim_str"))  # of "Float | None"
                sizes |= dict(zip(shape.dim_str.split(), value.shape, strict=True))
    for each in fields(kind):
        axis, entries = each.metadata.get("axis"), values[each.name]
        if axis and len(entries) != sizes[axis] and (entries or each.default != ()):
            raise ValueError(f"{len(entries)} {each.name} for an axis {axis!r} of {sizes[axis]}")
    for name in ("model", "settings", "versions"):
        if not isinstance(values["provenance"].get(name, {}), Mapping):
            raise ValueError(f"provenance in which {name!r} is a {type(values['provenance'][name]).__name__}")


def _one_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing or odd"
    return f"{' '.join(str(error).split())[:200]}, which is missing or odd"


def _tuples(value: Any, hint: Any = None) -> Any:
    """JSON's lists as tuples again, with ``Head``s where the annotation says so."""
    if not isinstance(value, list):
        return value
    if hint is Head and len(value) == len(Head._fields):
        return Head(*value)
    of_each = get_args(hint)[0] if get_args(hint)[1:] == (...,) else None
    return tuple(_tuples(each, of_each) for each in value)
