"""How a record is kept: one safetensors file, written beside its target and moved over it in one step.

Its tensors are the file's tensors, everything else is JSON in the file's header, so that neither can be separated
from the other.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import RecordError
from .html import block, frame_table


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it over ``path`` in one step; a link stays one."""
    given, path = Path(path), Path(path).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RecordError(
            f"to write {path}", f"{type(error).__name__}: {error}", "choose a folder to write to"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise RecordError(f"to write {path}", f"{type(error).__name__}: {error}", "make room for it") from error
    finally:
        temporary.unlink(missing_ok=True)
    return given


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` to ``path`` as UTF-8, atomically; halves of surrogate pairs, which UTF-8 lacks, as escapes."""
    return write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True, eq=False)
class Record:
    """Base of all records: saves to one safetensors file and loads from it.

    ``provenance`` says where the numbers come from: model (source, revision or hash, dtype, weight processing),
    prompts (task, template, BOS, seed), settings and library versions.
    """

    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def save(self, path: str | Path) -> Path:
        """Write the record to ``path`` atomically and return the path."""
        tensors, facts = self._pack("")
        header = {"ivlens": json.dumps({"record": type(self).__name__, **facts})}
        return write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record of this class from ``path``.

        Raises:
            RecordError: the file is missing, truncated, or holds another kind of record.
        """
        path = Path(path)
        again = f"save one with {cls.__name__}.save(path)"
        if not path.is_file():
            raise RecordError(f"a saved {cls.__name__} at {path}", "no such file", again)
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["ivlens"])
                mine = facts.get("record") == cls.__name__
                tensors = {name: file.get_tensor(name) for name in file.keys()} if mine else {}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise RecordError(f"{path} to be an ivlens record", f"an unreadable file ({error})", again) from error
        if facts.get("record") != cls.__name__:
            raise RecordError(f"a {cls.__name__} in {path}", f"a {facts.get('record')}", "load it with its own class")
        try:
            return cls._unpack("", tensors, facts)
        except (KeyError, TypeError) as error:
            raise RecordError(
                f"the fields of a {cls.__name__} in {path}", f"{error!r} is missing or odd", again
            ) from error

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the first rows; of a record without a frame, nothing but its text."""
        to_frame = getattr(self, "to_frame", None)
        return None if to_frame is None else block(type(self).__name__, self._facts(), frame_table(to_frame()))

    def _facts(self) -> str:
        """Task, number of prompts and model, as far as the record knows them."""
        tasks = [*filter(None, [getattr(self, "task", "")]), *getattr(self, "tasks", ())]
        model = self.provenance.get("model")
        source = model.get("source") if isinstance(model, Mapping) else model
        counted = [f"n = {self.n}"] if hasattr(self, "n") else []
        return "; ".join([", ".join(map(str, tasks))] * bool(tasks) + counted + [str(source)] * bool(source))

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
        for each in fields(cls):
            inner = each.metadata.get("record")
            if prefix + each.name in tensors:
                values[each.name] = tensors[prefix + each.name]
            elif inner and facts[each.name] is not None:
                values[each.name] = inner._unpack(f"{prefix}{each.name}.", tensors, facts[each.name])
            else:
                values[each.name] = _tuples(facts[each.name])
        return cls(**values)


def _tuples(value: Any) -> Any:
    """JSON's lists back to the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
