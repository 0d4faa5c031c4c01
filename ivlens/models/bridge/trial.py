"""The sweep of a bridged model against a plain loop over heads, on a short text."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MismatchError
from ...vocabulary import Head, Ids, TokenizedPrompt
from ..hooks import hooked, resid_pre_name, z_name
from ..passes import last_token
from ..precision import TOLERANCE
from ..runs import answer_logits, answer_residual, final_logits, padded
from .model import Bridge
from .sweep import Fork, head_forks, run_rows

ROWS = 16  # of logits that are compared at once
TEXT = "The quick brown fox jumps over the lazy dog."


@torch.no_grad()
def check_bridge(bridge: Bridge) -> None:
    """Try on a short text what ivlens does with a bridged model; what the sweep gets wrong is kept to be refused later.

    Raises:
        MismatchError: logits of the residual stream, or beside padding, are not the model's own.
    """
    tokens = tuple(bridge.to_tokens(TEXT)[0].tolist())
    alone = bridge(torch.tensor([tokens], device=bridge.cfg.device))[0]
    half = tokens[: len(tokens) // 2 + 1]
    whole, padded_half = answer_logits(bridge, padded([_every(tokens), _every(half)], bridge.cfg.device))
    for logits, what in ((whole, "of its residual stream"), (padded_half, "beside padding")):
        difference, size = _furthest(logits, alone[: len(logits)])
        allowed = TOLERANCE[bridge.cfg.dtype] * max(1.0, size)
        if not difference <= allowed:
            raise MismatchError(
                f"logits {what} within {allowed:.1e} of the model's own", f"a difference of {difference:.1e}",
                "such a model would not be represented faithfully, so it is refused",
            )  # fmt: skip
    _ = bridge.refused_sweep


def _every(tokens: Ids) -> TokenizedPrompt:
    """A pair whose answer's logits are those at every position but the last."""
    return TokenizedPrompt(tokens[:1], tokens[1:])


def _furthest(one: Float[Tensor, "row vocab"], other: Float[Tensor, "row vocab"]) -> tuple[float, float]:
    """Largest difference of two tables of logits, and the second's largest logit; row by row, to spare memory."""
    rows = [
        torch.stack([(a.double() - b.double()).abs().max(), b.double().abs().max()])
        for a, b in zip(one, other, strict=True)
    ]
    difference, size = torch.stack(rows).amax(0).tolist()
    return difference, size


@torch.no_grad()
def sweep_trouble(bridge: Bridge) -> str | None:
    """What the sweep gets wrong on this model, or None where it gives what one pass for each intervention gives.

    Tried are all heads of three layers, a row of a batch for each, or where layers lack heads the residual stream
    before three layers.
    """
    tokens = tuple(bridge.to_tokens(TEXT)[0].tolist())
    pair = TokenizedPrompt(tokens[:-1], (tokens[-1], tokens[0]))
    last = bridge.cfg.n_layers - 1
    layers = sorted({0, bridge.cfg.n_layers // 2, last})
    try:
        difference, size = (_on_heads if all(bridge.decoder.widths) else _on_stream)(bridge, pair, layers)
    except Exception as error:
        return f"its cache fails with {type(error).__name__}: {error!s:.100}"
    allowed = TOLERANCE[bridge.cfg.dtype] * max(1.0, size)
    if not difference <= allowed:
        return f"logits that differ by {difference:.1e} from a loop's, where {allowed:.1e} is rounding"
    return None


def _on_heads(bridge: Bridge, pair: TokenizedPrompt, layers: list[int]) -> tuple[float, float]:
    """Largest difference of logits with each head of the layers negated, and the largest logit."""
    n_heads, clean = bridge.cfg.n_heads, dict[int, Tensor]()
    with hooked(bridge, {z_name(layer): _keep(clean, layer) for layer in layers}):
        answer_residual(bridge, padded([pair], bridge.cfg.device))
    means = torch.zeros(bridge.cfg.n_layers, *clean[layers[0]].shape).to(clean[layers[0]].dtype)
    means[layers] = torch.stack([-clean[layer].cpu() for layer in layers])
    rows, loop = padded([pair] * n_heads, bridge.cfg.device), []
    for layer in layers:
        with hooked(bridge, {z_name(layer): _negate_in_turn}):
            loop.append(answer_residual(bridge, rows))
    heads = [Head(layer, head) for layer in layers for head in range(n_heads)]
    return _compared(bridge, run_rows(bridge, pair, head_forks(means, heads)), loop)


def _on_stream(bridge: Bridge, pair: TokenizedPrompt, layers: list[int]) -> tuple[float, float]:
    """Likewise with the stream at the last prompt token shifted before each of the layers."""
    rows, shift = padded([pair], bridge.cfg.device), torch.linspace(-1, 1, bridge.cfg.d_model)
    loop = []
    for layer in layers:
        with hooked(bridge, {resid_pre_name(layer): _shift(shift)}):
            loop.append(answer_residual(bridge, rows))
    return _compared(bridge, run_rows(bridge, pair, {layer: Fork(1, added=shift[None]) for layer in layers}), loop)


def _compared(
    bridge: Bridge, swept: Float[Tensor, "row width d_model"], loop: list[Float[Tensor, "token d_model"]]
) -> tuple[float, float]:
    """Largest difference of the logits of the sweep's rows but the clean one from the loop's, and the largest logit."""
    ones, others = swept[1:].flatten(0, 1), torch.cat(loop).to(swept.device)
    found = [
        _furthest(final_logits(bridge, one), final_logits(bridge, other))
        for one, other in zip(ones.split(ROWS), others.split(ROWS), strict=True)
    ]
    difference, size = torch.tensor(found).amax(0).tolist()  # which keeps not-a-numbers
    return difference, size


def _keep(clean: dict[int, Tensor], layer: int):  # type: ignore[no-untyped-def]
    def edit(z: Float[Tensor, "batch pos head d_head"]) -> None:
        clean[layer] = z[last_token(z)][0].clone()

    return edit


def _negate_in_turn(z: Float[Tensor, "head pos head d_head"]) -> Tensor:
    """Negate one head in each row, the first one in the first."""
    row, position = last_token(z)
    z = z.clone()
    z[row, position, row] *= -1
    return z


def _shift(by: Tensor):  # type: ignore[no-untyped-def]
    def edit(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        row, position = last_token(stream)
        stream = stream.clone()
        stream[row, position] += by.to(stream)
        return stream

    return edit
