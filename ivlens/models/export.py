"""Models back to Hugging Face: a folder for plain transformers, or LoRA's updates as a PEFT adapter.

A folder is built beside its target and renamed when it is complete; it replaces only an earlier export.
"""

import copy
import json
from collections.abc import Callable, Collection, Mapping
from functools import singledispatch
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..checks import checked
from ..errors import ArgumentError, MismatchError, RecordError, UnsupportedError, reason
from ..files import atomic_folder
from .engines import HookedTransformer, Model
from .facts import model_facts, provenance, weights_sha256
from .families import Family, family_of
from .lora import has_lora, lora_factors, lora_off, updates_in_use, weight_names
from .naming import Naming, hugging_face_weights, rounded_norms, skipped_positions

MARK = "ivlens.json"
LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "lora_dropout": 0.0, "bias": "none",
}  # fmt: skip


def remember_origin(model: HookedTransformer, hugging_face: PreTrainedModel) -> None:
    """Attach what an export needs besides the weights: both configs, and what the conversion rounded or dropped."""
    made: Any = model
    made.ivlens_config = copy.deepcopy(hugging_face.config)
    made.ivlens_generation_config = copy.deepcopy(hugging_face.generation_config)
    naming, theirs = family_of(made.ivlens_config).naming, hugging_face.state_dict()
    made.ivlens_rounded = rounded_norms(model, naming, theirs)
    made.ivlens_skipped = skipped_positions(naming, theirs)


def trainable_names(model: HookedTransformer) -> list[str]:
    """Names, without LoRA's renaming, of the family's parameters in Hugging Face; all for an unknown family."""
    names, config = weight_names(model), getattr(model, "ivlens_config", None)
    if config is None:
        return names
    known = family_of(config).naming.names(model.cfg)
    return [name for name in names if name in known]


def export_bytes(model: HookedTransformer, trained: Collection[str] = ()) -> int:
    """Bytes of the weights that ``export_hf`` will write.

    Args:
        model: a model that ``load_model`` made.
        trained: names of the weights that will have changed; a tied unembedding among them is no longer tied.
    """
    family, config = _origin(model)
    unembedding = "unembed.W_U"
    tied = config.tie_word_embeddings and unembedding not in trained and family.naming.ties(model)
    weights = (attrgetter(name)(model) for name in trainable_names(model) if not (tied and name == unembedding))
    return sum(weight.numel() * weight.element_size() for weight in weights)


@checked
def export_hf(model: Model, folder: str | Path) -> Path:
    """Write the model as a Hugging Face folder, tokenizer and provenance (``ivlens.json``) included.

    Args:
        model: a model that ``load_model`` made; changed weights are written as they are.
        folder: a new or empty folder, or an earlier export, which is replaced as a whole.

    Returns:
        The folder, which plain transformers loads.

    Raises:
        UnsupportedError: ``load_model`` did not make the model, or its weights were processed.
        ArgumentError: LoRA, or an adapter of PEFT, is on the model.
        MismatchError: a bias that the family does not have is no longer zero.
        RecordError: the folder cannot be written, or holds something other than an earlier export.

    Example:
        >>> folder = iv.export_hf(model, tmp_path / "exported")
        >>> (folder / "config.json").is_file()
        True
    """
    return write_export(model, folder, model_writer(model), {})


def write_export(
    model: Model, folder: str | Path, write_model: Callable[[Path], None], settings: Mapping[str, Any]
) -> Path:
    """Write a folder with what ``write_model`` writes, the tokenizer, and the provenance with ``settings``.

    Raises:
        RecordError: see ``export_hf``.
    """

    def write(unfinished: Path) -> None:
        write_model(unfinished)
        _save_tokenizer(model.tokenizer, unfinished)
        _mark(unfinished, provenance(model, **settings))

    return _write_folder(folder, write)


@singledispatch
def model_writer(model: Any) -> Callable[[Path], None]:
    """A function that writes configs and weights into a folder, once the model is known to be exportable."""
    family, config = _origin(model)
    if has_lora(model):
        raise ArgumentError(
            "a model without LoRA", "one that has it", "call merge_lora(model) first, or export_adapter"
        )
    _check_invented(model, config)
    tied = bool(config.tie_word_embeddings and family.naming.ties(model))
    config.architectures, config.dtype, config.tie_word_embeddings = [family.architecture], model.W_E.dtype, tied
    generation_config: Any = model.ivlens_generation_config

    def write(unfinished: Path) -> None:
        (unfinished / "config.json").write_text(config.to_json_string(), encoding="utf-8")
        (unfinished / "generation_config.json").write_text(generation_config.to_json_string(), encoding="utf-8")
        weights = _as_they_were(model, hugging_face_weights(model, family.naming, tied=tied))
        save_file(weights, unfinished / "model.safetensors", metadata={"format": "pt"})

    return write


@checked
def export_adapter(model: HookedTransformer, folder: str | Path) -> Path:
    """Write LoRA's updates as a PEFT adapter folder, provenance included.

    Args:
        model: a model that ``load_model`` made, with LoRA on it (``fine_tune`` with ``LoRA``).
        folder: a new or empty folder, or an earlier export, which is replaced as a whole.

    Returns:
        The folder, which PEFT loads.

    Raises:
        UnsupportedError: ``load_model`` did not make the model, or its weights were processed.
        ArgumentError: no LoRA is on the model, or it is switched off.
        RecordError: the folder cannot be written, or holds something other than an earlier export.

    Example:
        >>> from ivlens.models import add_lora
        >>> add_lora(model, rank=2, alpha=4.0, targets=("W_Q",), layers=None, seed=0)
        >>> (iv.export_adapter(model, tmp_path / "adapter") / "adapter_config.json").is_file()
        True
        >>> iv.merge_lora(model)
    """
    family, config = _origin(model)
    settings, tensors = _adapter_of(model, family.naming)
    settings["base_model_name_or_path"] = config.name_or_path or None
    with lora_off(model):
        base = weights_sha256(model)
    return write_adapter(folder, settings, tensors, provenance(model, base_weights_sha256=base))


def write_adapter(
    folder: str | Path, settings: Mapping[str, Any], tensors: dict[str, Tensor], facts: dict[str, Any]
) -> Path:
    """Write PEFT's settings and tensors, and the ``facts`` of their provenance, as an adapter folder.

    Raises:
        RecordError: see ``export_adapter``.
    """

    def write(unfinished: Path) -> None:
        (unfinished / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        save_file(tensors, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
        _mark(unfinished, facts)

    return _write_folder(folder, write)


def _origin(model: HookedTransformer) -> tuple[Family, Any]:
    """The family and a copy of the Hugging Face config of a model that ``load_model`` made."""
    processing = model_facts(model)["processing"]
    if not hasattr(model, "ivlens_config") or processing != "none":
        raise UnsupportedError(
            "a model made by load_model, weights unprocessed",
            f"one with processing {processing!r}",
            "load it with load_model from its Hugging Face source",
        )
    return family_of(model.ivlens_config), copy.deepcopy(model.ivlens_config)


def _check_invented(model: HookedTransformer, config: Any) -> None:
    """Raise unless all parameters that the family lacks in Hugging Face are neutral: gains of one, biases of zero."""
    invented = set(weight_names(model)) - set(trainable_names(model))
    used = [name for name in sorted(invented) if (attrgetter(name)(model) != name.endswith(".w")).any()]
    if used:
        raise MismatchError(
            f"zeros, or gains of one, where a {config.model_type} model has no parameter",
            f"other values in {', '.join(used)}",
            "train only trainable_names(model)",
        )


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the tokenizers package has no narrower class for a full disk
        raise OSError(str(error)) from error


def _as_they_were(model: HookedTransformer, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with original values where only the conversion rounded them, and with the rows that it dropped."""
    rounded: dict[str, tuple[Tensor, Tensor]] = model.ivlens_rounded  # type: ignore[assignment]
    same = {
        name: exact for name, (back, exact) in rounded.items() if torch.equal(weights[name], back.to(weights[name]))
    }
    skipped: dict[str, Tensor] = model.ivlens_skipped  # type: ignore[assignment]
    whole = {name: torch.cat([rows.to(weights[name]), weights[name]]) for name, rows in skipped.items()}
    return weights | whole | {name: exact.to(weights[name]) for name, exact in same.items()}


def _adapter_of(model: HookedTransformer, naming: Naming) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's settings and tensors for a model's updates; projections in one layer become one update of joined rank."""
    updates, factors = updates_in_use(model), lora_factors(model)
    layers = sorted({layer for layer, _ in factors})
    counts, tensors = {}, {}
    for module, held in naming.projections().items():
        for layer in layers:
            pairs = [factors.get((layer, target)) for target in held]
            if any(pairs):
                path = f"base_model.model.{naming.stem}{layer}.{module}"
                counts[module] = sum(pair is not None for pair in pairs)
                tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = naming.joined(
                    held, pairs, model.cfg
                )
    settings = LORA | {
        "r": updates.rank,
        "lora_alpha": updates.alpha,
        "fan_in_fan_out": naming.conv1d,
        "target_modules": list(counts),
        "layers_to_transform": None if len(layers) == model.cfg.n_layers else layers,
        "rank_pattern": {module: updates.rank * count for module, count in counts.items() if count > 1},
        "alpha_pattern": {module: updates.alpha * count for module, count in counts.items() if count > 1},
    }
    return settings, tensors


def _mark(unfinished: Path, facts: dict[str, Any]) -> None:
    """Add provenance and a list of the files, which marks the folder as an export."""
    files = sorted([MARK, *(path.name for path in unfinished.iterdir())])
    (unfinished / MARK).write_text(json.dumps(facts | {"files": files}, indent=2), encoding="utf-8")
    for name in files:  # safetensors makes its file readable by its owner only
        (unfinished / name).chmod((unfinished / MARK).stat().st_mode)


def _write_folder(folder: str | Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill the folder, atomically, replacing an earlier export."""
    target = Path(folder).expanduser().resolve()
    try:
        _check_replaceable(target)
        with atomic_folder(target) as unfinished:
            write(unfinished)
    except (OSError, SafetensorError) as error:
        do = "choose a folder on a disk with room"
        raise RecordError(f"to write the folder {folder}", reason(error), do) from error
    return Path(folder)


def check_export(folder: Path) -> None:
    """Raise RecordError unless an export may be written to the folder: new, empty, or an earlier one."""
    try:
        _check_replaceable(folder.expanduser().resolve())
    except OSError as error:
        raise RecordError(f"to write the folder {folder}", reason(error), "choose another folder") from error


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    there = sorted(path.name for path in target.iterdir())
    try:
        files = json.loads((target / MARK).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        files = []
    if strays := [name for name in there if name not in files]:
        raise RecordError(
            f"a new or empty folder, or an earlier export, at {target}",
            f"one that holds {', '.join(strays[:3])}",
            "choose another folder",
        )
