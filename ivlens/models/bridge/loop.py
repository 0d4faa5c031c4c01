"""Vectors added at the last prompt token one pass at a time, where the key-value cache does not serve many rows."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...vocabulary import TokenizedPrompt
from ..hooks import hooked
from ..passes import last_token
from ..points import stream_name
from ..runs import answer_residual, padded
from ..tails import PromptCandidates
from .model import Bridge


@torch.no_grad()
def rows_by_loop(
    bridge: Bridge, pair: TokenizedPrompt, added: Mapping[int, Float[Tensor, "added d_model"]]
) -> Float[Tensor, "row width d_model"]:
    """What ``run_rows`` gives for the clean row and one of each vector, layer by layer."""
    prompt = padded([pair], bridge.cfg.device)
    rows = [answer_residual(bridge, prompt)]
    for layer in sorted(added):
        point = stream_name(bridge.cfg.n_layers, layer)
        for vector in added[layer]:
            with hooked(bridge, {point: _adding(vector)}):
                rows.append(answer_residual(bridge, prompt))
    return torch.stack(rows)


def candidates_by_loop(
    bridge: Bridge, asked: PromptCandidates, added: Mapping[int, Float[Tensor, "added d_model"]]
) -> list[Float[Tensor, "row width d_model"]]:
    """What ``run_candidates`` gives: the rows of a prompt's tails."""
    return [rows_by_loop(bridge, pair, added) for pair in asked.pairs]


def _adding(vector: Float[Tensor, " d_model"]) -> Callable[[Tensor], Tensor]:
    def edit(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        row, position = last_token(stream)
        stream = stream.clone()
        stream[row, position] += vector.to(stream)
        return stream

    return edit
