"""Many interventions at the last prompt token, over Hugging Face's own key-value cache.

As with last-token streams, the prompt's earlier tokens are run once, into a cache. Then the last prompt token and the
answer's run through the layers once for each intervention, as rows that lie as ``rows`` says. A row enters in the layer
of its intervention, as a copy of the clean row, with which it agrees up to there. No code is specific to a family.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...vocabulary import Ids, TokenizedPrompt
from ..forks import NO_FORKS, Forks
from ..points import Point, attn_out_name, first, mlp_out_name, taken, z_name
from ..tails import PromptCandidates
from .model import Bridge
from .rows import Arrangement


@torch.no_grad()
def run_rows(
    bridge: Bridge,
    pair: TokenizedPrompt,
    forks: Mapping[int, Forks],
    arrangement: Arrangement | None = None,
    cache: Any = None,
) -> Float[Tensor, "row width d_model"]:
    """A prompt's rows after the last layer: the clean one, then those of ``forks``, layer by layer.

    ``width`` counts the last prompt token and the answer's tokens but the last. ``arrangement`` of the rows (None: the
    one that was found to be right). ``cache`` is the prompt's, which is used up (None: the prompt runs).
    """
    own = torch.tensor([[pair[0][-1], *pair[1][:-1]]], device=bridge.cfg.device)
    cache = prompt_cache(bridge, pair[0]) if cache is None else cache
    rows = _Rows(arrangement or bridge.arrangement, own.shape[1], cache)
    with ExitStack() as hooks:
        for number, layer in enumerate(bridge.decoder.layers):
            of_layer = forks.get(number, NO_FORKS)
            enter = partial(rows.enter, number, of_layer)
            hooks.callback(layer.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            for point, edit in _edits(bridge, number, of_layer):
                hook = partial(rows.edit, edit)
                hooks.callback(point.detach, hook)
                point.attach(hook)
        leave = partial(rows.leave, forks.get(bridge.cfg.n_layers, NO_FORKS))
        hooks.callback(bridge.decoder.layers[-1].module.register_forward_hook(leave).remove)
        bridge.run(own, None, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return rows.final[-1]


def prompt_cache(bridge: Bridge, prompt: Ids) -> Any:
    """The key-value cache of a prompt without its last token; None for a prompt of one token."""
    tokens = torch.tensor([prompt[:-1]], device=bridge.cfg.device)
    return bridge.run(tokens, None, use_cache=True, logits_to_keep=1).past_key_values if prompt[1:] else None


def run_candidates(
    bridge: Bridge, asked: PromptCandidates, forks: Mapping[int, Forks]
) -> list[Float[Tensor, "row width d_model"]]:
    """The rows of a prompt's tails, for which it runs once."""
    cache = prompt_cache(bridge, asked.prompt_ids)
    return [run_rows(bridge, pair, forks, cache=copy.deepcopy(cache)) for pair in asked.pairs]


def _edits(bridge: Bridge, number: int, forks: Forks) -> Iterator[tuple[Point, Callable[[Tensor], None]]]:
    """Where a layer's forks are edited after they entered, and how: edits get the last prompt token of its new rows."""
    spans, points = forks.spans, bridge.hook_dict

    def heads(new: Float[Tensor, "new head d_head"]) -> None:
        """Where what a head writes is replaced, its z becomes zero: then the head adds that output only."""
        new[range(spans["z"].start, spans["written"].stop), forks.heads] = 0
        if forks.z is not None:
            new[range(len(new))[spans["z"]], forks.heads[: len(forks.z)]] = forks.z[:, 0].to(new)

    def write(new: Float[Tensor, "new d_model"]) -> None:
        assert forks.written is not None
        new[spans["written"]] += forks.written[:, 0].to(new)

    def put(kind: str, values: Float[Tensor, "fork 1 d_model"], new: Float[Tensor, "new d_model"]) -> None:
        new[spans[kind]] = values[:, 0].to(new)

    output = bridge.decoder.layers[number].output
    if forks.heads:
        yield points[z_name(number)], heads
    if forks.written is not None and output is not None:
        yield Point(output, given=False), write
    if forks.attention is not None:
        yield points[attn_out_name(number)], partial(put, "attention", forks.attention)
    if forks.mlp is not None:
        yield points[mlp_out_name(number)], partial(put, "mlp", forks.mlp)


@dataclass
class _Rows:
    """The rows on their way through the layers; ``before`` counts those that a layer's own have joined."""

    arrangement: Arrangement
    width: int
    cache: Any
    before: int = 0
    final: list[Tensor] = field(default_factory=list)

    def enter(
        self, number: int, forks: Forks, layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Before a layer: its rows enter, and what goes along is made to fit their number."""
        args, options = _named(layer, args, options)
        stream, _ = taken(args, options)
        rows = self.arrangement.of(stream, self.width)
        self.before = len(rows)
        rows = _forked(rows, forks)
        layers = [] if self.cache is None else self.cache.layers
        cached = layers[number] if number < len(layers) else None
        args, options = self.arrangement.fit((args, options), cached, rows)
        return taken(args, options)[1](self.arrangement.whole(rows))

    def edit(self, edit: Callable[[Tensor], None], module: Any, inputs: Any, activation: Tensor) -> Tensor:
        """At a hook point: the last prompt token of the rows that entered before this layer."""
        rows = self.arrangement.of(activation, self.width).clone()
        edit(rows[self.before :, 0])
        return self.arrangement.whole(rows)

    def leave(self, forks: Forks, layer: nn.Module, args: Any, output: Any) -> Any:
        """After the last layer: the last rows fork, all are kept, and only the clean one goes on to the logits."""
        self.final.append(_forked(self.arrangement.of(first(output), self.width), forks))
        clean = self.arrangement.whole(self.final[-1][:1])
        return (clean, *output[1:]) if isinstance(output, tuple) else clean


def _forked(rows: Float[Tensor, "row width d_model"], forks: Forks) -> Float[Tensor, "forked width d_model"]:
    """The rows, and those that fork off the clean one: another value of the stream at the last prompt token."""
    if not forks.count:
        return rows
    new = rows[:1].repeat(forks.count, 1, 1)
    if forks.added is not None:
        new[forks.spans["added"], 0] += forks.added[:, 0].to(new)
    if forks.residual is not None:
        new[forks.spans["residual"], 0] = forks.residual[:, 0].to(new)
    return torch.cat([rows, new])


def _named(layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's call with all but the stream by name, as far as its forward function names them."""
    names = [
        each.name
        for each in signature(type(layer).forward).parameters.values()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    along = dict(zip(names[2:], args[1:], strict=False))  # after self and the stream
    return (args[:1] + args[1 + len(along) :]), options | along
