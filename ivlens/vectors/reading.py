"""Reading a vector as tokens: the logit lens through the final norm, or the nearest unembedding directions."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, checked
from ..errors import ArgumentError
from ..models import HookedTransformer, check_dtype, final_logits, unembedding
from ..records import check_finite
from ..tasks import token_text
from ..vocabulary import check_count
from .instruction import InstructionVector, vector_values


@checked
@torch.no_grad()
def logit_lens(
    model: HookedTransformer,
    vector: InstructionVector,
    k: Count = 10,
    *,
    parts: bool = False,
    lens: Literal["logit", "cosine"] = "logit",
) -> pd.DataFrame:
    """The ``k`` tokens that a vector, or with ``parts`` also each of its heads' parts, points to most.

    The tokens need not show what a vector does: function vectors often steer without readable tokens (2604.02608).

    Args:
        model: the model whose final norm and unembedding are used.
        vector: the vector to read.
        k: how many tokens.
        parts: also read each head's part.
        lens: "logit": the vector alone through the final norm and the unembedding, in logits above the mean over the
            vocabulary; "cosine": the cosine with each token's unembedding direction.

    Returns:
        Columns: of ("vector", or "layer.head"), rank from 1, token, value.

    Raises:
        ArgumentError: an option outside its values, ``k`` beyond the vocabulary, or zeros, which point nowhere.
        MismatchError: the vector does not fit the model, or the model was cast without its config (``half()``).

    Example:
        >>> list(iv.logit_lens(model, vector, k=3))
        ['of', 'rank', 'token', 'value']
    """
    check_dtype(model)
    check_count(k, unembedding(model).shape[0], "tokens")
    total = vector_values(model, vector)
    names = ["vector"] + [f"{layer}.{head}" for layer, head in vector.heads] * parts
    rows = torch.cat([total[None], vector.parts.to(total)]) if parts else total[None]
    zeros = [name for name, row in zip(names, rows, strict=True) if not row.any()]
    if zeros:
        raise ArgumentError("vectors that are not zero, to read", f"zeros as {', '.join(zeros[:3])}", "leave it out")
    scores = _logits(model, rows) if lens == "logit" else _cosines(model, rows)
    check_finite("scores of tokens", scores)
    return _ranked(model, names, scores, k)


def _logits(model: HookedTransformer, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    logits = final_logits(model, rows.to(model.cfg.dtype)).float()
    return logits - logits.mean(-1, keepdim=True)


def _cosines(model: HookedTransformer, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    directions = unembedding(model).float()  # vocab d_model
    return (rows.float() / rows.float().norm(dim=-1, keepdim=True)) @ (directions.T / directions.norm(dim=-1))


def _ranked(model: HookedTransformer, names: Sequence[str], scores: Float[Tensor, "row vocab"], k: int) -> pd.DataFrame:
    best = scores.topk(k)
    table = []
    for name, values, ids in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
        for rank, (value, token) in enumerate(zip(values, ids, strict=True), 1):
            table.append({"of": name, "rank": rank, "token": token_text(model.tokenizer, token), "value": value})
    return pd.DataFrame(table)
