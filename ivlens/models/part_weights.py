"""Which part of a model each of its weights belongs to: a layer's attention or MLP, or the rest; and to which heads."""

from functools import singledispatch
from typing import Any, Literal, NamedTuple

from torch import nn

from .lora import weight_names
from .naming import own_name

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
    if attention in modules or any(step.endswith(("attn", "attention")) for step in path):  # linear ones, without heads
        return WeightPart("attention", number)
    return REST if "norm" in type(modules[-1]).__name__.lower() else WeightPart("mlp", number)


class HeadAxis(NamedTuple):
    """The axis of a weight along which heads follow each other, and how many: all, or those that share keys."""

    axis: int
    n_heads: int


@singledispatch
def head_axes(model: Any, layer: int) -> dict[str, HeadAxis]:
    """The weights of a layer that belong to single heads: W_Q, W_K, W_V, their biases, and W_O.

    Raises:
        UnsupportedError: a Bridge whose weights of single heads are not known.
    """
    cfg, home = model.cfg, f"blocks.{layer}.attn."
    of_queries = [f"{home}{leaf}" for leaf in ("W_Q", "b_Q", "W_O")]
    of_keys = [own_name(cfg, f"{home}{leaf}") for leaf in ("W_K", "b_K", "W_V", "b_V")]
    queries, keys = HeadAxis(0, cfg.n_heads), HeadAxis(0, cfg.n_key_value_heads or cfg.n_heads)
    return dict.fromkeys(of_queries, queries) | dict.fromkeys(of_keys, keys)
