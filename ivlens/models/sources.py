"""Sources of weights: a name, folder, file or object -> a Hugging Face causal language model and its tokenizer."""

import copy
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import cached_file, extract_commit_hash
from transformers.utils import logging as transformers_logging

from ..errors import ArgumentError, IvlensError, SourceError
from .families import family_of, hooked_config
from .gguf import GgufFile, check_metadata, check_tensors, complete_config, complete_tokenizer
from .packaged import PACKAGED, packaged_folder

REMEDY = (
    "give the packaged default 'smollm2', a Hugging Face hub name, a local Hugging Face folder, a .gguf file, "
    "a model object, or the other packaged model, 'gemma3-270m'"
)


@dataclass(frozen=True)
class Source:
    """A loaded Hugging Face model, its tokenizer, and what they were loaded from."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    revision: str | None


def open_source(
    source: str | Path | PreTrainedModel, dtype: torch.dtype, revision: str | None, tokenizer: Any
) -> Source:
    """Load the Hugging Face model and tokenizer behind ``source``.

    Raises:
        SourceError: nothing loadable is there.
        UnsupportedError: the model's family is not represented.
        DownloadError: a packaged model could not be fetched.
    """
    if isinstance(source, PreTrainedModel):
        family_of(source.config)
        tokenizer = tokenizer or _tokenizer_of(source)
        return Source(_copied(source, dtype), tokenizer, f"{type(source).__name__} object", None)
    if not isinstance(source, (str, Path)):
        raise SourceError("a model source", f"a {type(source).__name__}", REMEDY)
    if revision is not None and (str(source) in PACKAGED or Path(source).expanduser().exists()):
        raise ArgumentError("a revision only with a hub name", f"revision {revision!r} with {source}")
    if model := PACKAGED.get(str(source)):
        return _from_pretrained(packaged_folder(model, convert_gguf), model.name, dtype, None, tokenizer)
    path = Path(source).expanduser()
    if path.suffix.lower() == ".gguf":
        return _from_gguf(path, dtype, tokenizer)
    if path.is_dir():
        return _from_folder(path, dtype, tokenizer)
    if path.exists():
        raise SourceError("a folder or a .gguf file", f"the file {path}", REMEDY)
    return _from_pretrained(str(source), str(source), dtype, revision, tokenizer)


def merge_adapter(source: Source, adapter: str | Path) -> Source:
    """Merge a PEFT adapter folder into the source's weights.

    Raises:
        SourceError: peft is not installed, or the adapter cannot be read or does not fit.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise SourceError(
            "peft, to merge an adapter", "no such package", "run: pip install 'ivlens[adapters]'"
        ) from error
    expected, remedy = f"a PEFT adapter for {source.name} at {adapter}", "check its base model and its files"
    with _reading(expected, remedy):
        adapted = PeftModel.from_pretrained(source.model, str(adapter))
        loaded = adapted.load_adapter(str(adapter), "default")  # once more, since only this says what did not fit
        if strays := [*loaded.missing_keys, *loaded.unexpected_keys]:
            raise SourceError(expected, f"one whose parts do not match the model's: {_some(strays)}", remedy)
        merged = adapted.merge_and_unload()
    return Source(merged.eval(), source.tokenizer, source.name, source.revision)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder of float32 safetensors.

    Raises:
        OSError: the folder cannot be written.
        IvlensError: the file cannot be read.
    """
    source = _from_gguf(gguf, torch.float32, None)
    try:
        with _quietly():
            source.model.save_pretrained(folder)
            source.tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # safetensors and tokenizers raise their own on a full disk
        raise OSError(_first_line(error)) from error


def _from_folder(folder: Path, dtype: torch.dtype, tokenizer: Any) -> Source:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise SourceError(
            "a folder with a whole model", f"{folder}, which holds only an adapter", "load_model(base, adapter=folder)"
        )
    if not (folder / "config.json").is_file():
        raise SourceError("a Hugging Face model folder", f"{folder}, which has no config.json", REMEDY)
    return _from_pretrained(folder, str(folder), dtype, None, tokenizer)


def _from_gguf(path: Path, dtype: torch.dtype, tokenizer: Any) -> Source:
    if not path.is_file():
        raise SourceError("a GGUF file", f"{path}, which does not exist", REMEDY)
    with _reading(f"a readable model at {path}"):
        file = GgufFile(path)
        check_metadata(file)
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        family_of(config)
        complete_config(file, config)
        hooked_config(config)
        check_tensors(file, config)
        model = _whole(path.parent, path.name, gguf_file=path.name, dtype=dtype, config=config)
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            complete_tokenizer(file.metadata, tokenizer, path.name)
    return Source(_unquantised(model).eval(), tokenizer, path.name, None)


def _unquantised(model: PreTrainedModel) -> PreTrainedModel:
    """Drop the marks of GGUF's quantiser: the weights are plain floats now, and marked ones cannot be saved."""
    for mark in ("hf_quantizer", "quantization_method"):
        if hasattr(model, mark):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False  # type: ignore[assignment]
    return model


def _from_pretrained(where: str | Path, name: str, dtype: torch.dtype, revision: str | None, tokenizer: Any) -> Source:
    with _reading(f"a readable model at {name}"):
        revision = extract_commit_hash(cached_file(where, "config.json", revision=revision), None) or revision
        family_of(AutoConfig.from_pretrained(where, revision=revision))
        model = _whole(where, name, revision=revision, dtype=dtype)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(where, revision=revision)
    return Source(model.eval(), tokenizer, name, revision)


def _whole(where: str | Path, name: str, **options: Any) -> PreTrainedModel:
    """Load a model, refusing one that transformers would complete with random weights."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(where, output_loading_info=True, **options)
    model, report = loaded
    if report["missing_keys"]:
        raise SourceError(f"weights for every part of {name}", f"none for {_some(report['missing_keys'])}", REMEDY)
    return model


def _copied(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A model of the same config and weights; casting a model instead would keep rotary frequencies once rounded."""
    with _reading(f"a causal language model, not a {type(model).__name__}"), no_init_weights():
        fresh = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=dtype)
        fresh.load_state_dict(model.state_dict())
        fresh.tie_weights()
    return fresh.eval()


def _tokenizer_of(model: PreTrainedModel) -> Any:
    """The tokenizer of a model object that remembers where it was loaded from."""
    where = model.config.name_or_path
    missing = "the model object does not say where its tokenizer is"
    if not where:
        raise SourceError("a tokenizer for the model object", missing, "pass load_model(model, tokenizer=...)")
    with _reading(f"a readable tokenizer at {where}"):
        return AutoTokenizer.from_pretrained(where)


@contextmanager
def _reading(expected: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn the many ways in which transformers and peft fail to read something into one error."""
    try:
        with _quietly():
            yield
    except IvlensError:
        raise
    except Exception as error:
        raise SourceError(expected, _first_line(error), remedy) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers' short bars to ourselves; the long one, of GGUF, is shown at a terminal."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
