"""Plain forward passes: prompts padded on the right with an explicit mask, logits at the answers' tokens only."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.utilities.activation_functions import apply_softcap

from ..errors import PromptError
from ..vocabulary import Ids, TokenizedPrompt
from .engines import HookedTransformer, Model
from .hooks import hooked
from .passes import last_prompt_tokens
from .points import pattern_name


@dataclass(frozen=True)
class Rows:
    """A batch: prompts with their answers, teacher forced, padded on the right.

    ``tokens`` and ``mask`` are [batch, pos]; ``last`` [batch] is each row's last prompt token, from which the first
    answer token is predicted.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    last: Int[Tensor, " batch"]
    answers: tuple[Ids, ...]


def batches(
    pairs: Sequence[TokenizedPrompt], batch_size: int, *, alike: bool = False
) -> Iterator[tuple[list[int], list[TokenizedPrompt]]]:
    """Batches of prompts of similar length, or that begin ``alike``, each with the prompts' numbers in ``pairs``."""
    order = sorted(range(len(pairs)), key=pairs.__getitem__ if alike else lambda number: sum(map(len, pairs[number])))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        yield numbers, [pairs[number] for number in numbers]


def padded(pairs: Sequence[TokenizedPrompt], device: torch.device | str | None, *, whole: bool = False) -> Rows:
    """One batch of (prompt ids, answer ids); the answer's last token is a target, and an input only if ``whole``."""
    fed = [prompt + (answer if whole else answer[:-1]) for prompt, answer in pairs]
    tokens, mask = padded_ids(fed, device)
    last = torch.tensor([len(prompt) - 1 for prompt, _ in pairs], device=device)
    return Rows(tokens, mask, last, tuple(answer for _, answer in pairs))


def padded_ids(
    rows: Sequence[Ids], device: torch.device | str | None, *, left: bool = False
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Rows of tokens padded to one width, on the right or on the left, and which of them are no padding."""
    width = max(map(len, rows))
    blanks = [(0,) * (width - len(row)) for row in rows]
    ones = [(1,) * len(row) for row in rows]
    pairs = [zip(blanks, each, strict=True) if left else zip(each, blanks, strict=True) for each in (rows, ones)]
    tokens, mask = (torch.tensor([one + other for one, other in each], device=device) for each in pairs)
    return tokens, mask


def check_length(model: Model, pairs: Sequence[TokenizedPrompt]) -> None:
    """Raise PromptError where a prompt with its answer is longer than the model's context, or has no embedding."""
    longest = max((len(prompt) + len(answer) for prompt, answer in pairs), default=0)
    if longest > model.cfg.n_ctx:
        raise PromptError(
            f"prompts within the model's context of {model.cfg.n_ctx} tokens", f"one of {longest}", "shorten it"
        )
    highest = max((token for prompt, answer in pairs for token in (*prompt, *answer)), default=0)
    if highest >= model.cfg.d_vocab:
        raise PromptError(
            f"tokens that the model has embeddings for, {model.cfg.d_vocab} of them",
            f"id {highest}",
            "leave out the tokenizer's added tokens, or load the model with tokenizer= that fits it",
        )


@singledispatch
def final_residual(model: Any, rows: Rows) -> Float[Tensor, "batch pos d_model"]:
    """Residual stream after the last block; hooks that edit the last prompt token find it."""
    with last_prompt_tokens(rows.last, rows.tokens), overflow_shown(model, rows.mask):
        return model(rows.tokens, attention_mask=rows.mask, stop_at_layer=model.cfg.n_layers)


def overflow_shown(model: HookedTransformer, mask: Int[Tensor, "batch pos"]) -> AbstractContextManager[Any]:
    """Within this context attention scores beyond float16 make what follows from them not-a-numbers.

    TransformerLens turns the pattern of such a query into zeros, as if its head were ablated. Padding, which a sliding
    window can leave without a key, keeps its zeros, and so do patterns that somebody's own hooks edit.
    """
    if model.cfg.dtype != torch.float16:
        return nullcontext()
    own = mask.bool()[:, None]  # batch 1 query

    def show(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
        lost = (pattern.sum(-1) == 0) & own.to(pattern.device)
        return pattern.masked_fill(lost[..., None], torch.nan)

    names = [pattern_name(layer) for layer in range(model.cfg.n_layers)]
    return hooked(model, {name: show for name in names if not model.hook_dict[name]._forward_hooks})


def answer_logits(model: Model, rows: Rows) -> list[Float[Tensor, "answer vocab"]]:
    """Each row's logits at the positions from which its answer's tokens are predicted."""
    return list(final_logits(model, answer_residual(model, rows)).split([len(answer) for answer in rows.answers]))


def answer_residual(model: Model, rows: Rows) -> Float[Tensor, "token d_model"]:
    """Final residual stream at the positions from which the rows' answer tokens are predicted, row after row."""
    return at_answers(final_residual(model, rows), rows)


def at_answers(residual: Float[Tensor, "batch pos d_model"], rows: Rows) -> Float[Tensor, "token d_model"]:
    """A residual stream at the positions from which the rows' answer tokens are predicted, row after row."""
    counts = [len(answer) for answer in rows.answers]
    at = torch.cat(
        [torch.arange(count, device=residual.device) + last for count, last in zip(counts, rows.last, strict=True)]
    )
    row = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(residual.device)
    return residual[row, at]


def at_tokens(residual: Float[Tensor, "batch pos d_model"], rows: Rows) -> Float[Tensor, "token d_model"]:
    """A residual stream at every position of the rows but padding, row after row."""
    return residual[rows.mask.bool()]


@singledispatch
def final_logits(model: Any, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Logits of final residual streams, in float32 or wider: final norm, unembedding, soft cap."""
    return _unembedded(model, final_norm(model)(residual[None])[0])


def next_logits(model: HookedTransformer, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch vocab"]:
    """``final_logits`` of the last position only."""
    return _unembedded(model, final_norm(model)(residual[:, -1:])[:, 0])


def final_norm(model: HookedTransformer) -> nn.Module:
    """The norm of final residual streams, which changes nothing in TransformerLens' models without norms."""
    return getattr(model, "ln_final", nn.Identity())


def _unembedded(model: HookedTransformer, normed: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    weight, bias = model.unembed.W_U.T, model.unembed.b_U
    if normed.element_size() < 4:
        normed, weight, bias = normed.float(), weight.float(), bias.float()
    return apply_softcap(F.linear(normed, weight, bias), model.cfg.output_logits_soft_cap)


@singledispatch
def unembedding(model: Any) -> Float[Tensor, "vocab d_model"]:
    """Each token's unembedding direction."""
    return model.unembed.W_U.T
