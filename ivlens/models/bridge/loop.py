"""Vectors added at the last prompt token one pass at a time, where the key-value cache does not serve many rows."""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...vocabulary import Ids, TokenizedPrompt
from ..hooks import hooked, resid_pre_name
from ..passes import last_token
from ..runs import answer_logits, padded
from ..streams.readout import answer_scores
from .model import Bridge


def greedy_by_loop(
    bridge: Bridge, pair: TokenizedPrompt, added: Mapping[int, Float[Tensor, "added d_model"]]
) -> tuple[Float[Tensor, "row answer"], Bool[Tensor, " row"]]:
    """What ``greedy_of`` gives for the clean row and one of each vector, layer by layer."""
    rows = [_read(logits, pair[1]) for logits in _logits(bridge, pair, added)]
    scores, greedy = zip(*rows, strict=True)
    return torch.stack(scores), torch.stack(greedy)


def _logits(
    bridge: Bridge, pair: TokenizedPrompt, added: Mapping[int, Float[Tensor, "added d_model"]]
) -> Iterator[Float[Tensor, "answer vocab"]]:
    prompt = padded([pair], bridge.cfg.device)
    yield answer_logits(bridge, prompt)[0]
    for layer in sorted(added):
        for vector in added[layer]:
            with hooked(bridge, {resid_pre_name(layer): adding(vector)}):
                yield answer_logits(bridge, prompt)[0]


def _read(logits: Float[Tensor, "answer vocab"], answer: Ids) -> tuple[Float[Tensor, " answer"], Bool[Tensor, ""]]:
    targets = torch.tensor(answer, device=logits.device)
    return answer_scores(logits[None], answer)[0], (logits.argmax(-1) == targets).all()


def adding(vector: Float[Tensor, " d_model"]) -> Callable[[Tensor], Tensor]:
    """The edit of a residual stream that adds a vector at the last prompt token."""

    def edit(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        row, position = last_token(stream)
        stream = stream.clone()
        stream[row, position] += vector.to(stream)
        return stream

    return edit
