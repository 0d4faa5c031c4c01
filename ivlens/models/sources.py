"""Sources of weights: a name, folder, file or object -> a Hugging Face causal language model and its tokenizer."""

import copy
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.initialization import no_init_weights

from ..errors import ArgumentError, MismatchError, SourceError, UnsupportedError, reason
from .adapters import is_peft_model, logits_all_over, merged_adapter, merged_object
from .families import family_of
from .finding import hub_model, local_path
from .gguf import GgufFile, check_metadata, check_tensors, complete_config, complete_tokenizer
from .model_folder import CONFIG, check_alone, check_model_folder, stored_dtype
from .outside_errors import REMEDY, few_of, library_errors, without_bars
from .packaged import PACKAGED, packaged_folder
from .precision import TOLERANCE
from .tokenizers import PASS_ONE, has_tokenizer, read_tokenizer
from .weight_memory import copy_weights

# Buffers that older versions of transformers saved with the weights, and that are computed now.
BUFFERS = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids|attn\.embed_positions)$"
)
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # of safetensors
log = logging.getLogger("ivlens.loading")


@dataclass(frozen=True)
class Source:
    """A loaded Hugging Face model, its tokenizer, and what they were loaded from.

    ``own_tokenizer``: it was read for this model alone, so that nobody else holds it.
    """

    model: PreTrainedModel
    tokenizer: Any
    name: str
    revision: str | None
    own_tokenizer: bool = False


def open_source(
    source: Any, dtype: torch.dtype, revision: str | None, tokenizer: Any, *, any_family: bool = False
) -> Source:
    """Load the Hugging Face model and tokenizer behind ``source``, in a family that is represented or ``any_family``.

    Raises:
        SourceError: nothing loadable is there.
        UnsupportedError: the model's family is not represented.
        DownloadError: a packaged model could not be fetched.
    """
    if isinstance(source, (str, Path)):
        path, name, commit = _located(source, revision)
        if path.is_file():
            return _from_gguf(path, dtype, tokenizer)
        return _from_folder(path, name, dtype, commit, tokenizer, any_family)
    kind = type(source).__name__
    if revision is not None:
        raise ArgumentError("a revision only with a hub name", f"revision {revision!r:.60} with a {kind} object")
    if is_peft_model(source):
        base = merged_object(source, dtype)
    elif isinstance(source, PreTrainedModel):
        base = source
    else:
        raise SourceError("a model source", f"a {kind}", REMEDY)
    family_of(base.config)
    tokenizer = _tokenizer_of(base) if tokenizer is None else tokenizer
    return Source(_copied(base, dtype), tokenizer, f"{kind} object", None)


def as_it_is(source: Any, tokenizer: Any) -> Source | None:
    """A model object as it is, without a copy: Hugging Face's, the one inside PEFT's or a TransformerBridge, or None.

    Raises:
        SourceError: it does not say where its tokenizer is.
        UnsupportedError: PEFT puts more on it than its modules, or its weights are not in memory.
    """
    kind, inner = type(source).__name__, source
    if is_peft_model(source):
        if getattr(source.active_peft_config, "is_prompt_learning", False):
            raise UnsupportedError(
                "adapters in the model's modules", "prompts or prefixes that PEFT learned",
                "give the base model, or an adapter of weights such as LoRA",
            )  # fmt: skip
        inner = source.get_base_model()
    elif kind == "TransformerBridge":
        inner, tokenizer = source.original_model, source.tokenizer if tokenizer is None else tokenizer
    if not isinstance(inner, PreTrainedModel):
        return None
    if any(weight.is_meta for weight in inner.parameters()):
        raise UnsupportedError(
            "weights in memory", "some that accelerate keeps elsewhere", "load it without offloading"
        )
    return Source(inner, _tokenizer_of(inner) if tokenizer is None else tokenizer, f"{kind} object", None)


def open_tokenizer(source: Any, revision: str | None = None) -> Any:
    """The tokenizer of a source of ``load_model``, without loading weights; a tokenizer object is returned as it is.

    Raises:
        SourceError: there is none.
    """
    if isinstance(source, torch.nn.Module):
        return getattr(source, "tokenizer", None) or _tokenizer_of(source)
    if not isinstance(source, (str, Path)):
        return source
    try:
        path, name, _ = _located(source, revision, weights=False)
    except SourceError as error:
        remedy = "give a folder, a Hugging Face hub name or a .gguf file that holds one"
        raise SourceError(f"a readable tokenizer at {source!s:.200}", error.came, remedy) from error
    return _gguf_tokenizer(path) if path.is_file() else read_tokenizer(path, name, trusted=name in PACKAGED)


def lacks_tokenizer(source: Any) -> bool:
    """Whether a local folder has no tokenizer, or a model object does not say where its tokenizer is."""
    if isinstance(source, (str, Path)):
        folder = Path(source).expanduser()
        return (folder / CONFIG).is_file() and not has_tokenizer(folder)
    return getattr(source, "tokenizer", None) is None and not getattr(source, "name_or_path", None)


def merge_adapter(source: Source, folder: Path, merged: Sequence[Path]) -> Source:
    """Merge a PEFT adapter into the source's weights, after those that are ``merged``.

    Raises:
        SourceError: peft is not installed, or the adapter cannot be read or does not fit.
        MismatchError: its merge is not what it does unmerged.
    """
    return replace(source, model=merged_adapter(source.model, source.name, folder, merged))


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder of float32 safetensors.

    Raises:
        OSError: the folder cannot be written.
        IvlensError: the file cannot be read.
    """
    source = _from_gguf(gguf, torch.float32, None)
    try:
        with without_bars():
            source.model.save_pretrained(folder)
            source.tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # safetensors and tokenizers raise their own on a full disk
        raise OSError(reason(error)) from error


def _located(source: str | Path, revision: str | None, *, weights: bool = True) -> tuple[Path, str, str | None]:
    """The local folder or GGUF file that a source names, the name that records give it, and a hub name's commit.

    ``weights`` says whether a packaged model's are verified.
    """
    text, path = str(source), local_path(source)
    if revision is not None and (path is not None or text in PACKAGED):
        raise ArgumentError("a revision only with a hub name", f"revision {revision!r:.60} with {text:.200}")
    if path is not None and path.is_file():
        return path, path.name, None
    if path is not None:  # before a packaged model of that name
        return path, os.path.join(os.curdir, path) if text in PACKAGED else str(path), None
    if model := PACKAGED.get(text):
        return packaged_folder(model, convert_gguf, weights=weights), model.name, None
    folder, commit = hub_model(text, revision)
    return folder, text, commit


def _from_folder(
    folder: Path, name: str, dtype: torch.dtype, commit: str | None, tokenizer: Any, any_family: bool
) -> Source:
    check_model_folder(folder, name, any_family=any_family)
    with library_errors(f"a readable model at {name}"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "is_encoder_decoder", False):
            raise UnsupportedError(
                "a decoder", f"{config.model_type!r}, an encoder with a decoder", "give a decoder-only model"
            )
        if not any_family:
            family_of(config)
        if tokenizer is None:
            tokenizer = read_tokenizer(folder, name, trusted=name in PACKAGED)
        model = _in_dtype(folder, name, dtype)
    return Source(model.eval(), tokenizer, name, commit)


def _in_dtype(folder: Path, name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The folder's model in a dtype: mapped in the dtype of its files, and cast weight by weight where that differs.

    transformers, which would hold the whole files beside all cast weights, does it where files have several dtypes, or
    the model keeps weights in float32, tables of positions in its own dtype, or apart what its config ties.
    """
    stored = DTYPES.get(stored_dtype(folder, name) or "", dtype)
    mapped = _whole(folder, name, dtype=stored)
    if stored == dtype:
        return mapped
    model = _without_weights(mapped, dtype)
    model.tie_weights()
    tables = any(buffer.ndim and buffer.dtype == dtype != torch.float32 for buffer in model.buffers())
    alike = [each for each, _ in model.named_parameters()] == [each for each, _ in mapped.named_parameters()]
    if tables or not alike or mapped._keep_in_fp32_modules or mapped._keep_in_fp32_modules_strict:
        return _whole(folder, name, dtype=dtype)
    copy_weights(model, mapped)
    model.config.dtype = dtype
    if mapped.can_generate():
        model.generation_config = mapped.generation_config
    return model


def _from_gguf(path: Path, dtype: torch.dtype, tokenizer: Any) -> Source:
    check_alone(path.parent, str(path))
    with library_errors(f"a readable model at {path}"), _without_gguf_bar():
        file = GgufFile(path)
        check_metadata(file)
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        family = family_of(config)
        complete_config(file, config)
        family.facts(config)  # refuses what the reader of transformers drops
        check_tensors(file, config)
        model = _whole(path.parent, path.name, gguf_file=path.name, dtype=dtype, config=config)
        tokenizer = _gguf_tokenizer(path) if tokenizer is None else tokenizer
    return Source(_unquantised(model).eval(), tokenizer, path.name, None)


def _gguf_tokenizer(path: Path) -> Any:
    with library_errors(f"a readable tokenizer in {path}", PASS_ONE), _alone(path) as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, trust_remote_code=False)
        complete_tokenizer(GgufFile(path).metadata, tokenizer, path.name)
    return tokenizer


@contextmanager
def _alone(path: Path) -> Iterator[str]:
    """A folder with only a link to the file, since transformers would prefer tokenizer files beside it."""
    with tempfile.TemporaryDirectory(prefix="ivlens-gguf-") as folder:
        try:
            Path(folder, path.name).symlink_to(path.resolve())
        except OSError:  # Windows requires a privilege for such links
            Path(folder, path.name).hardlink_to(path)
        yield folder


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """Show the progress bar of reading a GGUF file only at a terminal."""
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
        yield


def _unquantised(model: PreTrainedModel) -> PreTrainedModel:
    """Remove GGUF's quantisation marks: the weights are plain floats, and marked ones cannot be saved."""
    for mark in ("hf_quantizer", "quantization_method"):
        if hasattr(model, mark):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False  # type: ignore[assignment]
    return model


def _whole(where: str | Path, name: str, **options: Any) -> PreTrainedModel:
    """Load a model; refuse it where transformers would initialise parameters at random or ignore tensors."""
    log.info("%s: reading the weights", name)
    with _without_load_report():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, output_loading_info=True, use_safetensors=True, trust_remote_code=False,
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    model, report = loaded
    if mismatched := report["mismatched_keys"]:
        sizes = [f"{tensor} of {tuple(found)} for {tuple(wanted)}" for tensor, found, wanted in mismatched]
        raise SourceError(f"a readable model at {name}, tensors of its config's shapes", few_of(sizes), REMEDY)
    if report["missing_keys"]:
        raise SourceError(f"weights for every part of {name}", f"none for {few_of(report['missing_keys'])}", REMEDY)
    if unused := [tensor for tensor in report["unexpected_keys"] if not BUFFERS.search(tensor)]:
        raise SourceError(
            f"a model with a parameter for every tensor of {name}",
            f"none for {few_of(unused)}",
            "without them it would be another model; save it with them merged (LoRA: merge_and_unload), or without",
        )
    return model


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Silence transformers' table of missing and unused tensors: each is an error here, or harmless."""
    logger = logging.getLogger("transformers.modeling_utils")

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _copied(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of the model from its config and weights; a cast would keep rounded rotary frequencies."""
    if getattr(model, "_hf_peft_config_loaded", False):
        remedy = "load_model(base, adapter=folder), or give a PeftModel"
        raise SourceError("a model without adapters on it", "one with add_adapter's", remedy)
    with library_errors(f"a causal language model, not a {type(model).__name__}"):
        same = _fresh(model, model.dtype)
        _check_copy(same, model)
        return same if dtype == model.dtype else _fresh(model, dtype)


def _fresh(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    fresh = _without_weights(model, dtype)
    fresh.load_state_dict(model.state_dict())
    fresh.tie_weights()
    return fresh.eval()


def _without_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A model of the same config in a dtype, its weights not set yet."""
    with no_init_weights():
        return AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=dtype, trust_remote_code=False)


def _check_copy(fresh: PreTrainedModel, model: PreTrainedModel) -> None:
    """Raise MismatchError where a model's logits depend on more than config and weights: hooks, edited modules.

    Logits that are not finite come from such weights, which are refused by name later.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        theirs = logits_all_over(model.eval()).cpu()
    finally:
        for module, training in modes:
            module.training = training
    with _rounded_like(fresh, model):
        difference = (logits_all_over(fresh) - theirs).abs().max().item()
    allowed = TOLERANCE.get(model.dtype, 0) * max(1.0, theirs.abs().max().item())
    if difference > allowed:
        raise MismatchError(
            f"a model object that its config and weights describe, logits within {allowed:.1e}",
            f"a difference of {difference:.1e}",
            "take hooks off it, undo what was changed in its modules or config, or save it and load the folder",
        )


@contextmanager
def _rounded_like(fresh: PreTrainedModel, model: PreTrainedModel) -> Iterator[None]:
    """Within this context the copy has the rotary frequencies that a cast to half precision rounded in the model."""
    theirs, exact = dict(model.named_buffers()), {}
    for name, buffer in fresh.named_buffers():
        other = theirs.get(name)
        if other is not None and other.shape == buffer.shape and buffer.is_floating_point():
            other = other.to(buffer)
            if torch.allclose(buffer, other, rtol=2**-8, atol=2**-24):
                exact[buffer] = buffer.clone()
                buffer.copy_(other)
    try:
        yield
    finally:
        for buffer, values in exact.items():
            buffer.copy_(values)


def _tokenizer_of(model: Any) -> Any:
    """The tokenizer of a model object, from where the model was loaded."""
    where = getattr(getattr(model, "config", None), "name_or_path", None)
    if not where:
        missing = "the model object does not say where its tokenizer is"
        raise SourceError("a tokenizer for the model object", missing, "pass load_model(model, tokenizer=...)")
    return open_tokenizer(where)
