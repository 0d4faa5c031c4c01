"""Files of ``torch.save`` read as data: their instructions are walked one by one, and nothing in them is run.

Such a file is a ZIP archive: raw bytes of tensors, and a program for a stack machine that puts them together. Python
would import and call whatever the program names. Here it is only decoded (``genops``): it gives plain containers,
numbers, texts and tensors, and an object of any class becomes a ``Plain`` that keeps the class's name and its fields.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from pickletools import genops
from typing import Any

import torch
from torch import Tensor

from ..errors import RecordError, reason
from ..files import check_there

DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}  # fmt: skip
LARGEST = 1 << 30  # bytes of such a file: vectors are small
MOST = 1 << 16  # steps of the program
MARK = object()
CONVERT = (
    "where it was made and is trusted, save its tensors alone: "
    "torch.save({layer: torch.as_tensor(values) for layer, values in directions.items()}, path), "
    "directions being repeng's .directions or steering-vectors' .layer_activations"
)
TENSOR, DICT = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"


@dataclass
class Plain:
    """An object of a class that is not imported: the class's name, with its module, and the object's fields."""

    kind: str
    fields: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """A name of Python that the program mentions, or the storage of a tensor: its dtype's name and its key."""

    text: str
    key: str = ""


def read_torch_archive(path: Path) -> Any:
    """What ``torch.save`` wrote, in plain containers.

    Args:
        path: a file in the format that torch writes since 1.6, a ZIP archive.

    Returns:
        Containers, numbers, texts and tensors; ``Plain`` for objects of classes.

    Raises:
        RecordError: the file is damaged, compressed, or holds something else.
    """
    check_there(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            return _Machine(lambda key: _bytes(archive, names[key])).run(_bytes(archive, names["data.pkl"]))
    except Exception as error:  # a malformed file may raise anything
        expected = f"a file of torch.save at {path}, of tensors in plain containers"
        raise RecordError(expected, reason(error), CONVERT) from error


def _bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > LARGEST:
        raise ValueError(f"{name} is compressed, which torch.save does not do")
    return archive.read(entry)


class _Machine:
    """The stack machine, without its instructions that import or call."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self.read = read
        self.stack: list[Any] = []
        self.kept: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """What the program leaves on the stack."""
        for step, (code, argument, _) in enumerate(genops(BytesIO(program))):
            if code.name == "STOP":
                return self.stack.pop()
            if step >= MOST:
                raise ValueError(f"more than {MOST:,} steps")
            self._step(code.name, argument)
        raise ValueError("it ends too early")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(name[-1]))))
            case "BINPUT" | "LONG_BINPUT":
                self.kept[argument] = stack[-1]
            case "MEMOIZE":
                self.kept[len(self.kept)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.kept[argument])
            case "SETITEM":
                self._set(self._last(2))
            case "SETITEMS":
                self._set(self._since_mark())
            case "APPEND" | "APPENDS":
                added = self._last(1) if name == "APPEND" else self._since_mark()
                _list(stack[-1]).extend(added)
            case "GLOBAL":
                stack.append(_Name(argument))
            case "STACK_GLOBAL":
                stack.append(_Name(" ".join(self._last(2))))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                called, given = self._last(2)
                stack.append(self._made(called.text, given))
            case "BUILD":
                state = stack.pop()
                stack[-1].fields.update(state)
            case _:
                raise ValueError(f"the instruction {name}, which plain containers of tensors do not need")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an instruction without its operands")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        at = next(at for at in reversed(range(len(self.stack))) if self.stack[at] is MARK)
        taken = self.stack[at + 1 :]
        del self.stack[at:]
        return taken

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError("items set in something other than a dict")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def _made(self, name: str, given: Any) -> Any:
        """A tensor, a dict, or the name of any other class with its fields still to come."""
        if name == TENSOR:
            return self._tensor(*given[:4])
        if name == DICT:
            return {}
        if given != ():
            raise ValueError(f"a call of {name}")
        return Plain(name)

    def _tensor(self, storage: _Name, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        data = bytearray(self.read(f"data/{storage.key}"))
        values = torch.frombuffer(data, dtype=DTYPES[storage.text]) if data else torch.zeros(0)
        if any(step < 1 for step in (*size, *stride)) or offset < 0 or torch.Size(size).numel() > len(values):
            raise ValueError(f"a tensor of shape {size} in {len(values)} values")
        return values.as_strided(size, stride, offset).clone()


def _storage(persistent: Any) -> _Name:
    """The storage that a tensor lies in: ("storage", type, key, device, number of values)."""
    word, kind, key, _, _ = persistent
    module, _, name = kind.text.partition(" ")
    if word != "storage" or module != "torch" or name not in DTYPES:
        raise ValueError(f"tensors of {', '.join(DTYPES)} only, not of {kind.text}")
    return _Name(name, str(key))


def _list(target: Any) -> list[Any]:
    if type(target) is not list:
        raise TypeError("items appended to something other than a list")
    return target
