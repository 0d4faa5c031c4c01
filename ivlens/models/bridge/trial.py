"""The sweep of a bridged model against a plain loop over heads, on a short text."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MismatchError
from ...vocabulary import Head, Ids, TokenizedPrompt
from ..hooks import hooked, resid_pre_name, z_name
from ..passes import last_token
from ..precision import TOLERANCE
from ..runs import answer_logits, padded
from .model import Bridge
from .rows import ARRANGEMENTS, Arrangement
from .sweep import Fork, head_forks, run_rows

TEXT = "The quick brown fox jumps over the lazy dog."


@torch.no_grad()
def check_bridge(bridge: Bridge) -> None:
    """Try on a short text what ivlens does with a bridged model; what the sweep gets wrong is kept to be refused later.

    Raises:
        MismatchError: logits read off the residual stream, or beside padding, are not the model's own.
    """
    tokens = tuple(bridge.to_tokens(TEXT)[0].tolist())
    alone = bridge(torch.tensor([tokens], device=bridge.cfg.device))[0].double()
    half = tokens[: len(tokens) // 2 + 1]
    whole, padded_half = answer_logits(bridge, padded([_every(tokens), _every(half)], bridge.cfg.device))
    for logits, what in ((whole, "off its residual stream"), (padded_half, "beside padding")):
        expected = alone[: len(logits)]
        difference = (logits.double() - expected).abs().max().item()
        allowed = _rounding(bridge, expected)
        if not difference <= allowed:
            raise MismatchError(
                f"logits {what} within {allowed:.1e} of the model's own", f"a difference of {difference:.1e}",
                "such a model would not be represented faithfully, so it is refused",
            )  # fmt: skip
    _ = bridge.sweep_trial


def _every(tokens: Ids) -> TokenizedPrompt:
    """A pair whose answer's logits are those at every position but the last."""
    return TokenizedPrompt(tokens[:1], tokens[1:])


def _rounding(bridge: Bridge, logits: Tensor) -> float:
    return TOLERANCE[bridge.cfg.dtype] * max(1.0, logits.abs().max().item())


@torch.no_grad()
def try_sweep(bridge: Bridge) -> tuple[Arrangement | None, str | None]:
    """The first arrangement of rows that gives what one pass for each intervention gives, or what the last gets wrong.

    Tried are all heads of three layers, or where layers lack heads the residual stream before three layers.
    """
    tokens = tuple(bridge.to_tokens(TEXT)[0].tolist())
    pair = TokenizedPrompt(tokens[:-1], (tokens[-1], tokens[0]))
    last = bridge.cfg.n_layers - 1
    layers = sorted({0, bridge.cfg.n_layers // 2, last})
    loop, forks = (_on_heads if all(bridge.decoder.widths) else _on_stream)(bridge, pair, layers)
    trouble = None
    for arrangement in ARRANGEMENTS:
        trouble = _trouble(bridge, pair, forks, arrangement, loop)
        if trouble is None:
            return arrangement, None
    return None, trouble


def _trouble(
    bridge: Bridge, pair: TokenizedPrompt, forks: Mapping[int, Fork], arrangement: Arrangement, loop: Tensor
) -> str | None:
    """What an arrangement of rows gets wrong, or None."""
    from .protocol import logits_of

    try:
        swept = logits_of(bridge, run_rows(bridge, pair, forks, arrangement)[1:])
    except Exception as error:
        return f"its cache fails with {type(error).__name__}: {error!s:.100}"
    difference, allowed = (swept.double() - loop).abs().max().item(), _rounding(bridge, loop)
    return None if difference <= allowed else f"logits {difference:.1e} from a loop's, where {allowed:.1e} is rounding"


def _on_heads(bridge: Bridge, pair: TokenizedPrompt, layers: list[int]) -> tuple[Tensor, dict[int, Fork]]:
    """Logits of one pass for each head of the layers, which is negated, and the forks that do the same."""
    clean: dict[int, Tensor] = {}
    points = {z_name(layer): _keep(clean, layer) for layer in layers}
    rows = padded([pair], bridge.cfg.device)
    with hooked(bridge, points):
        answer_logits(bridge, rows)
    means = torch.zeros(bridge.cfg.n_layers, *clean[layers[0]].shape)
    heads = [Head(layer, head) for layer in layers for head in range(bridge.cfg.n_heads)]
    loop = []
    for layer in layers:
        means[layer] = -clean[layer].float().cpu()
        for head in range(bridge.cfg.n_heads):
            with hooked(bridge, {z_name(layer): _negate(head)}):
                loop.append(answer_logits(bridge, rows)[0])
    return torch.stack(loop).double(), head_forks(means.to(clean[layers[0]].dtype), heads)


def _on_stream(bridge: Bridge, pair: TokenizedPrompt, layers: list[int]) -> tuple[Tensor, dict[int, Fork]]:
    """Likewise with the stream at the last prompt token shifted before each of the layers."""
    rows, shift = padded([pair], bridge.cfg.device), torch.linspace(-1, 1, bridge.cfg.d_model)
    loop = []
    for layer in layers:
        with hooked(bridge, {resid_pre_name(layer): _shift(shift)}):
            loop.append(answer_logits(bridge, rows)[0])
    return torch.stack(loop).double(), {layer: Fork(1, added=shift[None]) for layer in layers}


def _keep(clean: dict[int, Tensor], layer: int):  # type: ignore[no-untyped-def]
    def edit(z: Float[Tensor, "batch pos head d_head"]) -> None:
        clean[layer] = z[last_token(z)][0].clone()

    return edit


def _negate(head: int):  # type: ignore[no-untyped-def]
    def edit(z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        row, position = last_token(z)
        z = z.clone()
        z[row, position, head] *= -1
        return z

    return edit


def _shift(by: Tensor):  # type: ignore[no-untyped-def]
    def edit(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        row, position = last_token(stream)
        stream = stream.clone()
        stream[row, position] += by.to(stream)
        return stream

    return edit
