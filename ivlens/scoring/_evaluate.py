"""``evaluate``: how a model answers prompts, each judged as it asks to be."""

from collections.abc import Iterable

import torch

from ..checks import Count, checked
from ..models import Model, provenance
from ..records import Evaluation
from ..tasks import Prompt, task_names
from .likelihood import listed, score_answers


@checked
@torch.no_grad()
def evaluate(model: Model, prompts: Iterable[Prompt] | Prompt, *, batch_size: Count = 32) -> Evaluation:
    """Score how the model answers prompts: P(answer | prompt) teacher forced, and greedy accuracy, per prompt.

    Probabilities are those of the whole first accepted answer. A prompt counts as correct when greedy decoding gives
    any of its accepted answers (each token is the most likely one after those before it). Where an answer begins with a
    blank token, as digits do in many tokenizers, its "first token" includes the next one.

    Args:
        model: the model that answers.
        prompts: prompts with their accepted answers.
        batch_size: answers per forward pass.

    Returns:
        Probabilities and correctness per prompt.

    Raises:
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            logits are not finite.

    Example:
        >>> answers = iv.evaluate(model, prompts)
        >>> answers.n, answers.probabilities.shape
        (4, torch.Size([4]))
    """
    prompts = listed(prompts)
    answers = score_answers(model, prompts, batch_size)
    whole, token, begin = answers.log_probabilities.exp()
    return Evaluation(
        whole, token, begin, answers.correct,
        prompts=tuple(prompt.text for prompt in prompts),
        answers=tuple(prompt.answers[0] for prompt in prompts),
        provenance=provenance(model, batch_size=batch_size, tasks=task_names(prompts)),
    )  # fmt: skip
