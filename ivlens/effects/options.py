"""The logit difference on prompts with options: an accepted option against the wrong one that is the most likely.

Logits and log probabilities of two options of one token differ by the same. So the metric of options, of any number of
tokens, is the log-likelihood of the first accepted one minus that of the wrong option which has the highest in the
unpatched run. Effects on it are the effects on the one minus those on the other.
"""

from collections.abc import Sequence

from ..errors import ArgumentError
from ..models import Model, candidate_scores
from ..scoring import candidates_of, is_choice
from ..tasks import Prompt
from ..vocabulary import Metric, TokenizedPrompt

ROWS = 32  # of a forward pass


def wrong_options(model: Model, prompts: Sequence[Prompt], metric: Metric) -> list[TokenizedPrompt] | None:
    """Each prompt with the likeliest of its wrong options; None for another metric, or prompts without options.

    Raises:
        ArgumentError: some of the prompts have options, and some have none.
        PromptError: an option that cannot be tokenised, or is too long.
    """
    choices = sum(is_choice(prompt) for prompt in prompts)
    if metric != "logit-difference" or not choices:
        return None
    if choices < len(prompts):
        raise ArgumentError(
            "prompts that all have options, or none of them, with metric 'logit-difference'",
            f"{choices} of {len(prompts)} with options", "measure the two kinds in two calls",
        )  # fmt: skip
    asked = candidates_of(model, prompts)
    found = []
    for each, scored in zip(asked, candidate_scores(model, [own.tokens for own in asked], ROWS), strict=True):
        wrong = [number for number, accepted in enumerate(each.accepted) if not accepted]
        best = max(wrong, key=lambda number: scored[number].log_probabilities.sum().item())
        found.append(TokenizedPrompt(each.tokens.prompt_ids, each.tokens.candidates[best]))
    return found
