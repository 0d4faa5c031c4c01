"""The sweep's arithmetic floor: the matrix products that it cannot do without, and the time that they alone take.

Counted from the model's shapes and the rows that travel in each layer (``ivlens.models.streams``), for one prompt: its
prefix rows, and 1 + layer x heads streams of a row for each token of the answer. Prompts of one call are multiplied by
a weight matrix together. Norms, softmaxes, activation functions and the streams' attention to themselves are not
counted; of the last layer's prefix only the keys and values are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Product:
    """``batch`` products of a [rows, inner] by an [inner, columns] matrix, of weights or of keys or values."""

    batch: int
    rows: int
    inner: int
    columns: int
    weights: bool = True

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each step of each product."""
        return 2 * self.batch * self.rows * self.inner * self.columns


def sweep_products(cfg: Any, tokens: int, answer: int = 1) -> list[Product]:
    """The matrix products of a sweep of all heads on one prompt of ``tokens`` tokens with an answer of ``answer``."""
    products = [product for layer in range(cfg.n_layers) for product in _layer(cfg, layer, tokens - 1, answer)]
    return [*products, Product(1, answer * (1 + cfg.n_layers * cfg.n_heads), cfg.d_model, cfg.d_vocab)]


def _layer(cfg: Any, layer: int, prefix: int, answer: int) -> list[Product]:
    heads, kv, width = cfg.n_heads, cfg.n_key_value_heads or cfg.n_heads, cfg.d_head
    streams, forked = answer * (1 + layer * heads), answer * (1 + (layer + 1) * heads)
    alive = 0 if layer == cfg.n_layers - 1 else prefix  # prefix rows that are needed beyond their keys and values
    group, seen = heads // kv, (prefix + 1) // 2  # a prefix token sees half of the prefix on average
    mlp = [Product(1, alive + forked, cfg.d_model, cfg.d_mlp)] * (2 if cfg.gated_mlp else 1)
    return [
        Product(1, alive + streams, cfg.d_model, heads * width),  # Q
        *[Product(1, prefix + streams, cfg.d_model, kv * width)] * 2,  # K, V
        Product(kv, group * alive, width, seen, weights=False),  # scores and values of the prefix
        Product(kv, group * alive, seen, width, weights=False),
        Product(kv, group * streams, width, prefix, weights=False),  # and of the streams
        Product(kv, group * streams, prefix, width, weights=False),
        Product(1, alive + streams, heads * width, cfg.d_model),  # W_O
        Product(heads, 1, width, cfg.d_model),  # forks
        *mlp,
        Product(1, alive + forked, cfg.d_mlp, cfg.d_model),
    ]


def at_once(prompts: Sequence[list[Product]]) -> list[Product]:
    """The products of several prompts together: each one with weights has the rows of all of them."""
    together: list[Product] = []
    for same in zip(*prompts, strict=True):
        rows = sum(each.rows for each in same)
        together += [replace(same[0], rows=rows)] if same[0].weights else same
    return together


def products_alone(products: list[Product]) -> Callable[[], None]:
    """A function that does all ``products`` on random float32 matrices, the second one transposed as weights are."""
    shapes = {each: (torch.rand(each.batch, each.rows, each.inner), torch.rand(each.batch, each.columns, each.inner))
              for each in products}  # fmt: skip

    @torch.inference_mode()
    def run() -> None:
        for each in products:
            left, right = shapes[each]
            left @ right.mT

    return run


def flops(products: list[Product]) -> int:
    return sum(each.flops for each in products)
