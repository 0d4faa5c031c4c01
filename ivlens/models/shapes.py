"""The shape of a model from its config alone, before anything of it is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ..errors import ArgumentError, few
from .model_folder import CONFIG
from .packaged import PACKAGED


def config_file(source: str | Path, revision: str | None = None) -> Path | None:
    """The config of a local or cached model, or of the model in a run's folder; None if there is none."""
    try:
        local, packaged = Path(source).expanduser(), PACKAGED.get(str(source))
        folder = packaged.folder if packaged is not None and not local.exists() else local
        for path in (folder / CONFIG, folder / "model" / CONFIG):
            if path.is_file():
                return path
        cached = try_to_load_from_cache(str(source), CONFIG, revision=revision)
        return Path(cached) if isinstance(cached, str) else None
    except (OSError, ValueError):  # no name of a file or of the hub
        return None


def model_shape(source: Any, revision: str | None = None) -> tuple[int, int] | None:
    """Layers and heads per layer from the config of a local or cached model; None if it cannot be read."""
    path = config_file(source, revision) if isinstance(source, (str, Path)) else None
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    except (OSError, ValueError, KeyError, TypeError):  # loading the model reports what is wrong
        return None


def check_shapes(base: Any, checkpoints: Mapping[str, Any], *, all_of_them: bool = True) -> None:
    """Raise ArgumentError for checkpoints whose configs say other numbers of layers or heads than the base's.

    Args:
        base: a model's name or path; nothing is known of a model object.
        checkpoints: the same, by their names.
        all_of_them: whether each has to have the base's shape, or one is enough.
    """
    shapes = {name: model_shape(source) for name, source in checkpoints.items()}
    expected = model_shape(base)
    other = {name: shape for name, shape in shapes.items() if shape not in (None, expected)}
    if expected and other and (all_of_them or len(other) == len(shapes)):
        came = few(f"{name:.30} with {shape[0]} and {shape[1]}" for name, shape in other.items() if shape)
        raise ArgumentError(
            f"checkpoints of {base}, which has {expected[0]} layers and {expected[1]} heads in each", came,
            "name the base that they were trained from",
        )  # fmt: skip
