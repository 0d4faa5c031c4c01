"""What exports need of a ``Bridge``: its weights by their names in Hugging Face, and its own way of writing itself."""

import copy
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from ...errors import ArgumentError
from ..export import model_writer
from ..hugging_face_layout import (
    WeightLayout,
    hugging_face_config,
    hugging_face_state,
    layer_path,
    weight_layout,
    written_parts,
)
from ..lora import weight_names
from ..outside_errors import without_bars
from ..part_weights import REST, WeightPart, weight_parts
from .model import Bridge

INSIDE = "hugging_face."  # before the names of the model's own weights


@weight_layout.register(Bridge)
def _weight_layout(model: Bridge) -> dict[str, WeightLayout]:
    parts, linear = weight_parts(model), {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":  # of transformers, as GPT-2 has it
            linear[f"{path}.weight"] = not isinstance(module, nn.Linear)
    return {
        name.removeprefix(INSIDE): WeightLayout(part, part != REST and name in linear, linear.get(name, False))
        for name, part in parts.items()
    }


@hugging_face_state.register(Bridge)
def _hugging_face_state(model: Bridge) -> dict[str, Tensor]:
    return {name.removeprefix(INSIDE): attrgetter(name)(model).detach() for name in weight_names(model)}


@layer_path.register(Bridge)
def _layer_path(model: Bridge, layer: int) -> str:
    module = model.decoder.layers[layer].module
    return next(path for path, each in model.hugging_face.base_model.named_modules() if each is module)


@hugging_face_config.register(Bridge)
def _hugging_face_config(model: Bridge) -> Any:
    return copy.deepcopy(model.hugging_face.config)


@written_parts.register(Bridge)
def _written_parts(model: Bridge) -> dict[str, WeightPart]:
    by_part: dict[WeightPart, dict[str, Tensor]] = {}
    for name, each in weight_layout(model).items():
        by_part.setdefault(each.part, {})[name] = attrgetter(f"{INSIDE}{name}")(model).to("meta")
    return {
        name: part for part, weights in by_part.items()
        for name in revert_weight_conversion(model.hugging_face, weights)
    }  # fmt: skip


@model_writer.register(Bridge)
def _model_writer(model: Bridge) -> Callable[[Path], None]:
    if model.cfg.to_dict()["adapters"]:
        do = "merge_and_unload() gives a model with them in its weights"
        raise ArgumentError("a model without adapters on it", "one with PEFT's", do)

    def write(unfinished: Path) -> None:
        with without_bars():
            model.hugging_face.save_pretrained(unfinished)

    return write
