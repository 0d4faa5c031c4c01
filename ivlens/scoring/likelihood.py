"""How a model answers prompts: P(answer | prompt), the likelihoods of options, and accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import refuse_odd
from ..models import CandidateScores, Model, candidate_scores
from ..progress import ProgressBar
from ..tasks import Prompt, beginning
from .candidates import Candidates, Likelihoods, candidates_of, is_choice
from .judged import chance, chosen_text, judge


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """Each prompt's answer: what ``Evaluation`` has, without what it is about.

    ``log_probabilities`` in nats are those of the whole first accepted answer, per token, and of its beginning;
    ``option_log_likelihoods`` are () for a prompt without a choice.
    """

    log_probabilities: Float[Tensor, "3 prompt"]
    correct: Bool[Tensor, " prompt"]
    scores: Float[Tensor, " prompt"]
    texts: tuple[str, ...]
    chance: Float[Tensor, " prompt"]
    option_log_likelihoods: tuple[tuple[float, ...], ...]


@torch.no_grad()
def score_answers(model: Model, prompts: Sequence[Prompt], batch_size: int) -> AnswerScores:
    """What ``evaluate`` records of prompts that are judged by likelihood, without its provenance.

    Raises:
        PromptError: see ``evaluate``.
    """
    asked = candidates_of(model, prompts)
    total = sum(len(each.texts) for each in asked)
    with ProgressBar(total=total, desc="evaluating", unit="answer", leave=False) as bar:
        scored = candidate_scores(model, [each.tokens for each in asked], batch_size, bar.update)
    odd = {number for number, own in enumerate(scored) if not all(each.finite for each in own)}
    refuse_odd("logits", [prompt.text for prompt in prompts], odd)
    likelihoods = [_likelihoods(own) for own in scored]
    judged = [judge(*each) for each in zip(asked, likelihoods, strict=True)]
    correct = torch.stack([each.correct for each in judged])
    return AnswerScores(
        torch.stack([_of_first(model, *each) for each in zip(asked, scored, strict=True)], 1),
        correct,
        correct.double(),
        tuple(chosen_text(each, int(of.chosen)) for each, of in zip(asked, judged, strict=True)),
        torch.tensor([chance(prompt) for prompt in prompts], dtype=torch.float64),
        tuple(
            tuple(own.log_likelihoods.tolist()) if is_choice(each.prompt) else ()
            for each, own in zip(asked, likelihoods, strict=True)
        ),
    )


def _likelihoods(scored: Sequence[CandidateScores]) -> Likelihoods:
    """The log-likelihoods of one prompt's candidates in one run."""
    sums = torch.stack([each.log_probabilities.sum() for each in scored])
    return Likelihoods(sums, torch.tensor([each.greedy for each in scored]))


def _of_first(model: Model, candidates: Candidates, scored: Sequence[CandidateScores]) -> Float[Tensor, "3"]:
    """The log probabilities in nats of the whole first accepted answer, per token, and of its beginning."""
    ids, logs = candidates.tokens.candidates[candidates.first], scored[candidates.first].log_probabilities
    return torch.stack([logs.sum(), logs.mean(), logs[: beginning(model.tokenizer, ids)].sum()])
