"""Scores of prompts' answers with parts of the model replaced in turn: by the exact sweep, or by the plain loop."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Literal, NamedTuple

import torch

from ..errors import FallbackWarning, UnsupportedError
from ..models import Model, PartValues, check_parts, check_streamable, check_values, map_with_model, rows_that_fit
from ..parallel import workers
from ..progress import ProgressBar
from ..vocabulary import ModelPart, TokenizedPrompt
from .exact import exact_scores, within
from .loop import loop_scores
from .metric import Scores

Run = Callable[..., list[Scores]]
Patching = Literal["exact", "loop"]
Piece = tuple[Sequence[TokenizedPrompt], PartValues]  # prompts that run together, and what replaces their parts


class Patched(NamedTuple):
    """For each prompt the scores [stream, answer] of the clean run and of each part, and the method that was used."""

    scores: list[Scores]
    method: Patching


def patched_scores(
    model: Model,
    pairs: Sequence[TokenizedPrompt],
    values: PartValues,
    parts: Sequence[ModelPart],
    *,
    method: Patching = "exact",
    against_foil: bool = False,
    budget: int | None = None,
    dtype: torch.dtype | None = None,
    n_jobs: int | None = 1,
) -> Patched:
    """Score each prompt's answer with each of ``parts`` in turn replaced by its value at the last prompt token.

    The same groups of prompts run together for any ``n_jobs``. Where the sweep does not represent the model, the loop
    is used, with a FallbackWarning.

    Args:
        model: the model that runs.
        pairs: (prompt ids, answer ids).
        values: what parts are replaced by, for each prompt, or with a prompt axis of 1 for all.
        parts: what is replaced (``all_parts`` lists every part of a kind).
        method: "exact" is the last-token sweep, "loop" one forward pass per part.
        against_foil: give logits minus those of the clean run's strongest wrong tokens, not log probabilities.
        budget: rows of streams that run together (None: as many as fit into memory).
        dtype: with "exact", of the streams (None: the model's).
        n_jobs: workers that share the prompts.

    Raises:
        ArgumentError, MismatchError: no values of a part, or values of another shape.
        UnsupportedError: a layer has no such part; ``dtype`` for a model that the sweep does not represent.
        HookError, WorkerError: hooks are active, which streams and workers would not run; a worker died.
    """
    check_parts(model, parts)
    check_values(model, values, parts, len(pairs))
    if method == "exact":
        method = exact_or_loop(partial(check_streamable, model, {each.part for each in parts}), dtype)
    budget = budget or rows_that_fit(model, max(len(ids) + len(answer) for ids, answer in pairs), dtype)
    run: Run = partial(exact_scores, dtype=dtype) if method == "exact" else loop_scores
    work = partial(_scores, run=run, parts=parts, against_foil=against_foil, budget=budget)
    if workers(n_jobs) == 1:
        return Patched(work(model, (pairs, values)), method)
    groups = [[pair] for pair in pairs] if method == "loop" else within(pairs, len(parts) + 1, budget)
    spans = [range(end - len(group), end) for group, end in zip(groups, accumulate(map(len, groups)), strict=True)]
    pieces: list[Piece] = [(group, values.only(span)) for group, span in zip(groups, spans, strict=True)]
    names = [f"prompts {span.start + 1} to {span.stop}" for span in spans]
    with ProgressBar(total=len(pairs), desc="patching", unit="prompt", leave=False) as bar:
        results = map_with_model(
            model, work, pieces, n_jobs, names, finished=lambda piece, _: bar.update(len(piece[0]))
        )  # fmt: skip
    return Patched([of_prompt for group in results for of_prompt in group], method)


@torch.no_grad()
def _scores(
    model: Model, piece: Piece, run: Run, parts: Sequence[ModelPart], against_foil: bool, budget: int
) -> list[Scores]:
    pairs, values = piece
    return [of_prompt.cpu() for of_prompt in run(model, pairs, values, parts, against_foil, budget)]


def exact_or_loop(check: Callable[[], None], dtype: torch.dtype | None = None) -> Patching:
    """The exact method for a model that ``check`` looks at; a warning says why if it is not the sweep."""
    try:
        check()
    except UnsupportedError as error:
        if dtype is not None:
            raise
        reason = f"the exact sweep does not run on this model ({error.came}): effects come from the plain loop"
        warnings.warn(f"{reason}, one forward pass per part", FallbackWarning, stacklevel=6)
        return "loop"
    return "exact"
