"""Log probabilities of what may follow a prompt, its *candidates*, for about the price of the prompt alone.

A candidate's tokens but the last are fed to the model after the prompt: its *tail*. Candidates with the same tail, such
as all of one token, need one row, and so do those whose tail begins another's. What prompts and tails share at their
beginning runs once (``streams.once``). Where hooks are active that reach further than last prompt tokens, or streams do
not represent the model, a prompt with several tails runs once, and the tails from its keys and values (``prefixes``).
Where these would not do, because of hooks that expect whole prompts for example, each tail runs with its prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..vocabulary import TokenizedPrompt
from .attached import runs_in_parts
from .engines import Model
from .prefixes import run_after, run_prompts, shares_prefixes
from .runs import batches, final_logits
from .streams import answer_streams, runs_edited_once
from .tails import PromptCandidates

LOGITS_AT_ONCE = 1 << 23  # 64 MB in float64


class CandidateScores(NamedTuple):
    """Log probability in nats of each of a candidate's tokens; whether each is the most likely; finite logits."""

    log_probabilities: Float[Tensor, " token"]
    greedy: bool
    finite: bool


Found = list[dict[int, CandidateScores]]  # of each prompt, by the candidate's number


@torch.no_grad()
def candidate_scores(
    model: Model,
    prompts: Sequence[PromptCandidates],
    batch_size: int,
    finished: Callable[[int], object] = lambda count: None,
) -> list[list[CandidateScores]]:
    """Score each prompt's candidates, teacher forced.

    Args:
        model: the model that runs; hooks that are active run in it.
        prompts: prompts with their candidates.
        batch_size: rows of a forward pass.
        finished: gets the number of candidates that were scored since it was last called.
    """
    found: Found = [{} for _ in prompts]
    several = {number for number, each in enumerate(prompts) if len(each.tails) > 1}
    once = runs_edited_once(model)
    in_parts = several and not once and runs_in_parts(model) and shares_prefixes(model)
    shared = sorted(several) if in_parts else []
    whole = sorted({*range(len(prompts))} - {*shared})
    for count in _run_whole(model, prompts, whole, batch_size, found, once=once):
        finished(count)
    for count in _run_shared(model, prompts, shared, batch_size, found):
        finished(count)
    return [[of_prompt[number] for number in range(len(of_prompt))] for of_prompt in found]


def _run_whole(
    model: Model,
    prompts: Sequence[PromptCandidates],
    chosen: Sequence[int],
    batch_size: int,
    found: Found,
    *,
    once: bool,
) -> Iterator[int]:
    """Run each tail of the ``chosen`` prompts with its prompt, and yield how many candidates a pass scored."""
    rows = [(number, row, pair) for number in chosen for row, pair in enumerate(prompts[number].pairs)]
    for numbers, batch in batches([pair for _, _, pair in rows], batch_size, alike=once):
        residual = torch.cat(answer_streams(model, batch, once=once))
        wanted, start = [], 0
        for number, row, pair in (rows[each] for each in numbers):
            for candidate, its_row in enumerate(prompts[number].rows):
                if its_row == row:
                    length = len(prompts[number].candidates[candidate])
                    wanted.append((number, candidate, [*range(start, start + length)]))
            start += len(pair.answer_ids)
        yield _read(model, prompts, residual, wanted, found)


def _run_shared(
    model: Model, prompts: Sequence[PromptCandidates], chosen: Sequence[int], batch_size: int, found: Found
) -> Iterator[int]:
    """Run the ``chosen`` prompts once each, then their tails, and yield how many candidates a batch scored."""
    for own, batch in batches([TokenizedPrompt(prompts[number].prompt_ids) for number in chosen], batch_size):
        numbers = [chosen[each] for each in own]
        rows = [(owner, tail) for owner, number in enumerate(numbers) for tail in prompts[number].tails]
        prefixes = run_prompts(model, [prompt for prompt, _ in batch])
        streams = [
            stream
            for at in range(0, len(rows), batch_size)
            for stream in run_after(model, prefixes, *zip(*rows[at : at + batch_size], strict=True))
        ]
        starts, first, wanted = [*accumulate(map(len, streams), initial=len(numbers))], 0, []
        for owner, number in enumerate(numbers):
            for candidate, row in enumerate(prompts[number].rows):
                start = starts[first + row]
                length = len(prompts[number].candidates[candidate]) - 1
                wanted.append((number, candidate, [owner, *range(start, start + length)]))
            first += len(prompts[number].tails)
        yield _read(model, prompts, torch.cat([prefixes.last, *streams]), wanted, found)


def _read(
    model: Model,
    prompts: Sequence[PromptCandidates],
    residual: Float[Tensor, "token d_model"],
    wanted: Sequence[tuple[int, int, list[int]]],
    found: Found,
) -> int:
    """Score candidates (prompt, candidate) whose tokens are predicted from these tokens' final residual streams."""
    at = torch.tensor([position for _, _, positions in wanted for position in positions], device=residual.device)
    ids = [token for number, candidate, _ in wanted for token in prompts[number].candidates[candidate]]
    logs, greedy, finite = _of_tokens(model, residual, at, torch.tensor(ids, device=residual.device))
    start = 0
    for number, candidate, positions in wanted:
        its = slice(start, start := start + len(positions))
        found[number][candidate] = CandidateScores(logs[its], bool(greedy[its].all()), bool(finite[its].all()))
    return len(wanted)


def _of_tokens(
    model: Model, residual: Float[Tensor, "token d_model"], at: Tensor, ids: Tensor
) -> tuple[Float[Tensor, " target"], Bool[Tensor, " target"], Bool[Tensor, " target"]]:
    """Of each of ``ids`` after the token ``at``: its log probability, whether it is the most likely, finite logits.

    They are on the CPU.
    """
    size = max(1, LOGITS_AT_ONCE // model.cfg.d_vocab)
    logs = torch.empty(len(ids), dtype=torch.float64, device=ids.device)
    greedy, finite = (torch.empty(len(ids), dtype=torch.bool, device=ids.device) for _ in range(2))
    for start in range(0, len(residual), size):
        logits = final_logits(model, residual[start : start + size])
        here = ((at >= start) & (at < start + size)).nonzero()[:, 0]
        row, token = at[here] - start, ids[here].to(logits.device)
        peaks, best = logits.max(-1)
        wide = logits.double()
        logs[here] = (wide[row, token] - wide.logsumexp(-1)[row]).to(logs)
        greedy[here] = (best[row] == token).to(ids.device)
        finite[here] = peaks.isfinite()[row].to(ids.device)
    return logs.cpu(), greedy.cpu(), finite.cpu()
