"""Sweeps over last-token streams: parts replaced in turn, or a vector added at many layers and scales."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial, singledispatch
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import HookError, UnsupportedError, few
from ...vocabulary import Head, ModelPart, Part, TokenizedPrompt
from ..attached import has_hooks, replaced_modules
from ..forks import additions, replacements, rows_of
from ..parts import PartValues, check_parts, check_values
from ..tails import PromptCandidates, read_rows
from .readout import read_greedy, read_scores, read_together
from .run import run_streams


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
    check_streamable(model, [each.part for each in parts])
    check_parts(model, parts)
    check_values(model, values, parts, len(pairs))
    streams, rows = run_streams(model, pairs, replacements(values, parts), dtype), rows_of(parts)
    answers = [answer for _, answer in pairs]
    if against_foil:
        return [read_scores(model, *of, against_foil=True)[rows] for of in zip(streams, answers, strict=True)]
    return [scores[rows] for scores in read_together(model, streams, answers)]


def sweep_heads(
    model: Any,
    pairs: Sequence[TokenizedPrompt],
    means: Float[Tensor, "layer head d_head"],
    heads: Sequence[Head],
    *,
    against_foil: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Float[Tensor, "stream answer"]]:
    """``sweep_parts`` with the outputs of ``heads`` in turn replaced by their means, for all prompts the same."""
    parts = [ModelPart("z", layer, head) for layer, head in heads]
    return sweep_parts(model, pairs, PartValues(z=means[None]), parts, against_foil=against_foil, dtype=dtype)


@singledispatch
def sweep_additions(
    model: Any,
    prompts: Sequence[PromptCandidates],
    added: Mapping[int, Float[Tensor, "added d_model"]],
) -> list[list[tuple[Float[Tensor, "stream answer"], Bool[Tensor, " stream"]]]]:
    """Score each prompt's candidates with each of the vectors added to the residual stream entering its layer.

    At the number of layers, they are added to the stream that leaves the last one.

    For each prompt and candidate the log probabilities of its tokens, [stream, answer], and whether greedy decoding
    gives it; stream 0 is the clean run, then come the vectors by layer.

    Raises:
        UnsupportedError, HookError: see ``sweep_parts``.
    """
    check_streamable(model)
    streams = iter(run_streams(model, [pair for each in prompts for pair in each.pairs], additions(added)))
    return [read_rows(each, [next(streams) for _ in each.tails], partial(read_greedy, model)) for each in prompts]


@singledispatch
def check_streamable(model: Any, parts: Iterable[Part] = ("z",)) -> None:
    """Raise unless streams represent the model, of which ``parts`` are to be replaced, and no hook is active.

    Raises:
        UnsupportedError, HookError: see ``sweep_parts``.
    """
    added = has_hooks(model)
    if added and (found := replaced_modules(model)):
        came = f"other modules at {few(found)}" if all(found) else f"a forward function of {type(model).__name__}"
        raise UnsupportedError("a model of TransformerLens' own modules", came, "use method='loop'")
    if added:
        raise HookError("no active hooks: last-token streams would not run them", "some", "leave their context first")
    if found := not_represented(model.cfg):
        raise UnsupportedError("a model that last-token streams represent", ", ".join(found), "use method='loop'")


def not_represented(cfg: Any) -> list[str]:
    """What a TransformerLens config has that streams do not represent."""
    odd = {
        "positions": cfg.positional_embedding_type not in ("rotary", "standard", "alibi"),
        "attention in both directions": cfg.attention_dir != "causal",
        "experts": bool(cfg.num_experts),
        "attention sinks": cfg.use_attention_sinks,
        "dynamic rotary base": cfg.use_dynamic_ntk_rope or cfg.use_logn_attn,
        "attention only": cfg.attn_only,
        "4-bit weights": cfg.load_in_4bit,
    }
    return [name for name, present in odd.items() if present]
