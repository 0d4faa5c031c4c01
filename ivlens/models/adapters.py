"""PEFT adapters: read from a folder, merged into their base, and compared with the unmerged adapter."""

import copy
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import MismatchError, SourceError, SourceWarning
from .export import MARK
from .finding import hub_answer, hub_folder
from .model_folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    read_object,
    refuse_pickles,
    tensor_shapes,
)
from .outside_errors import few_of, library_errors
from .precision import TOLERANCE, check_finite_weights
from .tokenizers import has_tokenizer, read_tokenizer

REMEDY = "check its base model and its files"
# A whole embedding in an adapter's file, with PEFT's infixes between module and weight.
EMBEDDING = re.compile(
    r"(embed_tokens|embed_in|wte|word_embeddings|lm_head|embed_out)"
    r"(\.(base_layer|original_module|modules_to_save|token_adapter))*\.weight$"
)


def adapter_folder(adapter: str | Path) -> Path:
    """The folder of an adapter: a local one, or that of a hub repository.

    Raises:
        SourceError: there is no adapter whose weights are safetensors.
    """
    folder, expected = Path(adapter).expanduser(), f"a PEFT adapter for a model at {adapter}"
    if not folder.exists():
        try:
            folder, _ = hub_folder(str(adapter), None)
        except Exception as error:  # of the hub, the network or the cache
            remedy = "give a folder that PEFT's save_pretrained wrote, or a hub name"
            raise SourceError(expected, f"no such folder, and {hub_answer(error)}", remedy) from error
    if not (folder / ADAPTER_CONFIG).is_file():
        whole = (folder / CONFIG).is_file()
        came = "a folder with a whole model" if whole else f"no {ADAPTER_CONFIG} there"
        raise SourceError(expected, came, "load_model(folder)" if whole else REMEDY)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        refuse_pickles(folder, expected, f"no {ADAPTER_WEIGHTS} there")
    return folder


def adapter_stack(adapter: str | Path) -> tuple[Path, ...]:
    """The folders of the adapters that an adapter consists of, in the order in which they are merged.

    Several are named in their order, as in ``A+B``; one that says that it was trained on another adapter's folder comes
    after that one.

    Raises:
        SourceError: one of them is missing, or two were trained on each other.
    """
    folders: list[Path] = []
    for named in named_adapters(adapter):
        chain = [adapter_folder(named)]
        while (below := _trained_on(chain[0])) is not None:
            if below in chain:
                raise SourceError("an adapter that was not trained on itself", f"{below}", REMEDY)
            chain.insert(0, below)
        folders += [each for each in chain if each not in folders]
    return tuple(folders)


def named_adapters(adapter: str | Path) -> list[str]:
    """The adapters that a text names, one or several joined by plus signs, which a folder's name may have itself."""
    text = str(adapter)
    if not Path(text).expanduser().exists():
        for sign in re.finditer(r"\+", text):
            if Path(text[: sign.start()]).expanduser().is_dir():
                return [text[: sign.start()], *named_adapters(text[sign.end() :])]
    return [text]


def _trained_on(folder: Path) -> Path | None:
    """The adapter's folder that an adapter was trained on, None where that is a model or not on this machine."""
    settings = read_object(folder / ADAPTER_CONFIG, f"a PEFT adapter at {folder}")
    base = settings.get("base_model_name_or_path")
    below = Path(base).expanduser() if isinstance(base, str) and base else None
    if below is None or not (below / ADAPTER_CONFIG).is_file() or (below / CONFIG).is_file():
        return None
    return adapter_folder(below)


def adapter_tokenizer(adapter: str | Path) -> Any:
    """The tokenizer that was saved with an adapter, or with the last of several that has one; None if there is none, so
    that the base's is used."""
    found = [each for each in adapter_stack(adapter) if has_tokenizer(each)]
    return read_tokenizer(found[-1], str(found[-1])) if found else None


def recorded_base(folder: Path) -> tuple[str, str] | None:
    """SHA-256 and dtype of the base that an adapter exported by ivlens was trained on, None for other adapters."""
    path = folder / MARK
    if not path.is_file():
        return None
    facts = read_object(path, f"a readable {MARK} at {folder}")
    model, settings = facts.get("model"), facts.get("settings")
    if not isinstance(model, dict) or not isinstance(settings, dict) or "base_weights_sha256" not in settings:
        return None
    return str(settings["base_weights_sha256"]), str(model.get("dtype"))


def merged_adapter(model: PreTrainedModel, name: str, folder: Path, merged: Sequence[Path] = ()) -> PreTrainedModel:
    """The model called ``name``, changed in place, with an adapter in its weights after those that are ``merged``.

    Raises:
        SourceError: peft is not installed, or the adapter cannot be read or does not fit.
        MismatchError: merged and unmerged adapter give different logits.
    """
    peft_model = _peft_model()
    expected = f"a PEFT adapter for {name} at {folder}"
    settings = read_object(folder / ADAPTER_CONFIG, expected)
    if recorded_base(folder) is None:
        _check_base(settings, [name, model.config.name_or_path or "", *map(str, merged)], folder)
    with library_errors(expected, REMEDY):
        _resize(model, tensor_shapes({folder / ADAPTER_WEIGHTS: []}, expected), expected)
        adapted = peft_model.from_pretrained(model, str(folder))
        _check_mergeable(adapted, expected)
        loaded = adapted.load_adapter(str(folder), "default")  # again, since only this call reports what did not fit
        extra = [tensor for tensor in loaded.unexpected_keys if not _is_repeated(tensor, folder / ADAPTER_WEIGHTS)]
        if strays := [*loaded.missing_keys, *extra]:
            raise SourceError(expected, f"one whose parts do not match the model's: {few_of(strays)}", REMEDY)
        return _merged(adapted, expected)


def merged_object(source: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The Hugging Face model of a PeftModel object with its active adapters merged; the object is unchanged.

    Raises:
        SourceError: its adapters cannot be merged.
        MismatchError: merged and unmerged adapters give different logits.
    """
    expected = "a PeftModel whose adapters can be merged"
    _check_mergeable(source, expected)
    with library_errors(expected, REMEDY):
        return _merged(copy.deepcopy(source).to(dtype).eval(), expected)


def is_peft_model(source: object) -> bool:
    """Whether an object is a PeftModel, without importing peft."""
    return any(kind.__module__.startswith("peft.") and kind.__name__ == "PeftModel" for kind in type(source).__mro__)


def _peft_model() -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise SourceError(
            "peft, to merge an adapter", "no such package", "run: pip install 'ivlens[adapters]'"
        ) from error
    return PeftModel


def _check_base(settings: dict[str, Any], names: Sequence[str], folder: Path) -> None:
    """Warn where the adapter names another base than these; of folders and hub names only the last part is compared."""
    trained_on = settings.get("base_model_name_or_path")
    ours = {Path(str(each)).name.lower() for each in names if each}
    if isinstance(trained_on, str) and trained_on and ours and Path(trained_on).name.lower() not in ours:
        warnings.warn(
            f"the adapter at {folder} was trained on {trained_on:.100}, and is merged into {names[0]}",
            SourceWarning,
            stacklevel=4,
        )


def _resize(model: PreTrainedModel, shapes: dict[str, tuple[int, ...]], expected: str) -> None:
    """Resize the model's embeddings where the adapter holds whole embeddings of another number of tokens."""
    found = [(match[1], shape[0]) for name, shape in shapes.items() if (match := EMBEDDING.search(name))]
    rows, n_tokens = dict(found), model.config.vocab_size
    sizes = {size for _, size in found}
    if sizes <= {n_tokens}:
        return
    if len(sizes) > 1 or len(rows) < (1 if model.config.tie_word_embeddings else 2):
        came = ", ".join(f"{module} of {size}" for module, size in sorted(rows.items()))
        raise SourceError(expected, f"{came} tokens where the model has {n_tokens}", "save both embeddings with it")
    model.resize_token_embeddings(sizes.pop(), mean_resizing=False)


def _is_repeated(tensor: str, file: Path) -> bool:
    """Whether a tensor is a second copy under its plain name, as PEFT writes resized embeddings."""
    plain = tensor.replace(".modules_to_save.", ".")
    with safe_open(file, "pt") as tensors:
        names = set(tensors.keys())
        return (
            plain != tensor
            and {plain, tensor} <= names
            and torch.equal(tensors.get_tensor(plain), tensors.get_tensor(tensor))
        )


def _check_mergeable(adapted: Any, expected: str) -> None:
    if not hasattr(adapted, "merge_and_unload"):
        kind = str(adapted.active_peft_config.peft_type).rpartition(".")[2]
        raise SourceError(expected, f"one of type {kind}", "only adapters of weights merge")


def _merged(adapted: Any, expected: str) -> PreTrainedModel:
    """The base of a PeftModel with its active adapters merged, checked against the unmerged model."""
    check_finite_weights(adapted.state_dict(), expected)
    adapted.eval()
    unmerged = logits_all_over(adapted)
    _unshare(adapted.get_base_model())
    merged = adapted.merge_and_unload()
    difference = (logits_all_over(merged) - unmerged).abs().max().item()
    allowed = TOLERANCE[merged.dtype] * max(1.0, unmerged.abs().max().item())
    if not difference <= allowed:
        raise MismatchError(
            f"an adapter whose merge is what it does unmerged, logits within {allowed:.1e}",
            f"a difference of {difference:.1e}",
            "merge it yourself and give the merged model",
        )
    return merged.eval()


def _unshare(model: PreTrainedModel) -> None:
    """Give every module its own weights: merging into a shared weight would change the other module.

    Tied embeddings stay tied unless one of them has an adapter.
    """
    owners: dict[Tensor, list[tuple[torch.nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(parameter, []).append((module, name))
    embeddings, tied = {model.get_input_embeddings(), model.get_output_embeddings()}, False
    for shared, uses in owners.items():
        if {module for module, _ in uses} == embeddings:
            tied = True
            continue
        for module, name in uses[1:]:
            setattr(module, name, torch.nn.Parameter(shared.detach().clone(), requires_grad=False))
    model.config.tie_word_embeddings = bool(model.config.tie_word_embeddings and tied)


@torch.no_grad()
def logits_all_over(model: Any) -> Float[Tensor, "batch pos vocab"]:
    """Logits in float64 on tokens from the whole vocabulary."""
    count = min(32, getattr(model.config, "max_position_embeddings", 32))
    tokens = torch.linspace(0, model.config.vocab_size - 1, count, device=model.device).long()[None]
    return model(tokens).logits.double()
