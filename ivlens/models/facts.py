"""Where a model's weights come from: the facts that travel with the model into every record."""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from operator import attrgetter
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from ..errors import MismatchError
from .attached import active_edits
from .engines import HookedTransformer, Model
from .fingerprint import memory_sums
from .lora import lora_is_on, weight_names

PACKAGES = ("ivlens", "torch", "transformer-lens", "transformers")
SHAPE = ("n_layers", "n_heads", "d_head", "d_model")
IDENTITY = (
    "weights_sha256", "config_sha256", "tokenizer_sha256", "dtype", "bos", "processing", "architecture", *SHAPE
)  # fmt: skip
# config fields that do not affect numbers; dtype is a separate fact
NAMES = {
    "model_name", "tokenizer_name", "device", "n_devices", "dtype", "seed", "init_mode", "init_weights",
    "initializer_range", "from_checkpoint", "checkpoint_index", "checkpoint_label_type", "checkpoint_value", "n_params",
    "trust_remote_code",
}  # fmt: skip
LASTING = ("source", "revision", "adapter", "processing", "repair")  # facts that stay true of changed weights
AT_ONCE = 1 << 20  # elements that are copied to be hashed, 4 MB in float32
TILE = 1024  # columns that are transposed at once: more would be read again and again into the processor's cache
ROWS = 2048  # of a rotary table: the part that every model has from the start
_UNCHANGED: WeakSet[Model] = WeakSet()  # models that are within ``unchanged``
_TOKENIZERS: dict[str, str] = {}  # hashes of tokenizers by that of their text as written, which is not yet sorted
PROBE = "The quick brown fox, Paris 1 + 2 = 3.\n"  # its ids change with most edits of a tokenizer


def stamp(model: Model, *, processing: str = "none", weights: str | None = None, **facts: Any) -> None:
    """Attach the provenance ``facts`` to the model, with its identity and shape.

    ``weights`` names weights that can be made again, such as a seed's, in place of a hash that takes reading them all.
    """
    model.ivlens_facts = facts | {  # type: ignore[assignment]
        "engine": "hooked" if isinstance(model, HookedTransformer) else "bridge",
        "weights_sha256": weights or weights_sha256(model),
        "config_sha256": config_sha256(model),
        "tokenizer_sha256": tokenizer_sha256(model.tokenizer),
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "bos": bool(model.cfg.tokenizer_prepends_bos),
        **_kind_of(model, processing),
    }
    model.ivlens_versions = _state_of(model)  # type: ignore[assignment]


def model_facts(model: Model) -> dict[str, Any]:
    """The provenance of the model, updated if its weights, config or tokenizer changed since it was attached.

    Changes of parameters are noticed by their version counters, changes of ``parameter.data`` by sums of elements. A
    model that ivlens did not load has unknown weight processing.
    """
    facts = getattr(model, "ivlens_facts", None)
    if facts is None:
        stamp(model, processing="unknown", source=f"{type(model).__name__} object", revision=None, adapter=None)
    elif model not in _UNCHANGED and model.ivlens_versions != _state_of(model):
        stamp(model, **{name: facts[name] for name in LASTING if name in facts})
    return dict(model.ivlens_facts)  # type: ignore[arg-type]


@contextmanager
def unchanged(model: Model, *, since: bool = False) -> Iterator[None]:
    """Within this context nobody changes the model, so that its facts are checked once, not for every record.

    With ``since`` nobody has changed it since such a context before, and they are not checked again.
    """
    if not since:
        model_facts(model)
    _UNCHANGED.add(model)
    try:
        yield
    finally:
        _UNCHANGED.discard(model)


def stamp_later(model: Model, earlier: Mapping[str, Any], weights: str) -> None:
    """Attach the ``earlier`` facts of a model whose weights have changed since, and are named instead of hashed.

    Hashing them takes as long as reading them all, which is too much for numbers of which no record is made.
    """
    model.ivlens_facts = dict(earlier) | {"weights_sha256": weights}  # type: ignore[assignment]
    model.ivlens_versions = ()  # type: ignore[assignment]


def note_repair(model: Model, repair: Mapping[str, Any]) -> None:
    """Add to the model's provenance what was put back, and from which base."""
    model.ivlens_facts = model_facts(model) | {"repair": dict(repair)}  # type: ignore[assignment]


def identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The model's facts that its numbers depend on, without paths, and the versions of packages.

    Results saved under one identity (a measure, a run's state) are not reused for another.
    """
    return {name: facts[name] for name in IDENTITY} | {"versions": package_versions()}


def key_of(model: Model, **settings: Any) -> dict[str, Any]:
    """The key of a saved result: the model's identity and kind of device, active edits, and settings."""
    of_model = identity(model_facts(model)) | {"device": kind_of_device(model)}
    return of_model | {"edits": active_edits(model), "settings": settings}


def kind_of_device(model: Model) -> str:
    """The kind of device that the model is on: "cpu", "cuda"."""
    return torch.device(model.cfg.device or "cpu").type


def package_versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    return {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    """A package's version, cached, since reading it parses a file."""
    return version(package)


def provenance(model: Model, **settings: Any) -> dict[str, Any]:
    """A record's provenance: the model's facts, the ``settings`` of the computation, and the versions used.

    Within ``steer`` and ``ablate`` it includes their settings.
    """
    versions = package_versions() | {"python": platform.python_version()}
    edits = active_edits(model)
    return {"model": model_facts(model), "settings": settings, "versions": versions} | (
        {"edits": edits} if edits else {}
    )


def check_fits(model: Model, recorded: Mapping[str, Any], what: str, *, same_weights: bool = False) -> None:
    """Raise unless something computed on one model may be used on ``model``.

    Shape, architecture and weight processing must agree; with ``same_weights`` weights, config and dtype too.

    Raises:
        MismatchError: naming each fact that differs.
    """
    processing = getattr(model, "ivlens_facts", {"processing": "unknown"})["processing"]
    ours = model_facts(model) if same_weights else _kind_of(model, processing)
    also = ("weights_sha256", "config_sha256", "dtype") if same_weights else ()
    check_alike(recorded, {"model": ours}, f"{what} to fit the model", "use the model that it was computed on", also)


def check_alike(
    recorded: Mapping[str, Any], other: Mapping[str, Any], expected: str, do: str, also: tuple[str, ...] = ()
) -> None:
    """Raise unless two provenances agree on shape, architecture and weight processing of the model.

    Raises:
        MismatchError: naming each fact that differs.
    """
    one, two = recorded.get("model") or {}, other.get("model") or {}
    names = [name for name in (*SHAPE, "architecture", "processing", *also) if name in one and name in two]
    differing = [f"{name} {two[name]}, not {one[name]}" for name in names if one[name] != two[name]]
    if differing:
        raise MismatchError(expected, "; ".join(differing), do)


@torch.no_grad()
def weights_sha256(model: Model) -> str:
    """SHA-256 over names, shapes and bytes of all weights with LoRA's updates, independent of memory layout."""
    digest = hashlib.sha256()
    for name in sorted(weight_names(model)):
        weight = attrgetter(name)(model)
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        for block in _in_memory_order(weight):
            digest.update(block.view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _in_memory_order(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor's elements, flat, with the last two axes swapped, as models store them after loading; in blocks."""
    tensor = tensor.detach()
    stored = tensor.transpose(-1, -2) if tensor.ndim > 1 else tensor.reshape(-1)
    return (_contiguous(block).flatten() for block in _blocks(stored))


def _contiguous(block: Tensor) -> Tensor:
    """The block in contiguous memory, its last axis copied in tiles."""
    if block.is_contiguous():
        return block
    copied = torch.empty(block.shape, dtype=block.dtype, device=block.device)
    for theirs, ours in zip(block.split(TILE, -1), copied.split(TILE, -1), strict=True):
        ours.copy_(theirs)
    return copied


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """A tensor in parts along its first axis, so that what is copied of it is small beside a model."""
    return tensor.split(max(1, AT_ONCE * len(tensor) // max(1, tensor.numel())))


def config_sha256(model: Model) -> str:
    """SHA-256 over what the model computes with besides weights: config, rotary tables, numbers in its modules."""
    digest = hashlib.sha256(_config_text(model).encode())
    for table in _rotary_tables(model.named_buffers()):
        digest.update(table.contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _config_text(model: Model) -> str:
    """The config, and the numbers that modules have of their own (a norm's epsilon, attention's scale), as JSON."""
    numbers = [
        (path, name, float(value))
        for path, module in model.named_modules() for name, value in vars(module).items() if isinstance(value, float)
    ]  # fmt: skip
    return json.dumps([computing_config(model), numbers], sort_keys=True, default=str)


def _rotary_tables(buffers: Iterable[tuple[str, Tensor]]) -> list[Tensor]:
    """Sines and cosines, up to the position that every model has from the start, or what they are made from."""
    return [buffer[:ROWS] for name, buffer in buffers if name.endswith(("rotary_sin", "rotary_cos", "inv_freq"))]


def computing_config(model: Model) -> dict[str, Any]:
    """The config without what numbers do not depend on."""
    return {name: value for name, value in model.cfg.to_dict().items() if name not in NAMES}


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 over everything that token ids depend on: vocabulary, merges, rules, special tokens, chat template."""
    if tokenizer is None:
        return hashlib.sha256().hexdigest()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = json.dumps(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    settings = _settings_of(tokenizer)
    key = _sha256(text + json.dumps(settings, sort_keys=True, default=str))
    if key not in _TOKENIZERS:
        rules = json.loads(text)
        if isinstance(rules, dict):  # every call of the tokenizer resets these two
            rules |= {"padding": None, "truncation": None}
        _TOKENIZERS[key] = _sha256(json.dumps([rules, settings], sort_keys=True, default=str))
    return _TOKENIZERS[key]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _settings_of(tokenizer: Any) -> list[Any]:
    """A tokenizer's settings besides its vocabulary."""
    names = ("chat_template", "padding_side", "bos_token_id", "eos_token_id", "add_bos_token", "add_eos_token")
    settings = [type(tokenizer).__name__, *(getattr(tokenizer, name, None) for name in names)]
    return [*settings, tokenizer.special_tokens_map, tokenizer(PROBE)["input_ids"]]


def _kind_of(model: Model, processing: str) -> dict[str, Any]:
    """The facts that must agree for vectors of one model to fit another."""
    cfg = model.cfg
    return {
        "processing": "folded norms" if "Pre" in (cfg.normalization_type or "") else processing,
        "architecture": cfg.original_architecture,
        **{name: getattr(cfg, name) for name in SHAPE},
    }


@torch.no_grad()
def _state_of(model: Model) -> tuple[object, ...]:
    """Values that change when the model changes, found much faster than by hashing it."""
    tokenizer: Any = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = [str(getattr(backend, name, None)) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
    ids = tokenizer and [len(tokenizer), sorted(tokenizer.get_added_vocab().items()), rules, _settings_of(tokenizer)]
    buffers = dict(model.named_buffers())
    weights = [*model.parameters(), *(buffers[name] for name in weight_names(model) if name in buffers)]
    versions = [(each.data_ptr(), None if each.is_inference() else each._version) for each in weights]
    sums = memory_sums([*weights, *_rotary_tables(buffers.items())])
    return lora_is_on(model), _config_text(model), repr(ids), *versions, *sums
