"""The parts of a Hugging Face decoder, found by what they are called and checked by what they compute."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import UnsupportedError
from ..points import Point, first, taken

ATTENTION = {"attn", "attention", "self_attn", "self_attention"}
OUTPUT = {"o_proj", "out_proj", "dense", "c_proj", "wo", "linear_out"}
DO = "such a model would not be represented faithfully, so it is refused"


@dataclass(frozen=True)
class Layer:
    """One layer, and where it has attention: the module, its output projection, and what it adds to the stream.

    ``mlp``: what its MLP adds to the stream. ``projected``: whether attention gives what its output projection gives,
    so that heads' writes add up.
    """

    module: nn.Module
    attention: nn.Module | None
    output: nn.Module | None
    writes: Point | None
    mlp: Point | None
    projected: bool = False


@dataclass(frozen=True)
class Decoder:
    """The layers of a model, and its sizes; ``widths`` are those of the layers' heads, 0 without attention."""

    layers: tuple[Layer, ...]
    n_heads: int
    d_model: int
    widths: tuple[int, ...]
    gives_tuple: int  # elements of the last layer's output where it is a tuple, else 0


def find_decoder(model: PreTrainedModel, tokens: Int[Tensor, "batch pos"]) -> Decoder:
    """The decoder's parts, seen in one pass over a short text.

    Raises:
        UnsupportedError: no stack of layers with one residual stream that runs through them.
    """
    config = model.config.get_text_config(decoder=True)
    modules = _stack(model, config.num_hidden_layers)
    found = [_attention(layer) for layer in modules]
    seen = _Seen.of(model, modules, tokens)
    _check_one_stream(model, modules, seen)
    n_heads = getattr(config, "num_attention_heads", None)
    if not isinstance(n_heads, int):
        raise UnsupportedError("the same number of heads in every layer", f"{n_heads!r:.60}", DO)
    layers, widths = [], []
    for number, (module, (attention, output)) in enumerate(zip(modules, found, strict=True)):
        width = 0 if output is None else seen.given[output].shape[-1]
        if width % n_heads:
            raise UnsupportedError(f"attention outputs of {n_heads} heads", f"{width} dimensions", DO)
        if (heads := _heads_of(attention)) not in (None, n_heads):
            raise UnsupportedError(f"the config's {n_heads} heads in every layer", f"{heads} in layer {number}", DO)
        widths.append(width // n_heads)
        writes = None if attention is None else _writes(config, module, attention, seen)
        projected = (
            attention is not None
            and output is not None
            and _same(first(seen.outputs[output]), first(seen.outputs[attention]))
        )
        mlp = _mlp(config, module, attention, writes, seen)
        layers.append(Layer(module, attention, output, writes, mlp, projected))
    last = seen.outputs[modules[-1]]
    gives = len(last) if isinstance(last, tuple) else 0
    return Decoder(tuple(layers), n_heads, seen.given[modules[0]].shape[-1], tuple(widths), gives)


def _stack(model: PreTrainedModel, n_layers: int) -> list[nn.Module]:
    """The decoder's layers: of the lists of modules of that length, the one that is nearest to the top."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedError("a decoder", f"{type(model).__name__}, an encoder with a decoder", DO)
    inside = model.get_decoder() or model
    stacks = [
        (name.count("."), list(module)) for name, module in inside.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]  # fmt: skip
    if not stacks:
        raise UnsupportedError(f"a stack of {n_layers} layers", f"none in a {type(model).__name__}", DO)
    return min(stacks, key=lambda stack: stack[0])[1]


def _attention(layer: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """A layer's attention and its output projection, or neither."""
    for path, module in layer.named_modules():
        *above, name = path.split(".")
        while above and above[-1] not in ATTENTION:
            above.pop()
        if above and name in OUTPUT:
            return layer.get_submodule(".".join(above)), module
    return None, None


def _heads_of(attention: nn.Module | None) -> int | None:
    """How many heads an attention module says that it has, if it does."""
    said = (getattr(attention, name, None) for name in ("num_heads", "num_attention_heads", "n_heads"))
    return next((number for number in said if isinstance(number, int)), None)


@dataclass(frozen=True)
class _Seen:
    """What every module inside the layers was given and gave, where these are tensors, in one pass."""

    given: Mapping[nn.Module, Tensor]
    outputs: Mapping[nn.Module, Any]

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, layers: list[nn.Module], tokens: Int[Tensor, "batch pos"]) -> "_Seen":
        given: dict[nn.Module, Tensor] = {}
        outputs: dict[nn.Module, Any] = {}

        def keep(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            value, _ = taken(args, options)
            if isinstance(value, Tensor):
                given[module], outputs[module] = value.clone(), _cloned(output)

        with ExitStack() as stack:
            for module in {inner for layer in layers for inner in layer.modules()}:
                stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
            model(input_ids=tokens, use_cache=False)
        return cls(given, outputs)


def _cloned(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_cloned(each) for each in output)
    return output.clone() if isinstance(output, Tensor) else output


def _check_one_stream(model: PreTrainedModel, layers: list[nn.Module], seen: _Seen) -> None:
    """Raise unless each layer is given what the one before it gave, [batch, pos, d_model]."""
    whole = f"one residual stream through the layers of a {type(model).__name__}"
    for number, layer in enumerate(layers):
        if layer not in seen.given or seen.given[layer].ndim != 3:
            shape = tuple(seen.given[layer].shape) if layer in seen.given else "no tensor"
            raise UnsupportedError(whole, f"{shape} entering layer {number}", DO)
        before = first(seen.outputs[layers[number - 1]]) if number else seen.given[layer]
        if not torch.equal(before.to(seen.given[layer].device), seen.given[layer]):
            raise UnsupportedError(whole, f"layer {number} is given something else than layer {number - 1} gives", DO)


def _writes(config: Any, layer: nn.Module, attention: nn.Module, seen: _Seen) -> Point | None:
    """Where a layer's attention output is as it is added to the residual stream, None where that is not seen.

    It is what attention gives, or what a norm makes of that, and perhaps a multiple of it.
    """
    out = first(seen.outputs[attention])
    after = [each for each in layer.modules() if each in seen.given and _same(seen.given[each], out)]
    nearest, point = torch.inf, None
    for module in (*after, attention):
        written = first(seen.outputs[module])
        for scale in _scales(config) if written.shape == seen.given[layer].shape else ():
            if (distance := _added(layer, written * scale, seen)) < nearest:
                nearest, point = distance, Point(module, given=False, scale=scale)
    return point


def _scales(config: Any) -> tuple[float, ...]:
    """By what a model may multiply a block's outputs before it adds them to the stream."""
    return tuple(dict.fromkeys((1.0, float(getattr(config, "residual_multiplier", 1.0)))))


def _mlp(config: Any, layer: nn.Module, attention: nn.Module | None, writes: Point | None, seen: _Seen) -> Point | None:
    """Where a layer's MLP output is as it is added to the residual stream, None where that is not seen.

    Added to the stream between attention and MLP, it gives what the layer gives; of several modules the one is taken
    that comes nearest to that.
    """
    end = first(seen.outputs[layer])
    of_attention = [] if attention is None else [*attention.modules()]
    outside = [each for each in layer.modules() if each in seen.given and each not in (layer, *of_attention)]
    nearest, point = torch.inf, None
    for middle in _middles(layer, writes, seen):
        for module in outside:
            out = seen.outputs[module]
            out = out[0] if isinstance(out, tuple) else out
            for scale in _scales(config):
                if not _alike(out, end) or not _same(middle + out * scale, end):
                    continue
                if (distance := _distance(middle + out * scale, end)) < nearest:
                    nearest, point = distance, Point(module, given=False, scale=scale)
    return point


def _middles(layer: nn.Module, writes: Point | None, seen: _Seen) -> list[Tensor]:
    """What may be the stream between attention and MLP: what parts of a layer read, and its input with attention's."""
    stream = seen.given[layer]
    read = [seen.given[each] for each in layer.modules() if each in seen.given]
    middles = [each for each in read if each.shape == stream.shape and not torch.equal(each, stream)]
    return middles if writes is None else [*middles, stream + first(seen.outputs[writes.module]) * writes.scale]


def _added(layer: nn.Module, written: Tensor, seen: _Seen) -> float:
    """How far the stream with ``written`` is from what a part of the layer reads, or with an MLP's output from what the
    layer gives; infinite where it is none of them."""
    end = first(seen.outputs[layer])
    middle = seen.given[layer] + written
    inner = [each for each in layer.modules() if each is not layer and each in seen.given]
    pairs = [(seen.given[each], middle) for each in inner]
    pairs += [(middle + out, end) for each in inner if _alike(out := seen.outputs[each], end)]
    return min((_distance(*pair) for pair in pairs if _same(*pair)), default=torch.inf)


def _alike(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding of their dtype."""
    if one.shape != other.shape:
        return False
    return _distance(one, other) <= 16 * torch.finfo(one.dtype).eps * max(1e-30, other.double().abs().max().item())


def _distance(one: Tensor, other: Tensor) -> float:
    distance: float = (one.double() - other.double()).abs().max().item()
    return distance
