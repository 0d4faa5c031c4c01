"""Logits and scores of final residual streams, by the bridged model's own norm, head and what it does to logits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...vocabulary import Ids
from ..points import HandThrough
from ..streams.readout import answer_scores, strongest_wrong
from .model import Bridge

LOGITS_AT_ONCE = 1 << 24  # 64 MB in float32


def logits_of(model: Bridge, residual: Float[Tensor, "row width d_model"]) -> Float[Tensor, "row width vocab"]:
    """Logits of final residual streams, in float32 or wider: the model's own pass, its layers handing them through."""
    tokens = torch.zeros(residual.shape[:2], dtype=torch.long, device=model.cfg.device)
    with _handed_through(model, residual):
        logits: Tensor = model.run(tokens, None).logits
    return logits.float() if logits.element_size() < 4 else logits


@contextmanager
def _handed_through(model: Bridge, residual: Float[Tensor, "row width d_model"]) -> Iterator[None]:
    """Within this context every layer gives what it is given, and the last one ``residual``."""
    layers = [layer.module for layer in model.decoder.layers]
    before = [(layer, vars(layer).get("forward")) for layer in layers]
    try:
        for layer in layers:
            instead = residual if layer is layers[-1] else None
            vars(layer)["forward"] = HandThrough(instead, model.decoder.gives_tuple)
        yield
    finally:
        for layer, forward in before:
            if forward is None:
                vars(layer).pop("forward", None)
            else:
                vars(layer)["forward"] = forward


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
    bridge: Bridge, residual: Float[Tensor, "row width d_model"], answers: Sequence[Ids]
) -> list[tuple[Float[Tensor, "row answer"], Bool[Tensor, " row"]]]:
    """Of each answer, each row's log probabilities of its tokens, and whether each of them is the most likely one."""
    parts = []
    for logits in _logits(bridge, residual):
        best, targets = logits.argmax(-1), [torch.tensor(answer, device=logits.device) for answer in answers]
        greedy = [(best[:, : len(answer)] == target).all(-1) for answer, target in zip(answers, targets, strict=True)]
        parts.append([answer_scores(logits[:, : len(answer)], answer) for answer in answers] + greedy)
    found = [torch.cat(rows) for rows in zip(*parts, strict=True)]
    return [*zip(found[: len(answers)], found[len(answers) :], strict=True)]


def _logits(bridge: Bridge, residual: Float[Tensor, "row width d_model"]) -> Iterator[Tensor]:
    """Logits of some rows at a time."""
    size = max(1, LOGITS_AT_ONCE // (residual.shape[1] * bridge.cfg.d_vocab))
    return (logits_of(bridge, rows) for rows in residual.split(size))
