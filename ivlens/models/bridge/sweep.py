"""Many interventions at the last prompt token, over Hugging Face's own key-value cache.

As with last-token streams, the prompt's earlier tokens are run once, into a cache. Then the last prompt token and the
answer's run through the layers once for each intervention, as rows that lie as ``rows`` says. A row enters in the layer
of its intervention, as a copy of the clean row, with which it agrees up to there. No code is specific to a family.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...vocabulary import Head, TokenizedPrompt
from ..points import first, taken
from .model import Bridge
from .rows import Arrangement


@dataclass(frozen=True)
class Fork:
    """Rows that enter before a layer: how many, and their edit of the residual stream or of the heads' outputs.

    An edit gets the new rows at the last prompt token, [new, d_model] or [new, head, d_head].
    """

    rows: int
    added: Float[Tensor, "new d_model"] | None = None
    patched: Callable[[Float[Tensor, "new head d_head"]], Tensor] | None = None


@torch.no_grad()
def run_rows(
    bridge: Bridge, pair: TokenizedPrompt, forks: Mapping[int, Fork], arrangement: Arrangement | None = None
) -> Float[Tensor, "row width d_model"]:
    """A prompt's rows after the last layer: the clean one, then those of ``forks``, layer by layer.

    ``width`` counts the last prompt token and the answer's tokens but the last. ``arrangement`` of the rows (None: the
    one that was found to be right).
    """
    prompt, answer = (torch.tensor([ids], device=bridge.cfg.device) for ids in (pair[0], pair[1][:-1]))
    own = torch.cat([prompt[:, -1:], answer.to(prompt)], 1)
    cache = None
    if prompt.shape[1] > 1:
        cache = bridge.run(prompt[:, :-1], None, use_cache=True, logits_to_keep=1).past_key_values
    rows = _Rows(arrangement or bridge.arrangement, own.shape[1], cache, bridge.cfg.n_heads)
    with ExitStack() as hooks:
        for number, layer in enumerate(bridge.decoder.layers):
            fork = forks.get(number)
            enter = partial(rows.enter, number, fork)
            hooks.callback(layer.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            if fork is not None and fork.patched is not None and layer.output is not None:
                hooks.callback(layer.output.register_forward_pre_hook(partial(rows.patch, fork)).remove)
        hooks.callback(bridge.decoder.layers[-1].module.register_forward_hook(rows.leave).remove)
        bridge.run(own, None, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return rows.final[-1]


@dataclass
class _Rows:
    """The rows on their way through the layers; ``before`` counts those that a layer's own have joined."""

    arrangement: Arrangement
    width: int
    cache: Any
    n_heads: int
    before: int = 0
    final: list[Tensor] = field(default_factory=list)

    def enter(
        self, number: int, fork: Fork | None, layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Before a layer: its rows enter, and what goes along is made to fit their number."""
        args, options = _named(layer, args, options)
        stream, _ = taken(args, options)
        rows = self.arrangement.of(stream, self.width)
        self.before = len(rows)
        if fork is not None:
            new = rows[:1].repeat(fork.rows, 1, 1)
            if fork.added is not None:
                new[:, 0] += fork.added.to(new)
            rows = torch.cat([rows, new])
        layers = [] if self.cache is None else self.cache.layers
        cached = layers[number] if number < len(layers) else None
        args, options = self.arrangement.fit((args, options), cached, rows)
        return taken(args, options)[1](self.arrangement.whole(rows))

    def patch(self, fork: Fork, projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before a layer's output projection: the heads of the rows that entered there."""
        assert fork.patched is not None
        z = self.arrangement.of(args[0], self.width).clone()
        new = z[self.before :, 0].clone().unflatten(-1, (self.n_heads, -1))
        z[self.before :, 0] = fork.patched(new).flatten(1).to(z)
        return (self.arrangement.whole(z), *args[1:])

    def leave(self, layer: nn.Module, args: Any, output: Any) -> Any:
        """After the last layer: the rows are kept, and only the clean one goes on to the logits."""
        self.final.append(self.arrangement.of(first(output), self.width))
        clean = self.arrangement.whole(self.final[-1][:1])
        return (clean, *output[1:]) if isinstance(output, tuple) else clean


def _named(layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's call with all but the stream by name, as far as its forward function names them."""
    names = [
        each.name
        for each in signature(type(layer).forward).parameters.values()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    along = dict(zip(names[2:], args[1:], strict=False))  # after self and the stream
    return (args[:1] + args[1 + len(along) :]), options | along


def head_forks(means: Float[Tensor, "layer head d_head"], heads: Sequence[Head]) -> dict[int, Fork]:
    """A row for each head, whose output becomes its mean; heads come in the order of layers."""
    layers = {layer: [head for at, head in heads if at == layer] for layer, _ in heads}

    def patched(layer: int, chosen: list[int]) -> Callable[[Tensor], Tensor]:
        def edit(z: Float[Tensor, "new head d_head"]) -> Tensor:
            z[range(len(chosen)), chosen] = means[layer, chosen].to(z)
            return z

        return edit

    return {layer: Fork(len(chosen), patched=patched(layer, chosen)) for layer, chosen in layers.items()}
