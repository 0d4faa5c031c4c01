"""Vectors in files of ``torch.save``: lm-eval's ``steered`` models, steering-vectors, and bare tensors.

lm-eval's model has hooks on outputs of modules, which it names, and adds coefficient times vector to all tokens of
every pass. steering-vectors has no format of its own: its users save the ``SteeringVector``, or its
``layer_activations``.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RecordError, UnsupportedError, brief, few
from ..files import write_atomically
from ..models import layer_path
from .torch_archive import Plain, read_torch_archive
from .vector_files import Direction, Steered, as_scale, as_values, first_layer, json_facts

STEERING_VECTOR = "steering_vectors.steering_vector SteeringVector"
LAYER = re.compile(r"(?:\w+\.)*(?:layers?|h|blocks?)\.(\d{1,6})")
OURS = "ivlens"


def check_lm_eval(steered: Steered) -> None:
    """Raise UnsupportedError unless a hook on a layer's output can add the vector."""
    first_layer(steered, 0, "lm-eval's hook on a layer's output")


def write_lm_eval(steered: Steered, path: Path) -> None:
    """Write what ``lm_eval --model steered --model_args pretrained=...,steer_path=PATH`` loads."""
    hook_point = layer_path(steered.model, steered.output_of)
    entry = {
        "action": "add", "steering_coefficient": float(steered.scale),
        "steering_vector": steered.vector.values.detach().cpu().clone(), "head_index": None, "bias": None,
        OURS: json.dumps(steered.facts()),
    }  # fmt: skip
    write_atomically(path, lambda temporary: torch.save({hook_point: entry}, temporary))


def read_archive(path: Path) -> list[Direction]:
    """The directions in a file of ``torch.save``, by layer.

    Raises:
        RecordError: the file is damaged, or holds something else.
        UnsupportedError: what it holds is not added to the residual stream.
    """
    held = read_torch_archive(path)
    for holds, read in HELD:
        if holds(held):
            return sorted(read(str(path), held), key=lambda each: each.layer or 0)
    raise RecordError(f"a vector of lm-eval or steering-vectors, or one tensor [d_model], in {path}", _words(held))


def _words(held: Any) -> str:
    if isinstance(held, dict):
        return f"a dict with {few(map(brief, held))}"
    return held.kind if isinstance(held, Plain) else brief(held)


def _is_lm_eval(held: Any) -> bool:
    return isinstance(held, dict) and bool(held) and all(
        isinstance(name, str) and isinstance(entry, dict) and "steering_vector" in entry for name, entry in held.items()
    )  # fmt: skip


def _lm_eval(name: str, held: Mapping[str, Any]) -> list[Direction]:
    return [_hooked(f"{hook_point!r} of {name}", hook_point, entry) for hook_point, entry in held.items()]


def _hooked(name: str, hook_point: str, entry: Mapping[str, Any]) -> Direction:
    layer = LAYER.fullmatch(hook_point)
    if layer is None:
        raise UnsupportedError("a hook point that is a layer, such as 'layers.12'", name)
    if entry.get("action") != "add" or entry.get("head_index") is not None:
        came = {key: entry.get(key) for key in ("action", "head_index")}
        raise UnsupportedError(f"a vector that is added to the residual stream at {name}", brief(came))
    scale = as_scale(f"steering_coefficient at {name}", entry.get("steering_coefficient", 1.0))
    facts = json_facts(name, entry.get(OURS))
    return Direction(as_values(name, entry["steering_vector"]), int(layer[1]), scale=scale, facts=facts)


def _is_by_layer(held: Any) -> bool:
    fields = held.fields if isinstance(held, Plain) and held.kind == STEERING_VECTOR else held
    layers = fields.get("layer_activations", fields) if isinstance(fields, dict) else None
    return isinstance(layers, dict) and bool(layers) and all(
        type(layer) is int and isinstance(values, Tensor) for layer, values in layers.items()
    )  # fmt: skip


def _by_layer(name: str, held: Any) -> list[Direction]:
    fields = held.fields if isinstance(held, Plain) else held
    if (kind := fields.get("layer_type", "decoder_block")) != "decoder_block":
        raise UnsupportedError(f"layer_type 'decoder_block' in {name}, whose output is the stream", brief(kind))
    layers = fields.get("layer_activations", fields)
    if min(layers) < 0:
        raise RecordError(f"layers counted from 0 in {name}", f"layer {min(layers)}", "count them from the first layer")
    return [Direction(as_values(f"layer {layer} of {name}", values), layer) for layer, values in layers.items()]


def _bare(name: str, held: Tensor) -> list[Direction]:
    return [Direction(as_values(name, held))]


# what a file holds, and how it is read; the first that holds reads
HELD: tuple[tuple[Callable[[Any], bool], Callable[[str, Any], list[Direction]]], ...] = (
    (_is_lm_eval, _lm_eval),
    (_is_by_layer, _by_layer),
    (lambda held: isinstance(held, Tensor), _bare),
)
