"""Sources of weights: a name, folder, file or object -> a Hugging Face causal language model and its tokenizer."""

import copy
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..errors import SourceError
from . import packaged
from .families import family_of

REMEDY = (
    "give the packaged default 'smollm2', a Hugging Face hub name, a local Hugging Face folder, a .gguf file, "
    "or a model object"
)


@dataclass(frozen=True)
class Source:
    """A loaded Hugging Face model, its tokenizer, and what they were loaded from."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    revision: str | None


def open_source(source: str | Path | PreTrainedModel, dtype: torch.dtype, revision: str | None, tokenizer: Any) -> Source:
    """Load the Hugging Face model and tokenizer behind ``source``.

    Raises:
        SourceError: nothing loadable is there.
        UnsupportedError: the model's family is not represented.
        DownloadError: the packaged default could not be fetched.
    """
    if isinstance(source, PreTrainedModel):
        family_of(source.config)
        tokenizer = tokenizer or _tokenizer_of(source)
        return Source(copy.deepcopy(source).to(dtype).eval(), tokenizer, f"{type(source).__name__} object", None)
    if not isinstance(source, (str, Path)):
        raise SourceError("a model source", f"a {type(source).__name__}", REMEDY)
    if str(source) == packaged.NAME:
        return _from_pretrained(packaged.packaged_folder(convert_gguf), packaged.NAME, dtype, None, tokenizer)
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
        raise SourceError("peft, to merge an adapter", "no such package", "run: pip install 'ivlens[adapters]'") from error
    try:
        merged = PeftModel.from_pretrained(source.model, str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise SourceError(
            f"a PEFT adapter for {source.name} at {adapter}", _first_line(error), "check its base model and its files"
        ) from error
    return Source(merged.eval(), source.tokenizer, source.name, source.revision)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder of float32 safetensors."""
    source = _from_gguf(gguf, torch.float32, None)
    with _quietly():
        source.model.save_pretrained(folder)
        source.tokenizer.save_pretrained(folder)


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
    with _reading(path):
        family_of(AutoConfig.from_pretrained(path.parent, gguf_file=path.name))
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return Source(_unquantised(model).eval(), tokenizer, path.name, None)


def _unquantised(model: PreTrainedModel) -> PreTrainedModel:
    """Drop the marks of GGUF's quantiser: the weights are plain floats now, and marked ones cannot be saved."""
    for mark in ("hf_quantizer", "quantization_method"):
        if hasattr(model, mark):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    return model


def _from_pretrained(where: str | Path, name: str, dtype: torch.dtype, revision: str | None, tokenizer: Any) -> Source:
    with _reading(name):
        config = AutoConfig.from_pretrained(where, revision=revision)
        family_of(config)
        model = AutoModelForCausalLM.from_pretrained(where, revision=revision, dtype=dtype)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(where, revision=revision)
    return Source(model.eval(), tokenizer, name, getattr(config, "_commit_hash", None) or revision)


def _tokenizer_of(model: PreTrainedModel) -> Any:
    """The tokenizer of a model object that remembers where it was loaded from."""
    where = model.config.name_or_path
    missing = "the model object does not say where its tokenizer is"
    if not where:
        raise SourceError("a tokenizer for the model object", missing, "pass load_model(model, tokenizer=...)")
    with _reading(where):
        return AutoTokenizer.from_pretrained(where)


@contextmanager
def _reading(name: str | Path) -> Iterator[None]:
    """Turn transformers' many ways of failing to read a model into one error."""
    try:
        with _quietly():
            yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise SourceError(f"a readable model at {name!s}", _first_line(error), REMEDY) from error


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
