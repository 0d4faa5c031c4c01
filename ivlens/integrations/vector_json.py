"""Neuronpedia's vectors: the JSON that its API takes for a new one, and that it gives for one it has.

The fields are those of the package ``neuronpedia``: a model's name there, a layer, a hook type out of hook_resid_pre
and hook_resid_post, the values, a label, and the default strength, by which a request's ``strength_multiplier``
multiplies.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import RecordError, UnsupportedError, brief, reason
from ..files import check_there, write_text
from ..models import hugging_face_config
from ..vocabulary import StreamSite
from .vector_files import Direction, Steered, as_scale, as_values

LARGEST = 1 << 26  # bytes
HOOKS = {"hook_resid_pre": "resid_pre", "hook_resid_post": "resid_post"}
HOOK_NAME = re.compile(r"blocks\.(\d{1,6})\.(hook_resid_pre|hook_resid_post)")


def check_neuronpedia(steered: Steered) -> None:
    """Raise UnsupportedError unless Neuronpedia has such a hook."""
    if steered.site == "attn_out":
        raise UnsupportedError("a site that Neuronpedia has: resid_pre or resid_post", "site='attn_out'")


def write_neuronpedia(steered: Steered, path: Path) -> None:
    """Write the fields of a new vector; the model's name there is to be checked by hand."""
    source = hugging_face_config(steered.model).name_or_path or steered.model.cfg.original_architecture or ""
    fields = {
        "modelId": Path(str(source)).name.lower(), "layerNumber": steered.layer, "hookType": f"hook_{steered.site}",
        "vector": steered.vector.values.double().tolist(), "vectorDefaultSteerStrength": float(steered.scale),
        "vectorLabel": steered.vector.task,
    }  # fmt: skip
    write_text(path, json.dumps(fields))


def read_json(path: Path) -> list[Direction]:
    """The vector in a file of Neuronpedia's.

    Raises:
        RecordError: the file is no JSON, or lacks a field.
        UnsupportedError: a hook that is not on the residual stream.
    """
    check_there(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"JSON in {path}", reason(error)) from error
    if isinstance(fields, dict) and isinstance(fields.get("vector"), dict):  # as the API wraps one
        fields = fields["vector"]
    if not isinstance(fields, dict) or not isinstance(fields.get("vector", fields.get("values")), list):
        raise RecordError(f"Neuronpedia's fields in {path}, 'vector' among them", brief(fields))
    layer, site = _where(path, fields)
    scale = fields.get("vectorDefaultSteerStrength", fields.get("defaultSteerStrength"))
    scale = scale if scale is None else as_scale(f"vectorDefaultSteerStrength in {path}", scale)
    values = as_values(str(path), fields.get("vector", fields.get("values")))
    label = str(fields.get("vectorLabel") or fields.get("label") or "")
    return [Direction(values, layer, site, scale, task=label)]


def _where(path: Path, fields: Mapping[str, Any]) -> tuple[int, StreamSite]:
    """Layer and site, from a number and a type of hook, or from a hook's full name."""
    layer, hook = fields.get("layerNumber"), fields.get("hookType")
    if layer is None and (found := HOOK_NAME.fullmatch(str(fields.get("hookName", "")))):
        layer, hook = int(found[1]), found[2]
    if hook not in [*HOOKS]:  # it may be of any type, which a dict does not look up
        raise UnsupportedError(f"a hook on the residual stream in {path}: {' or '.join(HOOKS)}", brief(hook))
    if type(layer) is not int or layer < 0:
        raise RecordError(f"a whole number as layerNumber in {path}", brief(layer))
    return layer, cast(StreamSite, HOOKS[hook])
