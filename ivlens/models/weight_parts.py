"""Which part of a model each of its weights belongs to: a layer's attention or MLP, or the rest."""

from functools import singledispatch
from typing import Any, Literal, NamedTuple

from torch import nn

from .lora import weight_names

WeightKind = Literal["attention", "mlp", "rest"]


class WeightPart(NamedTuple):
    """A layer's attention or its MLP; "rest" are embeddings, the unembedding, and all norms outside attention."""

    kind: WeightKind
    layer: int | None = None


REST = WeightPart("rest")
HOMES: dict[str, WeightKind] = {"attn": "attention", "mlp": "mlp"}  # in a block of TransformerLens


@singledispatch
def weight_parts(model: Any) -> dict[str, WeightPart]:
    """The part of every weight in ``weight_names``."""
    parts = {}
    for name in weight_names(model):
        outer, layer, home, *_ = (*name.split("."), "", "")
        parts[name] = WeightPart(HOMES[home], int(layer)) if outer == "blocks" and home in HOMES else REST
    return parts


def part_in_layer(layer: nn.Module, attention: nn.Module | None, number: int, name: str) -> WeightPart:
    """The part of a weight called ``name`` in a Hugging Face layer: attention, norm, or else the feed-forward part."""
    path = name.split(".")[:-1]
    modules = [layer.get_submodule(".".join(path[:depth])) for depth in range(len(path) + 1)]
    if attention is not None and attention in modules:
        return WeightPart("attention", number)
    return REST if "norm" in type(modules[-1]).__name__.lower() else WeightPart("mlp", number)
