"""Scores of an answer's tokens from final residual streams, one block of the vocabulary at a time."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.activation_functions import apply_softcap

from ...vocabulary import Ids
from ..engines import HookedTransformer
from ..precision import in_dtype
from ..runs import final_norm

LOGITS_AT_ONCE = 1 << 19  # about 2 MB of logits: a block of the vocabulary that stays in cache,
ROWS = 256  # of several prompts that are read together
COLUMNS = 256  # and is a multiple of these: matrix products of odd sizes are slower


def answer_scores(
    logits: Float[Tensor, "stream answer vocab"], answer: Ids, foils: Int[Tensor, " answer"] | None = None
) -> Float[Tensor, "stream answer"]:
    """Log probability of each of the answer's tokens; with ``foils``, its logit minus the foil token's."""
    logits = _wide(logits)
    at = torch.arange(len(answer), device=logits.device)
    target = logits[:, at, torch.tensor(answer, device=logits.device)]
    return target - (logits.logsumexp(-1) if foils is None else logits[:, at, foils])


def read_scores(
    model: HookedTransformer, residual: Float[Tensor, "stream answer d_model"], answer: Ids, *, against_foil: bool
) -> Float[Tensor, "stream answer"]:
    """``answer_scores`` of final residual streams, without holding all logits at once.

    The foils are the strongest wrong tokens of stream 0.
    """
    normed = _wide(in_dtype(final_norm(model), residual.dtype)(residual))
    target = _logits_of(model, normed, torch.tensor(answer, device=residual.device))
    if against_foil:
        first = torch.cat([block[0] for block in _logit_blocks(model, normed[:1])], -1)
        return target - _logits_of(model, normed, strongest_wrong(first, answer))
    sums = [_log_sum_exp_in_place(block) for block in _logit_blocks(model, normed)]
    return target - torch.stack(sums).logsumexp(0)


def read_together(
    model: HookedTransformer, residuals: Sequence[Float[Tensor, "stream _ d_model"]], answers: Sequence[Ids]
) -> list[Float[Tensor, "stream _"]]:
    """``read_scores`` of several prompts, which share a pass over the vocabulary where each has few rows.

    The unembedding is a model's largest matrix, and to read it from memory takes longer than its product with few rows.
    """
    found: list[Tensor] = []
    for group in _groups([residual[..., 0].numel() for residual in residuals]):
        if len(group) == 1:
            found.append(read_scores(model, residuals[group[0]], answers[group[0]], against_foil=False))
            continue
        rows = torch.cat([residuals[number].flatten(0, 1) for number in group])
        targets = [token for number in group for _ in residuals[number] for token in answers[number]]
        scores = read_scores(model, rows[None], tuple(targets), against_foil=False)[0]
        sizes = [residuals[number][..., 0].numel() for number in group]
        found += [
            own.unflatten(0, (-1, len(answers[number]))) for number, own in zip(group, scores.split(sizes), strict=True)
        ]
    return found


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """The numbers of consecutive prompts whose rows are at most ``ROWS`` together, or of one prompt."""
    groups: list[list[int]] = []
    rows = 0
    for number, size in enumerate(sizes):
        rows += size
        if not groups or rows > ROWS:
            groups.append([])
            rows = size
        groups[-1].append(number)
    return groups


def read_greedy(
    model: HookedTransformer, residual: Float[Tensor, "stream width d_model"], answers: Sequence[Ids]
) -> list[tuple[Float[Tensor, "stream answer"], Bool[Tensor, " stream"]]]:
    """Of each answer, the log probability of each of its tokens, and whether each of them is the most likely one."""
    normed = _wide(final_norm(model)(residual))
    peaks, indices, sums, start = [], [], [], 0
    for block in _logit_blocks(model, normed):
        peak, index = block.max(-1)
        peaks.append(peak)
        indices.append(index + start)
        start += block.shape[-1]
        sums.append(_log_sum_exp_in_place(block))
    best = torch.stack(indices).gather(0, torch.stack(peaks).argmax(0)[None])[0]
    total, found = torch.stack(sums).logsumexp(0), []
    for answer in answers:
        targets, at = torch.tensor(answer, device=residual.device), slice(len(answer))
        scores = _logits_of(model, normed[:, at], targets) - total[:, at]
        found.append((scores, (best[:, at] == targets).all(-1)))
    return found


def strongest_wrong(logits: Float[Tensor, "answer vocab"], answer: Ids) -> Int[Tensor, " answer"]:
    """For each of the answer's tokens, the most likely other token: the foil of the logit difference."""
    targets = torch.tensor(answer, device=logits.device)
    return logits.scatter(-1, targets[:, None], -torch.inf).argmax(-1)


def _logits_of(
    model: HookedTransformer, normed: Float[Tensor, "stream answer d_model"], tokens: Int[Tensor, " answer"]
) -> Float[Tensor, "stream answer"]:
    """The logit of one token at each of the answer's positions."""
    weight, bias = model.unembed.W_U.T[tokens].to(normed), model.unembed.b_U[tokens].to(normed)
    return apply_softcap((normed * weight).sum(-1) + bias, model.cfg.output_logits_soft_cap)


def _logit_blocks(model: HookedTransformer, normed: Float[Tensor, "stream answer d_model"]) -> Iterator[Tensor]:
    """All logits, one block of the vocabulary at a time, in the dtype of ``normed``."""
    weight, bias = model.unembed.W_U.T, model.unembed.b_U  # a view, contiguous in the layout after loading
    size = COLUMNS * max(1, LOGITS_AT_ONCE // normed[..., 0].numel() // COLUMNS)
    biases = bias.split(size) if bias.any() else [None] * math.ceil(len(weight) / size)
    blocks = zip(weight.split(size), biases, strict=True)
    cap = model.cfg.output_logits_soft_cap
    return (
        apply_softcap(F.linear(normed, block.to(normed), None if b is None else b.to(normed)), cap)
        for block, b in blocks
    )


def _log_sum_exp_in_place(logits: Float[Tensor, "stream answer block"]) -> Float[Tensor, "stream answer"]:
    """``logits.logsumexp(-1)`` without a copy of the logits, which are overwritten."""
    peak = logits.amax(-1, keepdim=True)
    return logits.sub_(peak).exp_().sum(-1).log_().add_(peak[..., 0])


def _wide(values: Tensor) -> Tensor:
    """In float32 or wider, since half precision is too coarse for probabilities."""
    return values.float() if values.element_size() < 4 else values
