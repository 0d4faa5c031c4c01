"""The sweep of a bridged model against a plain loop over heads, on a short text."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MismatchError, reason
from ...vocabulary import Ids, ModelPart, TokenizedPrompt
from ..forks import Forks, additions, replacements
from ..hooks import hooked
from ..parts import PartValues
from ..passes import last_token
from ..points import z_name
from ..precision import TOLERANCE
from ..runs import answer_logits, answer_residual, final_logits, padded
from .loop import rows_by_loop
from .model import Bridge
from .rows import IN_BATCH, IN_SEQUENCE, Arrangement, SweepTrial
from .sweep import run_rows

ROWS = 16  # of logits that are compared at once
TEXT = "The quick brown fox jumps over the lazy dog."


@torch.no_grad()
def check_bridge(bridge: Bridge) -> None:
    """Try on a short text what ivlens does with a bridged model.

    A sweep that is wrong is remembered, and refused when it is used.

    Raises:
        MismatchError: logits of the residual stream, or beside padding, are not the model's own.
    """
    tokens = tuple(bridge.to_tokens(TEXT)[0].tolist())
    alone = bridge(torch.tensor([tokens], device=bridge.cfg.device))[0]
    half = tokens[: len(tokens) // 2 + 1]
    whole, padded_half = answer_logits(bridge, padded([_every(tokens), _every(half)], bridge.cfg.device))
    for logits, what in ((whole, "of its residual stream"), (padded_half, "beside padding")):
        difference, size = furthest(logits, alone[: len(logits)])
        allowed = TOLERANCE[bridge.cfg.dtype] * max(1.0, size)
        if not difference <= allowed:
            raise MismatchError(
                f"logits {what} within {allowed:.1e} of the model's own", f"a difference of {difference:.1e}",
                "such a model would not be represented faithfully, so it is refused",
            )  # fmt: skip
    _ = bridge.sweep_trial, bridge.shares_prefixes


def _every(tokens: Ids) -> TokenizedPrompt:
    """A pair whose answer's logits are those at every position but the last."""
    return TokenizedPrompt(tokens[:1], tokens[1:])


def furthest(one: Float[Tensor, "row vocab"], other: Float[Tensor, "row vocab"]) -> tuple[float, float]:
    """Largest difference of two tables of logits, and the second's largest logit; row by row, to spare memory."""
    rows = [
        torch.stack([(a - b).abs().max().double(), b.abs().max().double()]) for a, b in zip(one, other, strict=True)
    ]
    difference, size = torch.stack(rows).amax(0).tolist()
    return difference, size


@torch.no_grad()
def try_sweep(bridge: Bridge) -> SweepTrial:
    """The first arrangement of rows that gives what one pass for each intervention gives, or what the last gets wrong.

    Tried are all heads of three layers, or where layers lack heads the residual stream before three layers; on a prompt
    with an answer of one token and of two, and on a prompt of one token.
    """
    tokens = tuple(bridge.to_tokens(TEXT)[0].tolist())
    pairs = [
        TokenizedPrompt(tokens[:-1], tokens[-1:]),
        TokenizedPrompt(tokens[:-1], (tokens[-1], tokens[0])),
        TokenizedPrompt(tokens[:1], (tokens[1], tokens[0])),
    ]
    layers = sorted({0, bridge.cfg.n_layers // 2, bridge.cfg.n_layers - 1})
    loop = _heads_in_turn if all(bridge.decoder.widths) else _shifts_in_turn
    expected = [(pair, *loop(bridge, pair, layers)) for pair in pairs]
    trouble = None
    for arrangement in (IN_SEQUENCE, IN_BATCH):
        found = (_trouble(bridge, arrangement, *each) for each in expected)
        trouble = next((each for each in found if each is not None), None)
        if trouble is None:
            return SweepTrial(arrangement, None)
    return SweepTrial(None, trouble)


def _trouble(
    bridge: Bridge,
    arrangement: Arrangement,
    pair: TokenizedPrompt,
    forks: Mapping[int, Forks],
    loop: Float[Tensor, "token d_model"],
) -> str | None:
    """What an arrangement of rows gets wrong against a loop's final residual streams, or None."""
    try:
        swept = run_rows(bridge, pair, forks, arrangement)[1:].flatten(0, 1)
    except Exception as error:
        return f"its cache does not take several rows: {reason(error)}"
    found = [
        furthest(final_logits(bridge, one), final_logits(bridge, other))
        for one, other in zip(swept.split(ROWS), loop.split(ROWS), strict=True)
    ]
    difference, size = torch.tensor(found).amax(0).tolist()  # which keeps not-a-numbers
    allowed = TOLERANCE[bridge.cfg.dtype] * max(1.0, size)
    return None if difference <= allowed else f"logits {difference:.1e} from a loop's, where {allowed:.1e} is rounding"


def _heads_in_turn(
    bridge: Bridge, pair: TokenizedPrompt, layers: list[int]
) -> tuple[dict[int, Forks], Float[Tensor, "token d_model"]]:
    """The forks that negate each head of the layers, and the final streams of plain passes that do the same."""
    n_heads, clean = bridge.cfg.n_heads, dict[int, Tensor]()
    with hooked(bridge, {z_name(layer): _keep(clean, layer) for layer in layers}):
        answer_residual(bridge, padded([pair], bridge.cfg.device))
    means = torch.zeros(bridge.cfg.n_layers, *clean[layers[0]].shape).to(clean[layers[0]].dtype)
    means[layers] = torch.stack([-clean[layer].cpu() for layer in layers])
    rows, loop = padded([pair] * n_heads, bridge.cfg.device), []
    for layer in layers:
        with hooked(bridge, {z_name(layer): _negate_in_turn}):
            loop.append(answer_residual(bridge, rows))
    heads = [ModelPart("z", layer, head) for layer in layers for head in range(n_heads)]
    return replacements(PartValues(z=means[None]), heads), torch.cat(loop)


def _shifts_in_turn(
    bridge: Bridge, pair: TokenizedPrompt, layers: list[int]
) -> tuple[dict[int, Forks], Float[Tensor, "token d_model"]]:
    """Likewise with the stream at the last prompt token shifted before each of the layers."""
    shift = torch.linspace(-1, 1, bridge.cfg.d_model)[None]
    shifts = dict.fromkeys(layers, shift)
    return additions(shifts), rows_by_loop(bridge, pair, shifts)[1:].flatten(0, 1)


def _keep(clean: dict[int, Tensor], layer: int) -> Callable[[Tensor], None]:
    def edit(z: Float[Tensor, "batch pos head d_head"]) -> None:
        clean[layer] = z[last_token(z)][0].clone()

    return edit


def _negate_in_turn(z: Float[Tensor, "head pos head d_head"]) -> Tensor:
    """Negate one head in each row, the first one in the first."""
    row, position = last_token(z)
    z = z.clone()
    z[row, position, row] *= -1
    return z
