"""Where a model's weights come from: the facts that travel with the model into every record."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from ..errors import MismatchError
from .hooks import active_edits
from .lora import lora_is_on, weight_names

PACKAGES = ("ivlens", "torch", "transformer-lens", "transformers")
SHAPE = ("n_layers", "n_heads", "d_head", "d_model")


def stamp(model: HookedTransformer, *, processing: str = "none", **facts: Any) -> None:
    """Attach the provenance ``facts`` to the model, with its weights' hash, dtype, processing, and shape."""
    cfg = model.cfg
    model.ivlens_facts = facts | {  # type: ignore[assignment]
        "weights_sha256": weights_sha256(model),
        "dtype": str(cfg.dtype).removeprefix("torch."),
        "processing": "folded norms" if "Pre" in (cfg.normalization_type or "") else processing,
        "architecture": cfg.original_architecture,
        "bos": bool(cfg.tokenizer_prepends_bos),
        **{name: getattr(cfg, name) for name in SHAPE},
    }
    model.ivlens_versions = _versions_of(model)  # type: ignore[assignment]


def model_facts(model: HookedTransformer) -> dict[str, Any]:
    """The provenance of the model's weights, renewed where they were changed in place since it was attached.

    Changes are seen through the parameters' version counters, which edits of ``parameter.data`` and torch's fused
    optimisers escape (``fine_tune`` does not): call ``stamp`` after such an edit. A model that was not loaded here has
    unknown weight processing.
    """
    facts = getattr(model, "ivlens_facts", None)
    if facts is None:
        stamp(model, processing="unknown", source="HookedTransformer object", revision=None, adapter=None)
    elif model.ivlens_versions != _versions_of(model):
        stamp(model, **{name: facts[name] for name in ("source", "revision", "adapter", "processing")})
    return dict(model.ivlens_facts)  # type: ignore[arg-type]


def provenance(model: HookedTransformer, **settings: Any) -> dict[str, Any]:
    """A record's provenance: the model's facts, the ``settings`` of the computation, and the versions used.

    Within ``steer`` and ``ablate`` it says what these do.
    """
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    edits = active_edits(model)
    return {"model": model_facts(model), "settings": settings, "versions": versions} | (
        {"edits": edits} if edits else {}
    )


def check_fits(model: HookedTransformer, recorded: Mapping[str, Any], what: str, *, same_weights: bool = False) -> None:
    """Raise unless something recorded on one model may be used on ``model``.

    Shape, architecture and weight processing must agree; with ``same_weights`` the weights and their dtype too.

    Raises:
        MismatchError: naming each fact that differs.
    """
    ours = {"model": model_facts(model)}
    also = ("weights_sha256", "dtype") if same_weights else ()
    check_alike(recorded, ours, f"{what} to fit the model", "use the model that it was computed on", also)


def check_alike(
    recorded: Mapping[str, Any], other: Mapping[str, Any], expected: str, do: str, also: tuple[str, ...] = ()
) -> None:
    """Raise unless two provenances are of models of one shape, architecture and weight processing.

    Raises:
        MismatchError: naming each fact that differs.
    """
    one, two = recorded.get("model", {}), other.get("model", {})
    names = [name for name in (*SHAPE, "architecture", "processing", *also) if name in one and name in two]
    differing = [f"{name} {one[name]} against {two[name]}" for name in names if one[name] != two[name]]
    if differing:
        raise MismatchError(expected, "; ".join(differing), do)


def tokenizer_digest(model: HookedTransformer) -> str:
    """Hash of the tokenizer's vocabulary."""
    tokenizer: Any = model.tokenizer
    return hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


@torch.no_grad()
def weights_sha256(model: HookedTransformer) -> str:
    """SHA-256 over the names, shapes and bytes of all weights, LoRA's updates added, whatever the memory layout."""
    digest = hashlib.sha256()
    for name in sorted(weight_names(model)):
        weight = attrgetter(name)(model)
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(_in_memory_order(weight).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The tensor's elements last two axes swapped, as models store them after loading, flat."""
    tensor = tensor.detach()
    return (tensor.transpose(-1, -2) if tensor.ndim > 1 else tensor).contiguous().flatten()


def _versions_of(model: HookedTransformer) -> tuple[object, ...]:
    """What changes when a parameter is written to or replaced, or LoRA is switched."""
    return lora_is_on(model), *((parameter.data_ptr(), parameter._version) for parameter in model.parameters())
