"""GGUF control vectors, which llama.cpp, repeng and EasySteer share: ``direction.N`` is added to the output of layer N.

llama.cpp's loader stores ``direction.N`` at offset N - 1 and its graph reads that offset at layer N: N counts from 0,
and 0 itself is refused. repeng and EasySteer write and read the same names by hooks on layer N, and allow 0. The format
has no field for a scale, so the vector is written times its scale: with strength 1 it does what ``steer`` does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, GGUFWriter

from ..errors import RecordError, UnsupportedError, brief, reason
from ..files import write_atomically
from ..models import hugging_face_config
from .vector_files import Direction, Steered, as_values, first_layer, json_facts

ARCHITECTURE = "controlvector"
OURS = "ivlens.vector"  # the facts that ivlens adds, as JSON; other readers ignore it
EASYSTEER = f"{ARCHITECTURE}.easysteer"
COMPONENT = "hidden_states"  # of EasySteer's: the residual stream
DTYPES = (torch.float32, torch.float16, torch.float64)


class _Reader(GGUFReader):
    """GGUF's own, which would go on for as long as a damaged file's counts say, past its end."""

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:  # NumPy's integers
        found = super()._get(offset, dtype, count, override_order)
        if len(found) < count:
            raise ValueError("it ends too early")
        return found


def check_llama_cpp(steered: Steered) -> None:
    """Raise UnsupportedError unless llama.cpp can add the vector."""
    first_layer(steered, 1, "llama.cpp")
    _check_range(steered)


def check_easysteer(steered: Steered) -> None:
    """Raise UnsupportedError unless EasySteer can add the vector."""
    first_layer(steered, 0, "EasySteer")
    _check_range(steered)


def _check_range(steered: Steered) -> None:
    """Raise UnsupportedError where the vector times its scale is beyond float32."""
    largest = steered.added.abs().max()
    if not largest.float().isfinite():
        raise UnsupportedError(
            "a vector that float32 holds, which is all that this format has", f"a value of {largest:.3g}"
        )


def write_llama_cpp(steered: Steered, path: Path) -> None:
    """Write a control vector for llama.cpp and repeng."""
    _write(steered, path, {})


def write_easysteer(steered: Steered, path: Path) -> None:
    """Write a control vector with EasySteer's own metadata."""
    native = {"version": 1, "component": COMPONENT, "metadata": None}
    method = steered.vector.task or "ivlens"
    _write(steered, path, {f"{ARCHITECTURE}.method": method, EASYSTEER: json.dumps(native)})


def _write(steered: Steered, path: Path, texts: Mapping[str, str]) -> None:
    facts = json.dumps(steered.facts())

    def write(temporary: Path) -> None:
        writer = GGUFWriter(temporary, ARCHITECTURE)
        try:
            writer.add_string(f"{ARCHITECTURE}.model_hint", hugging_face_config(steered.model).model_type)
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", 1)
            for name, text in {**texts, OURS: facts}.items():
                writer.add_string(name, text)
            writer.add_tensor(f"direction.{steered.output_of}", steered.added.float().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    write_atomically(path, write)


def read_gguf(path: Path) -> list[Direction]:
    """The directions of a control vector, by layer.

    Raises:
        RecordError: the file is damaged, or no control vector.
        UnsupportedError: directions that are not added to the residual stream.
    """
    try:
        reader = _Reader(path)
        texts = {name: reader.fields[name].contents() for name in _texts(reader)}
        tensors = {each.name: torch.tensor(each.data) for each in reader.tensors}  # copies, since the file is mapped
    except Exception as error:  # a malformed file may raise anything
        raise RecordError(f"a readable GGUF file at {path}", reason(error)) from error
    if (kind := texts.get("general.architecture")) != ARCHITECTURE:
        raise RecordError(f"a GGUF file of architecture {ARCHITECTURE!r} at {path}", brief(kind), _advice(kind))
    _check_component(path, texts)
    facts = json_facts(f"{OURS} of {path}", texts.get(OURS))
    found = [_direction(path, name, values, facts) for name, values in tensors.items()]
    if not found:
        raise RecordError(f"directions in {path}", "none")
    return sorted(found, key=lambda each: each.layer or 0)


def _texts(reader: GGUFReader) -> list[str]:
    return [name for name in ("general.architecture", EASYSTEER, OURS) if name in reader.fields]


def _advice(kind: object) -> str:
    return "load_model loads a model" if kind else ""


def _check_component(path: Path, texts: Mapping[str, Any]) -> None:
    """Raise UnsupportedError for EasySteer's directions of attention heads and routers."""
    component = json_facts(f"{EASYSTEER} of {path}", texts.get(EASYSTEER)).get("component") or COMPONENT
    if component != COMPONENT:
        raise UnsupportedError(f"directions of {COMPONENT} in {path}", brief(component))


def _direction(path: Path, name: str, values: torch.Tensor, facts: Mapping[str, Any]) -> Direction:
    prefix, _, number = name.partition(".")
    if prefix != "direction" or not number.isdecimal() or len(number) > 6:
        raise RecordError(f"tensors called direction.N in {path}", repr(name[:60]))
    if values.dtype not in DTYPES:
        raise RecordError(f"{name} of {path} in float32 or float16", "a quantised tensor")
    return Direction(as_values(f"{name} of {path}", values), int(number), facts=facts)
