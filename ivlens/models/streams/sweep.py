"""Sweeps over last-token streams: all heads patched in turn, or a vector added at many layers and scales."""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import HookError, UnsupportedError
from ...vocabulary import Head, ModelPart, TokenizedPrompt
from ..hooks import has_hooks
from ..parts import PartValues
from .readout import read_greedy, read_scores
from .run import Forks, run_streams


@singledispatch
def sweep_heads(
    model: Any,
    pairs: Sequence[TokenizedPrompt],
    means: Float[Tensor, "layer head d_head"],
    heads: Sequence[Head],
    *,
    against_foil: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Float[Tensor, "stream answer"]]:
    """Score each prompt's answer with each of ``heads`` in turn replaced by its mean at the last prompt token.

    ``pairs`` are (prompt ids, answer ids). A prompt's scores, [stream, answer], are log probabilities of its answer's
    tokens or, with ``against_foil``, their logits minus those of the clean run's strongest wrong tokens. Stream 0 is
    the clean run; the heads follow, in the order of layers. Streams are computed in ``dtype`` (None: the model's).

    Raises:
        UnsupportedError: the model has a part that streams do not represent.
        HookError: hooks are active; streams would not run them.
    """
    check_streamable(model)
    layers = {layer: [head for at, head in heads if at == layer] for layer, _ in heads}
    streams = run_streams(model, pairs, Forks(means, patched=layers), dtype)
    answers = [answer for _, answer in pairs]
    return [read_scores(model, *of, against_foil=against_foil) for of in zip(streams, answers, strict=True)]


@singledispatch
def sweep_parts(
    model: Any,
    pairs: Sequence[TokenizedPrompt],
    values: PartValues,
    parts: Sequence[ModelPart],
    *,
    against_foil: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Float[Tensor, "stream answer"]]:
    """Score each prompt's answer with each of ``parts`` in turn replaced by its value at the last prompt token.

    Args:
        model: the model that runs.
        pairs: (prompt ids, answer ids).
        values: what parts are replaced by, for each prompt; a leading prompt axis of 1 means the same for all.
        parts: what is replaced, in any order (``all_parts`` lists every part of a kind).
        against_foil: give logits minus those of the clean run's strongest wrong tokens.
        dtype: of the streams (None: the model's).

    Returns:
        For each prompt its answer's tokens' log probabilities, or logit differences; stream 0 is the clean run, then
        come ``parts`` in their order.

    Raises:
        ArgumentError, MismatchError: no values of a part, or values of another shape.
        UnsupportedError: the model, or a layer, has a part that streams do not represent.
        HookError: hooks are active; streams would not run them.
    """
    raise NotImplementedError


@singledispatch
def sweep_additions(
    model: Any,
    pairs: Sequence[TokenizedPrompt],
    added: Mapping[int, Float[Tensor, "added d_model"]],
) -> list[tuple[Float[Tensor, "stream answer"], Bool[Tensor, " stream"]]]:
    """Score each prompt's answer with each of the vectors added to the residual stream entering its layer.

    For each prompt its answer's tokens' log probabilities, [stream, answer], and whether greedy decoding gives the
    answer; stream 0 is the clean run, then come the vectors by layer.

    Raises:
        UnsupportedError, HookError: see ``sweep_heads``.
    """
    check_streamable(model)
    cfg = model.cfg
    nothing = torch.zeros(cfg.n_layers, cfg.n_heads, cfg.d_head)
    streams = run_streams(model, pairs, Forks(nothing, added=added))
    return [read_greedy(model, of_prompt, answer) for of_prompt, (_, answer) in zip(streams, pairs, strict=True)]


@singledispatch
def check_streamable(model: Any) -> None:
    """Raise unless streams represent every part of the model and no hook is active.

    Raises:
        UnsupportedError, HookError: see ``sweep_heads``.
    """
    if has_hooks(model):
        raise HookError("no active hooks: last-token streams would not run them", "some", "leave their context first")
    cfg = model.cfg
    odd = {
        "positions": cfg.positional_embedding_type not in ("rotary", "standard", "alibi"),
        "attention in both directions": cfg.attention_dir != "causal",
        "experts": bool(cfg.num_experts),
        "attention sinks": cfg.use_attention_sinks,
        "dynamic rotary base": cfg.use_dynamic_ntk_rope or cfg.use_logn_attn,
        "attention only": cfg.attn_only,
        "4-bit weights": cfg.load_in_4bit,
    }
    found = [name for name, present in odd.items() if present]
    if found:
        raise UnsupportedError("a model that last-token streams represent", ", ".join(found), "use method='loop'")
