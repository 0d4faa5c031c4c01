"""``load_model``: a source of weights -> a HookedTransformer with unprocessed weights, checked against Hugging Face."""

import copy
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..checks import checked
from ..errors import ArgumentError, MismatchError, SourceError, SourceWarning, UnsupportedError
from ..vocabulary import Engine
from .adapters import adapter_stack, adapter_tokenizer, recorded_base
from .bridge import Bridge, check_bridge
from .engines import HookedTransformer, HookedTransformerConfig, Model, check_hooked, has_hooked
from .export import remember_origin
from .facts import model_facts, stamp, weights_sha256
from .families import family_of, hooked_config, is_represented
from .naming import share
from .outside_errors import library_errors
from .precision import TOLERANCE, check_dtype, check_finite_weights
from .sources import Source, as_it_is, merge_adapter, open_source, open_tokenizer
from .tokenizers import CHECK_TEXT, check_tokenizer
from .weight_memory import copy_from_file, store_transposed

log = logging.getLogger("ivlens.loading")


@checked
@torch.inference_mode(False)
def load_model(
    source: str | Path | torch.nn.Module = "smollm2",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    tokenizer: Any = None,
    engine: Engine = "auto",
    verify: bool = True,
) -> Model:
    """Load a model under TransformerLens' hook names: weights unprocessed, tokenizer attached.

    No code of a source is ever run and no pickle opened.

    Args:
        source: a local Hugging Face folder, a GGUF file, a packaged model (``"smollm2"``, ``"gemma3-270m"``), a hub
            name, or a model object: Hugging Face's, PEFT's, a TransformerBridge, or what ``load_model`` gave.
        device: where the model computes, like cpu or cuda (None: CUDA where there is one, else the CPU).
        dtype: number format of the weights: float32, float64, bfloat16 or float16 (None: float32, or that of a model
            object that is taken as it is).
        revision: branch, tag or commit of a model on the hub.
        adapter: a PEFT adapter to merge into the weights, a folder or a hub name; several in their order as "A+B". One
            that says that it was trained on another adapter's folder is merged after that one.
        tokenizer: the folder, hub name or .gguf file of a tokenizer in place of the adapter's or else the model's own.
            A tokenizer of Hugging Face itself will do too.
        engine: what computes the model: hooked (TransformerLens' HookedTransformer: 17 families, fastest sweeps),
            bridge (the Hugging Face model itself: any decoder), or auto (hooked if the family has one, else bridge).
        verify: check the loaded model on a short text: its logits against Hugging Face's; on a bridge, the exact sweep
            against one pass for each head.

    Returns:
        A HookedTransformer or a ``Bridge``, in evaluation mode, with the provenance of its weights attached.

    Raises:
        SourceError: nothing can be loaded: tensors are missing, unused or not finite, or no tokenizer fits.
        DownloadError: a packaged model could not be fetched.
        UnsupportedError: the family, or a feature that it switches on, would not be represented faithfully.
        MismatchError: the logits differ from Hugging Face's, or a merged adapter's from the adapter's.

    Warns:
        SourceWarning: what is loaded may not be what was meant.

    Example:
        >>> iv.load_model(model) is model
        True
    """
    if dtype is not None and dtype not in TOLERANCE:
        raise ArgumentError("dtype to be float32, float64, bfloat16 or float16 of torch", repr(dtype))
    check_device(device)
    if isinstance(source, Model):
        return _passed_through(source, device, dtype, revision, adapter, tokenizer, engine)
    if engine == "hooked":
        check_hooked()
    if (taken := _taken(source, engine, tokenizer)) is not None:
        _check_as_it_is(taken, device, dtype, revision, adapter)
        check_finite_weights(taken.model.state_dict(), taken.name)
        return _stamped(_bridged(taken, verify), taken, None)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or torch.float32
    opened = _opened(source, dtype, revision, adapter, tokenizer, any_family=engine != "hooked")
    represented = has_hooked() and is_represented(opened.model.config)
    if engine == "bridge" or (engine == "auto" and not represented):
        if device.type == "cpu":
            copy_from_file(opened.model)
        opened.model.to(device)  # type: ignore[arg-type]
        return _stamped(_bridged(opened, verify), opened, adapter)
    return _stamped(_converted(opened, device, dtype, verify), opened, adapter)


def _stamped(model: Model, opened: Source, adapter: str | Path | None) -> Model:
    facts: dict[str, Any] = {"source": opened.name, "revision": opened.revision}
    stamp(model, **facts, adapter=str(adapter) if adapter else None)
    return model


def _taken(source: Any, engine: Engine, tokenizer: Any) -> Source | None:
    """A model object that a bridge takes as it is; None for what is read or copied."""
    if engine == "hooked" or not isinstance(source, torch.nn.Module):
        return None
    taken = as_it_is(source, open_tokenizer(tokenizer) if tokenizer is not None else None)
    if taken is None or engine == "bridge" or type(source).__name__ == "TransformerBridge":
        return taken
    several = len(set(getattr(taken.model, "hf_device_map", {}).values())) > 1
    plain = not several and not getattr(taken.model, "is_quantized", False)
    return None if plain and has_hooked() and is_represented(taken.model.config) else taken


def _check_as_it_is(
    taken: Source, device: Any, dtype: torch.dtype | None, revision: str | None, adapter: str | Path | None
) -> None:
    """Raise ArgumentError where something else is asked of a model object than what it is."""
    model = taken.model
    wanted = {
        "device": device is not None and torch.device(device).type != model.device.type,
        "dtype": dtype is not None and dtype != model.dtype,
        "revision": revision is not None,
        "adapter": adapter is not None,
    }
    if other := [name for name, differs in wanted.items() if differs]:
        raise ArgumentError(
            f"a {taken.name} as it is, in {model.dtype} on {model.device}", f"another {other[0]}",
            "leave the argument out, or change the object before",
        )  # fmt: skip


def _bridged(opened: Source, verify: bool) -> Bridge:
    """The bridge over a Hugging Face model, which computes as it is."""
    with library_errors(
        f"a decoder that runs on token ids in {opened.name}", "run its forward pass on a short text in this dtype"
    ):
        d_vocab = opened.model.config.get_text_config().vocab_size
        bridge = Bridge(opened.model, prepared_tokenizer(opened.tokenizer, d_vocab, own=opened.own_tokenizer))
        if verify:
            log.info("%s: checking its logits and the sweep on a short text", opened.name)
            check_bridge(bridge)
    return bridge


def _opened(
    source: Any,
    dtype: torch.dtype,
    revision: str | None,
    adapter: str | Path | None,
    tokenizer: Any,
    any_family: bool,
) -> Source:
    """The Hugging Face model with the adapter merged and finite weights, and its tokenizer."""
    read = isinstance(source if tokenizer is None else tokenizer, (str, Path))
    tokenizer = open_tokenizer(tokenizer)
    if tokenizer is None and adapter is not None:
        tokenizer = adapter_tokenizer(adapter)
    opened = open_source(source, dtype, revision, tokenizer, any_family=any_family)
    if adapter is not None:
        stack = adapter_stack(adapter)
        for number, folder in enumerate(stack):
            _check_base(opened, folder, dtype)
            opened = merge_adapter(opened, folder, stack[:number])
    check_finite_weights(opened.model.state_dict(), opened.name)
    return replace(opened, own_tokenizer=read)


def _converted(opened: Source, device: torch.device, dtype: torch.dtype, verify: bool) -> HookedTransformer:
    """The HookedTransformer, with its own memory, its logits compared with Hugging Face's."""
    with library_errors(f"a model that {opened.name} describes"):
        if device.type == "cpu":  # other devices have their own copy anyway
            copy_from_file(opened.model)
        log.info("%s: converting the weights for TransformerLens", opened.name)
        model = to_hooked(opened, device, dtype)
        if verify:
            log.info("%s: checking the logits against Hugging Face's", opened.name)
            check_against_hugging_face(model, opened.model)
    return model


def check_device(device: str | torch.device | None) -> None:
    """Raise ArgumentError unless the device is available."""
    try:
        torch.zeros(1, device=device).item()  # the meta device has no values
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError("device to be one that is here, like 'cpu' or 'cuda'", f"{device!r} ({reason})") from error


def _check_base(base: Source, adapter: Path, dtype: torch.dtype) -> None:
    """Warn where an adapter that ivlens exported was trained on other weights than the base's."""
    recorded = recorded_base(adapter)
    if recorded is None or not (has_hooked() and is_represented(base.model.config)):
        return  # it was recorded of a HookedTransformer's weights
    if recorded[1] != str(dtype).removeprefix("torch."):
        return
    if weights_sha256(_hooked(base.model, torch.device("cpu"), dtype)) != recorded[0]:
        message = f"the adapter at {adapter} was trained on other weights than those of {base.name}"
        warnings.warn(message, SourceWarning, stacklevel=3)


def to_hooked(source: Source, device: torch.device, dtype: torch.dtype) -> HookedTransformer:
    """Build the HookedTransformer of a Hugging Face model, weights unprocessed, tokenizer attached."""
    model = _hooked(source.model, device, dtype)
    attach_tokenizer(model, source.tokenizer, own=source.own_tokenizer)
    return model.to(device, print_details=False).eval()


def _hooked(hugging_face: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> HookedTransformer:
    cfg = hooked_config(hugging_face.config, dtype=dtype, device=str(device))
    model = without_weights(cfg)
    family = family_of(hugging_face.config)
    weights = {name: value.detach().to(dtype) for name, value in family.weights(hugging_face, cfg).items()}
    if weights["unembed.W_U"].data_ptr() == weights["embed.W_E"].data_ptr():  # tied: separate them for edits
        weights["unembed.W_U"] = weights["unembed.W_U"].clone()
    left_out = model.load_state_dict(weights, strict=False, assign=True)
    unset = [name for name in left_out.missing_keys if ".W_" in name or "._W_" in name]
    if unset or left_out.unexpected_keys:
        raise UnsupportedError(
            f"weights for every part of a {family.architecture}", f"{[*unset, *left_out.unexpected_keys]}"
        )
    store_transposed(model)
    share(model, family.naming)
    remember_origin(model, hugging_face)
    return model


def without_weights(cfg: HookedTransformerConfig) -> HookedTransformer:
    """The model of a config, with parameters that are not set yet, on no device."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        return HookedTransformer(cfg, move_to_device=False)


def attach_tokenizer(model: HookedTransformer, tokenizer: Any, *, own: bool = False) -> None:
    """Attach a Hugging Face tokenizer, or a copy unless it is the model's ``own``: BOS where it adds one.

    Raises:
        SourceError: it cannot be the model's tokenizer.
    """
    tokenizer = prepared_tokenizer(tokenizer, model.cfg.d_vocab, own=own)
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    model.cfg.default_prepend_bos = model.cfg.tokenizer_prepends_bos


def prepared_tokenizer(tokenizer: Any, d_vocab: int, *, own: bool = False) -> Any:
    """A Hugging Face tokenizer with a padding token that has an embedding, which pads on the right.

    It is a copy, which takes seconds where the vocabulary is large, unless the tokenizer was read for this model alone
    and is its ``own``.

    Raises:
        SourceError: it cannot be the model's tokenizer.
    """
    check_tokenizer(tokenizer, d_vocab)
    if not own:
        tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= d_vocab:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def check_against_hugging_face(model: HookedTransformer, hugging_face: PreTrainedModel) -> None:
    """Raise MismatchError unless both models give one short prompt the same logits, within the dtype's tolerance."""
    check_logits(model, logits_on_cpu(hugging_face, check_tokens(model).to(hugging_face.device)), "Hugging Face's")


def check_tokens(model: Model) -> Int[Tensor, "batch pos"]:
    """The short text on which logits are compared, on the model's device."""
    tokenizer: Any = model.tokenizer
    return torch.tensor([tokenizer(CHECK_TEXT)["input_ids"][: model.cfg.n_ctx]], device=model.cfg.device)


def check_logits(model: Model, theirs: Float[Tensor, "batch pos vocab"], whose: str) -> None:
    """Raise MismatchError unless the logits on ``check_tokens`` are ``theirs``, within the dtype's tolerance."""
    difference = (logits_on_cpu(model, check_tokens(model)) - theirs).abs().max().item()
    allowed = TOLERANCE[model.cfg.dtype] * max(1.0, theirs.abs().max().item())
    if not difference <= allowed:
        raise MismatchError(
            f"logits within {allowed:.1e} of {whose}",
            f"a difference of {difference:.1e} on {CHECK_TEXT!r}",
            "this model would not be represented faithfully; please report its config",
        )


@torch.inference_mode()
def logits_on_cpu(model: torch.nn.Module, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
    """A model's logits in float64, for models of either library."""
    output = model(tokens)
    return (output if isinstance(output, Tensor) else output.logits).double().cpu()


def _passed_through(
    model: Model,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    revision: str | None,
    adapter: str | Path | None,
    tokenizer: Any,
    engine: Engine,
) -> Model:
    """A model of ``load_model`` itself, perhaps with another tokenizer or on another device."""
    kind = type(model).__name__
    if revision is not None:
        raise ArgumentError("a revision only with a hub name", f"revision {revision!r:.60} with a {kind}")
    if adapter is not None:
        raise ArgumentError("an adapter only with a Hugging Face source", f"a {kind}", "merge it before")
    if engine not in ("auto", "hooked" if isinstance(model, HookedTransformer) else "bridge"):
        raise ArgumentError(f"a source for engine {engine!r}", f"a {kind}", "give what it was made of")
    if dtype not in (None, model.cfg.dtype):
        raise ArgumentError(
            f"a {kind} as it is, in {model.cfg.dtype}", f"dtype={dtype}", "load what it was made of in that dtype"
        )
    if not isinstance(model, HookedTransformer):
        if tokenizer is not None:
            raise ArgumentError("a Bridge as it is", "a tokenizer", "load_model(bridge.hugging_face, tokenizer=...)")
        if device is not None and torch.device(device).type != torch.device(model.cfg.device).type:
            remedy = "move bridge.hugging_face there, then give that to load_model"
            raise ArgumentError(f"a Bridge as it is, on {model.cfg.device}", f"device={device!r}", remedy)
        return model
    if tokenizer is not None:
        attach_tokenizer(model, open_tokenizer(tokenizer))
    if model.tokenizer is None:
        raise SourceError(
            "a HookedTransformer with a tokenizer", "one without", "pass load_model(model, tokenizer=...)"
        )
    if device is not None:
        model.to(device, print_details=False)
    check_dtype(model)
    model_facts(model)
    return model.eval()
