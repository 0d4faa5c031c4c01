"""Many interventions at the last prompt token, over Hugging Face's own key-value cache.

As with last-token streams, the prompt's earlier tokens are run once, into a cache. Then the last prompt token and the
answer's run through the layers as rows of one batch, each row with its own intervention; a row enters in the layer of
its intervention, as a copy of the clean row, which is all that it was before. To the model this is a batch of prompts
that share their beginning, so that it needs to know nothing of the family.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...vocabulary import Head, Ids, TokenizedPrompt
from ..points import first, taken
from ..streams.readout import answer_scores, strongest_wrong
from .model import Bridge

LOGITS_AT_ONCE = 1 << 24  # 64 MB in float32


@dataclass(frozen=True)
class Fork:
    """Rows that enter before a layer: how many, and their edit of the residual stream or of the heads' outputs.

    An edit gets the new rows at the last prompt token, [new, d_model] or [new, head, d_head].
    """

    rows: int
    added: Float[Tensor, "new d_model"] | None = None
    patched: Callable[[Float[Tensor, "new head d_head"]], Tensor] | None = None


@torch.no_grad()
def run_rows(bridge: Bridge, pair: TokenizedPrompt, forks: Mapping[int, Fork]) -> Float[Tensor, "row width d_model"]:
    """A prompt's rows after the last layer: the clean one, then those of ``forks``, layer by layer.

    ``width`` counts the last prompt token and the answer's tokens but the last.
    """
    prompt, answer = (torch.tensor([ids], device=bridge.cfg.device) for ids in (pair[0], pair[1][:-1]))
    own = torch.cat([prompt[:, -1:], answer.to(prompt)], 1)
    cache = None
    if prompt.shape[1] > 1:
        cache = bridge.run(prompt[:, :-1], None, use_cache=True, logits_to_keep=1).past_key_values
    final: list[Tensor] = []
    with ExitStack() as hooks:
        for number, layer in enumerate(bridge.decoder.layers):
            entry = _Entry(cache, number, forks.get(number), bridge.cfg.n_heads)
            hooks.callback(layer.module.register_forward_pre_hook(entry.enter, with_kwargs=True).remove)
            if layer.output is not None and entry.fork is not None and entry.fork.patched is not None:
                hooks.callback(layer.output.register_forward_pre_hook(entry.patch).remove)
        hooks.callback(bridge.decoder.layers[-1].module.register_forward_hook(partial(_take, final)).remove)
        bridge.run(own, None, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return final[-1]


def _take(final: list[Tensor], layer: nn.Module, args: Any, output: Any) -> Any:
    """Keep the rows that leave the last layer, and let the model make logits of the first one only."""
    final.append(first(output))
    return (final[-1][:1], *output[1:]) if isinstance(output, tuple) else final[-1][:1]


@dataclass
class _Entry:
    """What happens before a layer, and in it: rows enter, the cache grows with them, heads' outputs are patched."""

    cache: Any
    number: int
    fork: Fork | None
    n_heads: int
    before: int = 0

    def enter(self, layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        stream, put = taken(args, options)
        self.before = len(stream)
        if self.fork is not None:
            new = stream[:1].repeat(self.fork.rows, 1, 1)
            if self.fork.added is not None:
                new[:, 0] += self.fork.added.to(new)
            stream = torch.cat([stream, new])
        if self.cache is not None and self.number < len(self.cache.layers):
            _widen(self.cache.layers[self.number], len(stream))
        return put(stream)

    def patch(self, projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        assert self.fork is not None
        assert self.fork.patched is not None
        z = args[0].clone()
        new = z[self.before :, 0].clone().unflatten(-1, (self.n_heads, -1))
        z[self.before :, 0] = self.fork.patched(new).flatten(1).to(z)
        return (z, *args[1:])


def _widen(cached: Any, rows: int) -> None:
    """Give every row what a layer has cached of the prompt: keys and values without a copy, states with one."""
    for name, value in vars(cached).items():
        if isinstance(value, Tensor) and value.ndim and len(value) == 1:
            shared = value.expand(rows, *value.shape[1:])
            setattr(cached, name, shared if name in ("keys", "values") else shared.clone())


def head_forks(means: Float[Tensor, "layer head d_head"], heads: Sequence[Head]) -> dict[int, Fork]:
    """A row for each head, whose output becomes its mean; heads come in the order of layers."""
    layers = {layer: [head for at, head in heads if at == layer] for layer, _ in heads}

    def patched(layer: int, chosen: list[int]) -> Callable[[Tensor], Tensor]:
        def edit(z: Float[Tensor, "new head d_head"]) -> Tensor:
            z[range(len(chosen)), chosen] = means[layer, chosen].to(z)
            return z

        return edit

    return {layer: Fork(len(chosen), patched=patched(layer, chosen)) for layer, chosen in layers.items()}


def scores_of(
    bridge: Bridge, residual: Float[Tensor, "row width d_model"], answer: Ids, *, against_foil: bool
) -> Float[Tensor, "row answer"]:
    """Each row's scores of the answer's tokens; the foils are the strongest wrong tokens of row 0."""
    foils, scores = None, []
    for logits in _logits(bridge, residual):
        if against_foil and foils is None:
            foils = strongest_wrong(logits[0], answer)
        scores.append(answer_scores(logits, answer, foils))
    return torch.cat(scores)


def greedy_of(
    bridge: Bridge, residual: Float[Tensor, "row width d_model"], answer: Ids
) -> tuple[Float[Tensor, "row answer"], Bool[Tensor, " row"]]:
    """Each row's log probabilities of the answer's tokens, and whether each of them is the most likely one."""
    targets = torch.tensor(answer, device=residual.device)
    parts = [
        (answer_scores(logits, answer), (logits.argmax(-1) == targets).all(-1)) for logits in _logits(bridge, residual)
    ]
    scores, greedy = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(greedy)


def _logits(bridge: Bridge, residual: Float[Tensor, "row width d_model"]) -> Any:
    from .protocol import logits_of

    size = max(1, LOGITS_AT_ONCE // (residual.shape[1] * bridge.cfg.d_vocab))
    return (logits_of(bridge, rows) for rows in residual.split(size))
