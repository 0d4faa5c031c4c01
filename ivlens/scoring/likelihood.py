"""How a model answers prompts: P(answer | prompt), the likelihoods of options, and accuracy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import Count, checked
from ..errors import refuse_odd
from ..models import CandidateScores, Model, candidate_scores, provenance
from ..records import Evaluation
from ..tasks import Prompt, beginning, task_names
from .candidates import Candidates, Likelihoods, candidates_of, is_choice
from .judged import chance, chosen_text, judge
from .tokens import listed


@checked
@torch.no_grad()
def evaluate(model: Model, prompts: Iterable[Prompt] | Prompt, *, batch_size: Count = 32) -> Evaluation:
    """Score how the model answers prompts: P(answer | prompt) teacher forced, and accuracy, per prompt.

    Probabilities are those of the whole first accepted answer. A prompt with options counts as correct when the option
    of highest log-likelihood, normalised as its ``scoring`` says, is an accepted one; any other when greedy decoding
    gives one of its accepted answers (each token is the most likely one after those before it). Where an answer begins
    with a blank token, as digits do in many tokenizers, its "first token" includes the next one.

    A prompt with several options or accepted answers is run once, and these from its keys and values.

    Args:
        model: the model that answers.
        prompts: prompts with their accepted answers.
        batch_size: rows per forward pass: prompts, or what follows them.

    Returns:
        Probabilities and correctness per prompt, and the log-likelihoods of options.

    Raises:
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            logits are not finite.

    Example:
        >>> answers = iv.evaluate(model, prompts)
        >>> answers.n, answers.probabilities.shape
        (4, torch.Size([4]))
        >>> choice = iv.Prompt("the quick", " fox", options=(" dog", " fox", " lazy"))
        >>> iv.evaluate(model, choice).chance
        tensor([0.3333], dtype=torch.float64)
    """
    prompts = listed(prompts)
    answers = score_answers(model, prompts, batch_size)
    whole, token, begin = answers.log_probabilities.exp()
    choices = any(answers.option_log_likelihoods)
    return Evaluation(
        whole, token, begin, answers.correct,
        prompts=tuple(prompt.text for prompt in prompts),
        answers=tuple(prompt.answers[0] for prompt in prompts),
        scores=answers.scores, texts=answers.texts, chance=answers.chance,
        options=tuple(prompt.options for prompt in prompts) if choices else (),
        option_log_likelihoods=answers.option_log_likelihoods if choices else (),
        provenance=provenance(model, batch_size=batch_size, tasks=task_names(prompts)),
    )  # fmt: skip


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
    """What ``evaluate`` records, without its provenance.

    Raises:
        PromptError: see ``evaluate``.
    """
    asked = candidates_of(model, prompts)
    total = sum(len(each.texts) for each in asked)
    with tqdm(total=total, desc="evaluating", unit="answer", leave=False, disable=None) as bar:
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
