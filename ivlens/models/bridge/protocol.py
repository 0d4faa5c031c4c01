"""What ``ivlens.models`` does with a model, done with a ``Bridge``."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from math import isqrt
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...errors import FallbackWarning, HookError, UnsupportedError
from ...vocabulary import ModelPart, Part, TokenizedPrompt
from ..attached import has_hooks
from ..block_weights import mlp_weights
from ..forks import additions, replacements, rows_of
from ..head_weights import attention_weights, check_heads_alike, head_writes, output_projection
from ..hooks import hooked
from ..lora import has_lora, lora_is_on, weight_names
from ..part_weights import REST, HeadAxis, WeightPart, head_axes, part_in_layer, weight_parts
from ..parts import PartValues, check_parts, check_values
from ..passes import last_prompt_tokens
from ..points import resid_post_name
from ..precision import check_attention, check_dtype
from ..runs import Rows, final_logits, final_residual, unembedding
from ..streams.memory import LEAST, SHARE, free_memory, rows_that_fit
from ..streams.sweep import check_streamable, sweep_additions, sweep_parts
from ..tails import PromptCandidates, read_rows
from .loop import candidates_by_loop
from .model import Bridge, evaluating
from .readout import greedy_of, logits_of, scores_of
from .rows import IN_SEQUENCE
from .sweep import run_candidates, run_rows

PROJECTIONS = {"W_Q": ("q_proj", "query"), "W_K": ("k_proj", "key"), "W_V": ("v_proj", "value")}


@final_residual.register(Bridge)
def _final_residual(model: Bridge, rows: Rows) -> Float[Tensor, "batch pos d_model"]:
    found: list[Tensor] = []
    last = {resid_post_name(model.cfg.n_layers - 1): found.append}
    with last_prompt_tokens(rows.last, rows.tokens), hooked(model, last):
        model.run(rows.tokens, rows.mask, logits_to_keep=1)
    return found[0]


@final_logits.register(Bridge)
def _final_logits(model: Bridge, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    return logits_of(model, residual[:, None])[:, 0]


@unembedding.register(Bridge)
def _unembedding(model: Bridge) -> Float[Tensor, "vocab d_model"]:
    head: Any = model.hugging_face.get_output_embeddings()
    if head is None:
        raise UnsupportedError("an unembedding matrix", f"none in a {type(model.hugging_face).__name__}")
    return _matrix(head, model.cfg.d_model).T


@check_heads_alike.register(Bridge)
def _check_heads_alike(model: Bridge) -> None:
    widths = model.decoder.widths
    if without := [layer for layer, width in enumerate(widths) if not width]:
        raise UnsupportedError(
            "attention heads in every layer", f"none in layers {', '.join(map(str, without))}",
            "use mean_difference and steer, steering_sweep or evaluate; heads and their vectors need all layers",
        )  # fmt: skip
    if len({*widths}) > 1:
        raise UnsupportedError("heads of one width in every layer", f"widths {sorted({*widths})}")


@head_writes.register(Bridge)
def _head_writes(model: Bridge, layer: int, z: Float[Tensor, "head d_head"]) -> Float[Tensor, "head d_model"]:
    check_heads_alike(model)
    parts = model.decoder.layers[layer]
    if parts.output is None or parts.writes is None or not parts.projected:
        raise UnsupportedError(
            "attention whose projected heads are added to the residual stream", f"none that is seen in layer {layer}"
        )
    with evaluating(model.hugging_face), torch.no_grad():
        alone = torch.block_diag(*z.to(model.cfg.dtype))[None].to(_device(parts.output))  # a row for each head
        bias = parts.output(torch.zeros_like(alone[:, :1]))
        writes = (parts.output(alone) - bias)[0] * parts.writes.scale
        if parts.writes.module not in (parts.output, parts.attention):
            writes = writes * _gain(parts.writes.module, writes.sum(0) + bias[0, 0])
    return writes.float() if writes.element_size() < 4 else writes


@output_projection.register(Bridge)
def _output_projection(model: Bridge, layer: int) -> nn.Module:
    output = model.decoder.layers[layer].output
    if output is None:
        raise UnsupportedError("attention heads", f"none in layer {layer}", "choose another layer")
    return output


def _gain(norm: nn.Module, total: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """What an RMS norm multiplies ``total`` by, which is linear in ``total`` once its scale is known.

    Raises:
        UnsupportedError: it is no norm of that kind.
    """
    if not total.any():
        return torch.zeros_like(total)
    weight, normed = norm(torch.ones_like(total)[None, None])[0, 0], norm(total[None, None])[0, 0]
    at = (total * weight).abs().argmax()
    gain: Tensor = weight * (normed[at] / (total * weight)[at])
    if not torch.allclose(total * gain, normed, rtol=1e-2 if total.element_size() < 4 else 1e-4, atol=1e-6):
        raise UnsupportedError("an RMS norm, or none, after attention", f"a {type(norm).__name__}")
    return gain


@attention_weights.register(Bridge)
def _attention_weights(model: Bridge, layer: int) -> dict[str, Float[Tensor, "head _ _"]]:
    check_heads_alike(model)
    parts, d_head = model.decoder.layers[layer], model.cfg.d_head
    found: dict[str, Tensor] = {}
    for name in PROJECTIONS:
        module = _projection(parts.attention, name)
        if module is None:  # one joint matrix, whose order no two families share
            continue
        found[name] = _matrix(module, model.cfg.d_model).unflatten(1, (-1, d_head)).transpose(0, 1)
    assert parts.output is not None
    found["W_O"] = _matrix(parts.output, model.cfg.n_heads * d_head).unflatten(0, (-1, d_head))
    return found


def _projection(attention: nn.Module | None, name: str) -> nn.Module | None:
    """The module of attention that has W_Q, W_K or W_V, None where they are one joint matrix."""
    return next((getattr(attention, each) for each in PROJECTIONS[name] if hasattr(attention, each)), None)


@mlp_weights.register(Bridge)
def _mlp_weights(model: Bridge, layer: int) -> dict[str, Float[Tensor, "_ _"]]:
    """As the Hugging Face model stores them, experts' matrices one below the other."""
    parts = model.decoder.layers[layer]
    of_attention = {*map(id, parts.attention.parameters())} if parts.attention is not None else set[int]()
    return {
        name: weight.detach().flatten(0, -2) for name, weight in parts.module.named_parameters()
        if weight.ndim > 1 and weight.is_floating_point() and id(weight) not in of_attention
    }  # fmt: skip


@torch.no_grad()
def _matrix(module: Any, d_in: int) -> Float[Tensor, "d_in d_out"]:
    """What a linear module multiplies by, adapters and quantisation included."""
    if _is_plain(module):
        return module.weight.detach().T
    rows = torch.eye(d_in, device=_device(module), dtype=_dtype(module))[None]
    matrix: Tensor = (module(rows) - module(torch.zeros_like(rows[:, :1])))[0]
    return matrix


def _is_plain(module: Any) -> bool:
    """Whether a module multiplies by its weight and does nothing else."""
    return type(module) is nn.Linear and "forward" not in vars(module)


def _device(module: nn.Module) -> torch.device:
    return next(chain(module.parameters(), module.buffers())).device


def _dtype(module: nn.Module) -> torch.dtype:
    tensors = chain(module.parameters(), module.buffers())
    return next((each.dtype for each in tensors if each.is_floating_point()), torch.float32)


@check_streamable.register(Bridge)
def _check_streamable(model: Bridge, parts: Iterable[Part] = ("z",)) -> None:
    if {"z", "head"} & {*parts}:
        check_heads_alike(model)
    _check_no_hooks(model)
    _ = model.arrangement


def _check_no_hooks(model: Bridge) -> None:
    if has_hooks(model):
        raise HookError("no active hooks: the sweep would not tell them apart", "some", "leave their context first")


@sweep_parts.register(Bridge)
def _sweep_parts(
    model: Bridge,
    pairs: Sequence[TokenizedPrompt],
    values: PartValues,
    parts: Sequence[ModelPart],
    *,
    against_foil: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Float[Tensor, "stream answer"]]:
    check_streamable(model, [each.part for each in parts])
    check_parts(model, parts)
    check_values(model, values, parts, len(pairs))
    if dtype not in (None, model.cfg.dtype):
        raise UnsupportedError(
            f"streams in the dtype of a bridged model, {model.cfg.dtype}", str(dtype), f"load it with dtype={dtype}"
        )
    rows, scores = rows_of(parts), []
    for number, pair in enumerate(pairs):
        forks = replacements(values.only([number]), parts)
        scores.append(scores_of(model, run_rows(model, pair, forks), pair[1], against_foil=against_foil)[rows])
    return scores


@sweep_additions.register(Bridge)
def _sweep_additions(
    model: Bridge, prompts: Sequence[PromptCandidates], added: Mapping[int, Float[Tensor, "added d_model"]]
) -> list[list[tuple[Float[Tensor, "stream answer"], Bool[Tensor, " stream"]]]]:
    _check_no_hooks(model)
    trouble = model.sweep_trial.trouble
    if trouble is None:
        run = partial(run_candidates, forks=additions(added))
    else:
        reason = "this model's key-value cache does not serve many rows: every combination runs the whole prompt"
        warnings.warn(f"{reason} ({trouble})", FallbackWarning, stacklevel=6)
        run = partial(candidates_by_loop, added=added)
    return [read_rows(each, run(model, each), partial(greedy_of, model)) for each in prompts]


@rows_that_fit.register(Bridge)
def _rows_that_fit(model: Bridge, longest: int, dtype: torch.dtype | None = None) -> int:
    cfg = model.cfg
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    room = min(max(weights // SHARE, LEAST), free_memory(torch.device(cfg.device)) // 2)
    sequence = model.sweep_trial.arrangement is IN_SEQUENCE
    kept = (
        4 * (cfg.n_heads + (cfg.n_key_value_heads or cfg.n_heads)) * max(cfg.d_head, 1) * (1 if sequence else longest)
    )
    scores = 3 * cfg.n_heads
    rows = room // ((8 * cfg.d_model + 4 * cfg.d_mlp + kept + scores * longest) * cfg.dtype.itemsize)
    apart = isqrt(room // (scores * cfg.dtype.itemsize)) if sequence else rows  # a score of each row for each row
    return max(2, min(rows, apart))


@weight_names.register(Bridge)
def _weight_names(model: Bridge, *, once: bool = True) -> list[str]:
    stored = model.state_dict(keep_vars=True)  # buffers, too: quantised weights, corrections of routers
    buffers = [name for name, _ in model.named_buffers(remove_duplicate=once) if name in stored]
    return [*(name for name, _ in model.named_parameters(remove_duplicate=once)), *buffers]


@weight_parts.register(Bridge)
def _weight_parts(model: Bridge) -> dict[str, WeightPart]:
    paths = {module: path for path, module in model.named_modules()}
    layers = {f"{paths[layer.module]}.": (number, layer) for number, layer in enumerate(model.decoder.layers)}
    parts = {}
    for name in weight_names(model):
        home = next((prefix for prefix in layers if name.startswith(prefix)), None)
        if home is None:
            parts[name] = REST
        else:
            number, layer = layers[home]
            parts[name] = part_in_layer(layer.module, layer.attention, number, name.removeprefix(home))
    return parts


@head_axes.register(Bridge)
def _head_axes(model: Bridge, layer: int) -> dict[str, HeadAxis]:
    check_heads_alike(model)
    parts, cfg = model.decoder.layers[layer], model.cfg
    axes: dict[Any, HeadAxis] = {}
    for name in (*PROJECTIONS, "W_O"):
        module: Any = parts.output if name == "W_O" else _projection(parts.attention, name)
        if not _is_plain(module):
            came = "none of its own" if module is None else f"a {type(module).__name__}"
            raise _no_single_heads(f"{name} of layer {layer}: {came}")
        axis = 1 if name == "W_O" else 0
        heads, odd = divmod(module.weight.shape[axis], cfg.d_head)
        if odd or cfg.n_heads % heads or (name in ("W_Q", "W_O") and heads != cfg.n_heads):
            raise _no_single_heads(f"{name} of layer {layer}: {module.weight.shape[axis]} rows")
        axes[module] = HeadAxis(axis, heads)
    paths = {module: path for path, module in model.named_modules()}
    weights = {f"{paths[module]}.weight": axis for module, axis in axes.items()}
    biased = [module for module, axis in axes.items() if axis.axis == 0 and module.bias is not None]
    return weights | {f"{paths[module]}.bias": axes[module] for module in biased}


def _no_single_heads(came: str) -> UnsupportedError:
    expected = "linear layers with the queries, keys, values and outputs of each head"
    return UnsupportedError(expected, came, "put back the attention of whole layers")


@has_lora.register(Bridge)
def _has_lora(model: Bridge) -> bool:
    return False  # ivlens' own; PEFT's adapters are part of the model


@lora_is_on.register(Bridge)
def _lora_is_on(model: Bridge) -> bool:
    return False


@check_dtype.register(Bridge)
def _check_dtype(model: Bridge) -> None:
    """Nothing to check: its config has the dtype of its weights, whatever it was cast to."""


@check_attention.register(Bridge)
def _check_attention(model: Bridge) -> None:
    """Nothing to check: Hugging Face's attention keeps scores that are no numbers, which are found in what follows."""
