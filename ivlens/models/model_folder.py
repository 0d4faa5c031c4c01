"""Checks of a model's folder before it is loaded: its config, its tensors, and the other files.

Nothing here runs a folder's code, opens a pickle, or allocates memory by a config's sizes: names and shapes of tensors
come from the headers of the safetensors files.
"""

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors import safe_open

from ..errors import SourceError, SourceWarning, UnsupportedError
from .families import family_of
from .outside_errors import REMEDY, few_of, library_errors

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = (
    "convert to safetensors where you trust the file: load it with the library that wrote it and call "
    "save_pretrained(folder), which writes safetensors"
)
# Names in a config of what becomes a number of modules, a width of tensors, a number of positions.
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
WIDTHS = (
    "hidden_size", "n_embd", "intermediate_size", "ffn_dim", "n_inner", "vocab_size", "head_dim", "rotary_dim",
    "num_attention_heads", "n_head", "num_heads", "num_key_value_heads", "word_embed_proj_dim",
)  # fmt: skip
POSITIONS = ("max_position_embeddings", "n_positions", "seq_length")
MOST_POSITIONS = 1 << 22  # of computed positions; learned ones are bounded by their tensor
MOST_LAYERS = 10_000  # where no tensors tell the number


def check_model_folder(folder: Path, name: str, *, any_family: bool = False) -> None:
    """Raise unless the folder holds one model whose tensors are in safetensors files and fit the config's sizes.

    Raises:
        SourceError: files are missing, damaged, pickles, or of more than one model.
        UnsupportedError: the family is not represented, or the weights are quantised.
    """
    config = read_config(folder, name)
    if not isinstance(model_type := config.get("model_type"), str):
        raise SourceError(f"a readable model at {name}, its {CONFIG} with a model_type", f"{model_type!r:.60}", REMEDY)
    family = None if any_family else family_of(SimpleNamespace(model_type=model_type[:60]))
    _check_switches(config, name)
    check_alone(folder, name)
    shapes = tensor_shapes(_weight_files(folder, name), f"a readable model at {name}")
    widest = max((size for shape in shapes.values() for size in shape), default=0)
    positions = widest if family is not None and "pos_embed.W_pos" in family.naming.outer else MOST_POSITIONS
    limits = dict.fromkeys(LAYERS, len(shapes)) | dict.fromkeys(WIDTHS, widest) | dict.fromkeys(POSITIONS, positions)
    _check_sizes(config, limits, name)


def check_alone(folder: Path, name: str) -> None:
    """Raise SourceError where adapter files lie beside a model, since transformers would add the adapter unmerged."""
    if (folder / ADAPTER_CONFIG).is_file():
        raise SourceError(
            "a folder with one model",
            f"{name}, a whole model and an adapter in one folder",
            f"move {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} to a folder of their own; then load_model(folder) for the "
            "model, or load_model(folder, adapter=...) where the adapter is not merged into it",
        )


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The config of a model's folder.

    Raises:
        SourceError: there is none, it cannot be read, or the folder holds an adapter alone.
    """
    if (folder / CONFIG).is_file():
        return read_object(folder / CONFIG, f"a readable model at {name}, an object in its {CONFIG}")
    if (folder / ADAPTER_CONFIG).is_file():
        raise SourceError(
            "a folder with a whole model", f"{name}, which holds only an adapter", "load_model(base, adapter=folder)"
        )
    do = REMEDY
    if (folder / "model" / CONFIG).is_file():
        do = f"give {os.path.join(name, 'model')!r}, where the model of this run is"
    elif (folder / "adapter" / ADAPTER_CONFIG).is_file():
        do = f"give its base, and the adapter {os.path.join(name, 'adapter')!r}: load_model(base, adapter=folder)"
    raise SourceError("a Hugging Face model folder", f"{name}, which has no config.json", do)


def check_config(folder: Path, name: str) -> None:
    """Raise SourceError where a folder's config, which loading a tokenizer needs, is unreadable or absurd."""
    if (folder / CONFIG).is_file():
        _check_sizes(read_config(folder, name), dict.fromkeys(LAYERS, MOST_LAYERS), name)


def tensor_shapes(files: Mapping[Path, list[str]], expected: str) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in safetensors files, by name; ``files`` maps each file to the tensors that it must hold.

    Raises:
        SourceError: a file is damaged, a tensor is missing or in two files.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path, promised in files.items():
        with library_errors(f"{expected}, {path.name}"), safe_open(path, "pt") as tensors:
            found = {each: tuple(tensors.get_slice(each).get_shape()) for each in tensors.keys()}  # noqa: SIM118
        if twice := shapes.keys() & found.keys():
            raise SourceError(f"{expected}, every tensor once", f"{few_of(twice)} in two files", REMEDY)
        if missing := set(promised) - found.keys():
            raise SourceError(f"{expected}, what {INDEX} lists", f"no {few_of(missing)} in {path.name}", REMEDY)
        shapes |= found
    return shapes


def stored_dtype(folder: Path, name: str) -> str | None:
    """The one dtype of all floating-point tensors of a checked folder, as safetensors writes it; None for several."""
    found: set[str] = set()
    for path in _weight_files(folder, name):
        with safe_open(path, "pt") as tensors:
            found |= {tensors.get_slice(each).get_dtype() for each in tensors.keys()}  # noqa: SIM118
    floating = {each for each in found if "F" in each}
    return floating.pop() if len(floating) == 1 else None


def read_object(path: Path, expected: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        SourceError: it cannot be read, or is not an object.
    """
    with library_errors(expected):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise SourceError(expected, f"a {type(value).__name__} in {path.name}", REMEDY)
    return value


def refuse_pickles(folder: Path, expected: str, otherwise: str) -> None:
    """Raise SourceError for a folder without safetensors, naming its pickles or what it has instead."""
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES and path.name != "training_args.bin"]
    if pickles:
        raise SourceError(expected, f"{few_of(pickles)}, which can run code and is never opened", CONVERT)
    raise SourceError(expected, otherwise, REMEDY)


def _check_switches(config: Mapping[str, Any], name: str) -> None:
    """Refuse config entries that make transformers read or run anything but the folder's plain weights."""
    if config.get("quantization_config"):
        raise UnsupportedError(
            "weights that are not quantised", f"a quantization_config in {name}", "give the weights it was made of"
        )
    for switch in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(switch)):
            raise UnsupportedError("attention of transformers' own", f"{switch} {config[switch]!r:.60} in {name}")
    if config.get("transformers_weights") not in (None, WEIGHTS, INDEX):
        raise UnsupportedError(f"weights in {WEIGHTS} or {INDEX}", f"transformers_weights in the config of {name}")
    if config.get("auto_map"):
        warnings.warn(
            f"{name} names Python code of its own, which is never run; it is read as a plain {config['model_type']}",
            SourceWarning,
            stacklevel=2,
        )


def _weight_files(folder: Path, name: str) -> dict[Path, list[str]]:
    """The files that transformers will read, each with the tensors that the index lists for it."""
    whole, index = folder / WEIGHTS, folder / INDEX
    expected = f"a readable model at {name}, its weights as safetensors"
    if any(re.match(r"shard-\d+-model-\d+-of-\d+\.safetensors", path.name) for path in folder.iterdir()):
        raise SourceError(expected, "a distributed checkpoint", "save the model with save_pretrained(folder)")
    if whole.is_file():
        if index.is_file():
            warnings.warn(f"{name}: {WEIGHTS} is read, {INDEX} is not", SourceWarning, stacklevel=2)
        return {whole: []}
    if not index.is_file():
        refuse_pickles(folder, expected, f"no {WEIGHTS}")
    shards: dict[Path, list[str]] = {}
    listed = read_object(index, expected).get("weight_map")
    for tensor, file in (listed if isinstance(listed, dict) else {}).items():
        if not isinstance(file, str) or Path(file).name != file or Path(file).suffix != ".safetensors":
            raise SourceError(expected, f"{file!r:.60} as a file's name in {INDEX}", REMEDY)
        shards.setdefault(folder / file, []).append(tensor)
    if not shards or (absent := [path.name for path in shards if not path.is_file()]):
        raise SourceError(expected, f"no {few_of(absent)}" if shards else f"no files in {INDEX}", REMEDY)
    return shards


def _check_sizes(config: Mapping[str, Any], limits: Mapping[str, int], name: str) -> None:
    """Raise where a config's sizes exceed what its files can hold, before anything of that size is allocated."""
    for size, most in limits.items():
        value = config.get(size)
        if isinstance(value, (int, float)) and not -1 <= value <= most:
            raise SourceError(
                f"a readable model at {name}, its config of the size of its weights",
                f"{size} {value!r:.30} where its files allow at most {most}",
                "use the config that the weights were saved with",
            )
