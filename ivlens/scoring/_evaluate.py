"""``evaluate``: how a model answers prompts, each judged as it asks to be."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from ..checks import Count, checked
from ..errors import PromptError
from ..models import Model, provenance
from ..records import Evaluation
from ..tasks import Prompt, task_names, warn_of_missing_spaces
from .candidates import candidates_of
from .generated import by_likelihood, check_generated, is_generated, judge_generated
from .likelihood import AnswerScores, score_answers
from .tokens import ids, listed


@checked
@torch.no_grad()
def evaluate(model: Model, prompts: Iterable[Prompt] | Prompt, *, batch_size: Count = 32) -> Evaluation:
    """Score how the model answers prompts: P(answer | prompt) teacher forced, and accuracy, per prompt.

    Probabilities are those of the whole first accepted answer. Each prompt is judged by its ``scoring``: a prompt with
    options counts as correct when the option of highest log-likelihood, normalised as the scoring says, is an accepted
    one; one with a ``GenerationScoring`` when the score of the generated text reaches the threshold; any other when
    greedy decoding gives one of its accepted answers (each token is the most likely one after those before it). Where
    an answer begins with a blank token, as digits do in many tokenizers, its "first token" includes the next one.

    A prompt with several options or accepted answers is run once, and these from its keys and values.

    Args:
        model: the model that answers.
        prompts: prompts with their accepted answers.
        batch_size: rows per forward pass: prompts, or what follows them.

    Returns:
        Probabilities, scores and correctness per prompt, the log-likelihoods of options, and what was answered where
        that is known. P(answer) is 0 where a generated answer is judged and the accepted one does not fit into the
        model's context.

    Raises:
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, with the tokens to
            be generated, or one on which logits are not finite.
        UnsupportedError: the package of a score is not installed.

    Warns:
        UserWarning: answers that lack the space before them that the prompts' text needs.

    Example:
        >>> answers = iv.evaluate(model, prompts)
        >>> answers.n, answers.probabilities.shape
        (4, torch.Size([4]))
        >>> choice = iv.Prompt("the quick", " fox", options=(" dog", " fox", " lazy"))
        >>> iv.evaluate(model, choice).chance
        tensor([0.3333], dtype=torch.float64)
    """
    prompts = listed(prompts)
    warn_of_missing_spaces(model.tokenizer, prompts)
    answers = judge_answers(model, prompts, batch_size)
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


@torch.no_grad()
def judge_answers(model: Model, prompts: Sequence[Prompt], batch_size: int) -> AnswerScores:
    """What ``evaluate`` records, without its provenance; all that judges answers goes through this.

    Raises:
        PromptError, UnsupportedError: see ``evaluate``.
    """
    numbers = [number for number, prompt in enumerate(prompts) if is_generated(prompt)]
    if not numbers:
        return score_answers(model, prompts, batch_size)
    check_answers(model, prompts)
    generated = judge_generated(model, [prompts[number] for number in numbers], batch_size)
    likely = _by_likelihood(model, prompts, batch_size)
    scores, correct, texts = likely.scores.clone(), likely.correct.clone(), list(likely.texts)
    scores[numbers], correct[numbers] = generated.scores, generated.correct
    for number, text in zip(numbers, generated.texts, strict=True):
        texts[number] = text
    return replace(likely, scores=scores, correct=correct, texts=tuple(texts))


def check_answers(model: Model, prompts: Iterable[Prompt] | Prompt) -> None:
    """Raise the errors that judging the prompts would raise before it computes anything.

    Raises:
        PromptError, UnsupportedError: see ``evaluate``.
    """
    prompts = listed(prompts)
    if generated := [prompt for prompt in prompts if is_generated(prompt)]:
        check_generated(model, generated)
    if fitting := [prompt for prompt in prompts if not is_generated(prompt) or _fits(model, prompt)]:
        candidates_of(model, map(by_likelihood, fitting))


def _by_likelihood(model: Model, prompts: Sequence[Prompt], batch_size: int) -> AnswerScores:
    """``score_answers``; P(answer) is 0 for generated answers of which the accepted one does not fit."""
    n, fitting = len(prompts), [at for at, each in enumerate(prompts) if not is_generated(each) or _fits(model, each)]
    answers = _nothing(n)
    if not fitting:
        return answers
    found = score_answers(model, [by_likelihood(prompts[at]) for at in fitting], batch_size)
    if len(fitting) == n:
        return found
    texts, of_options = list(answers.texts), list(answers.option_log_likelihoods)
    for name in ("log_probabilities", "correct", "scores", "chance"):
        getattr(answers, name)[..., fitting] = getattr(found, name)
    for at, text, options in zip(fitting, found.texts, found.option_log_likelihoods, strict=True):
        texts[at], of_options[at] = text, options
    return replace(answers, texts=tuple(texts), option_log_likelihoods=tuple(of_options))


def _nothing(n: int) -> AnswerScores:
    """Of ``n`` prompts, answers of probability 0."""
    logs, zeros = torch.full((3, n), -torch.inf, dtype=torch.float64), torch.zeros(3, n, dtype=torch.float64)
    return AnswerScores(logs, zeros[0].bool(), zeros[1], ("",) * n, zeros[2], ((),) * n)


def _fits(model: Model, prompt: Prompt) -> bool:
    """Whether a prompt and its first accepted answer fit into the model's context."""
    try:
        return sum(map(len, ids(model, prompt))) <= model.cfg.n_ctx
    except PromptError:  # reported with all others that cannot be tokenised
        return True
