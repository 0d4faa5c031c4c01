"""How generated answers are judged: decoded, parsed, and scored against the accepted ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models import Model
from ..tasks import GenerationScoring, Prompt
from .generation import check_room, generate_answers
from .parsing import parsed_answers, parsed_reply
from .text_scores import check_available, scored
from .tokens import prompt_ids


class GeneratedAnswers(NamedTuple):
    """What a model generated after each prompt, the score of it from 0 to 1, and whether that counts as correct."""

    texts: tuple[str, ...]
    scores: Float[Tensor, " prompt"]
    correct: Bool[Tensor, " prompt"]


def is_generated(prompt: Prompt) -> bool:
    """Whether the prompt's answer is generated text."""
    return isinstance(prompt.scoring, GenerationScoring)


def by_likelihood(prompt: Prompt) -> Prompt:
    """The prompt as P(answer) needs it: of a generated answer, the first accepted one counts."""
    return replace(prompt, answers=prompt.answers[:1], options=(), scoring=None) if is_generated(prompt) else prompt


def check_generated(model: Model, prompts: Sequence[Prompt]) -> None:
    """Raise what judging these prompts, whose answers are generated, would raise before it generates.

    Raises:
        UnsupportedError: the package of a score is not installed.
        PromptError: a prompt that cannot be tokenised, or leaves no room for its answer in the model's context.
    """
    settings = [_settings(prompt) for prompt in prompts]
    for score in {scoring.score for scoring in settings}:
        check_available(score)
    asked = prompt_ids(model, prompts)
    for max_tokens in sorted({scoring.max_tokens for scoring in settings}):
        numbers = [number for number, scoring in enumerate(settings) if scoring.max_tokens == max_tokens]
        check_room(model, [prompts[number] for number in numbers], [asked[number] for number in numbers], max_tokens)


def judge_generated(model: Model, prompts: Sequence[Prompt], batch_size: int) -> GeneratedAnswers:
    """Generate the answers of prompts that ask for it, and judge them.

    Raises:
        UnsupportedError, PromptError: see ``check_generated``.
        ArgumentError: a function of the user's that gives no text, or no score from 0 to 1.
    """
    check_generated(model, prompts)
    texts, scores = [""] * len(prompts), torch.zeros(len(prompts), dtype=torch.float64)
    correct = torch.zeros(len(prompts), dtype=torch.bool)
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for number, prompt in enumerate(prompts):
        scoring = _settings(prompt)
        alike.setdefault((scoring.max_tokens, scoring.stop), []).append(number)
    for (max_tokens, stop), numbers in alike.items():
        these = [prompts[number] for number in numbers]
        answers = generate_answers(model, these, max_tokens=max_tokens, stop=stop, batch_size=batch_size)
        for number, text in zip(numbers, answers, strict=True):
            texts[number], scores[number] = text, score_of(prompts[number], text)
            correct[number] = bool(scores[number] >= _settings(prompts[number]).threshold)
    return GeneratedAnswers(tuple(texts), scores, correct)


def score_of(prompt: Prompt, text: str) -> float:
    """The score of a generated text, from 0 to 1."""
    scoring = _settings(prompt)
    answers = parsed_answers(scoring.parse, prompt.answers, prompt.options)
    return scored(scoring.score, parsed_reply(scoring.parse, text, (*answers, *prompt.answers)), answers)


def _settings(prompt: Prompt) -> GenerationScoring:
    assert isinstance(prompt.scoring, GenerationScoring)
    return prompt.scoring
