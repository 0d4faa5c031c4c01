"""How the likelihoods of a prompt's candidates become an answer, and whether it is correct."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..tasks import OptionScoring, Prompt
from .candidates import Candidates, Likelihoods, is_choice

NONE = -1  # the chosen candidate where the model answers none of them


class Judgement(NamedTuple):
    """Whether the model's answer is an accepted one, and the number of the candidate that it is, -1 for none."""

    correct: Bool[Tensor, "*run"]
    chosen: Int[Tensor, "*run"]


def judge(candidates: Candidates, likelihoods: Likelihoods) -> Judgement:
    """The answer that candidates' likelihoods amount to, as the prompt's scoring says.

    Among options it is the one of highest log-likelihood, perhaps per token or character, the first of several; it is
    correct where it is accepted. Without options it is the first accepted answer that greedy decoding gives.

    Args:
        candidates: a prompt's candidates.
        likelihoods: their log-likelihoods and whether greedy decoding gives them, [*run, candidate].

    Returns:
        For each run, whether the answer is correct, and which candidate it is.
    """
    if is_choice(candidates.prompt):
        chosen = compared(candidates, likelihoods).argmax(-1)
        return Judgement(torch.tensor(candidates.accepted, device=chosen.device)[chosen], chosen)
    correct = likelihoods.greedy.any(-1)
    return Judgement(correct, likelihoods.greedy.long().argmax(-1).where(correct, NONE))


def compared(candidates: Candidates, likelihoods: Likelihoods) -> Float[Tensor, "*run candidate"]:
    """What options are compared by: their log-likelihoods, normalised as the prompt's scoring says."""
    scoring = candidates.prompt.scoring
    normalise = scoring.normalise if isinstance(scoring, OptionScoring) else "sum"
    sizes = {"sum": [1] * len(candidates.texts), "token": candidates.n_tokens, "character": candidates.n_characters}
    values = likelihoods.log_likelihoods
    return values / torch.tensor(sizes[normalise], dtype=values.dtype, device=values.device)


def chance(prompt: Prompt) -> float:
    """How often a guess among the options is accepted: 1 / options where one is right; 0 where there is no choice."""
    return len(prompt.answers) / len(prompt.options) if is_choice(prompt) else 0.0


def mean_chance(prompts: Sequence[Prompt]) -> float:
    """The accuracy of guessing among the options; 0 without options."""
    return fmean(map(chance, prompts))


def chosen_text(candidates: Candidates, chosen: int) -> str:
    """The chosen candidate without its leading space; "" where the answer is not known."""
    return "" if chosen == NONE else candidates.texts[chosen].removeprefix(" ")
