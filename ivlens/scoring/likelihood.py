"""Likelihood: P(answer | prompt), and whether greedy decoding gives the answer."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import PromptError, brief, few, refuse_odd
from ..models import (
    Model,
    answer_logits,
    batches,
    check_attention,
    check_dtype,
    check_length,
    padded,
)
from ..tasks import Prompt, beginning
from ..vocabulary import Ids as Ids
from ..vocabulary import TokenizedPrompt


class AnswerScores(NamedTuple):
    """Log probabilities in nats of each prompt's whole first answer, per token, and of its beginning; how it is judged.

    ``scores``, ``texts`` and ``chance``: see ``Evaluation``.
    """

    log_probabilities: Float[Tensor, "3 prompt"]
    correct: Bool[Tensor, " prompt"]
    scores: Float[Tensor, " prompt"]
    texts: tuple[str, ...]
    chance: Float[Tensor, " prompt"]


@torch.no_grad()
def score_answers(model: Model, prompts: Sequence[Prompt], batch_size: int) -> AnswerScores:
    """What ``evaluate`` records of prompts that are judged by likelihood.

    Raises:
        PromptError: see ``evaluate``.
    """
    owners, first, pairs = answers_of(model, prompts)
    scores = torch.zeros(3, len(prompts), dtype=torch.float64)
    correct = torch.zeros(len(prompts), dtype=torch.bool)
    odd = set[int]()
    with tqdm(total=len(pairs), desc="evaluating", unit="answer", leave=False, disable=None) as bar:
        for numbers, batch in batches(pairs, batch_size):
            for number, logits in zip(numbers, answer_logits(model, padded(batch, model.cfg.device)), strict=True):
                targets = torch.tensor(pairs[number][1], device=logits.device)
                peaks, greedy = logits.max(-1)
                if not peaks.isfinite().all():
                    odd.add(owners[number])
                correct[owners[number]] |= bool((greedy == targets).all())
                if first[number]:
                    chosen = logits.double().log_softmax(-1).gather(-1, targets[:, None])
                    logs = chosen[:, 0].cpu()
                    begun = logs[: beginning(model.tokenizer, pairs[number][1])]
                    scores[:, owners[number]] = torch.stack([logs.sum(), logs.mean(), begun.sum()])
            bar.update(len(numbers))
    refuse_odd("logits", [prompt.text for prompt in prompts], odd)
    return AnswerScores(scores, correct, correct.double(), ("",) * len(prompts), torch.zeros(len(prompts)).double())


def answers_of(model: Model, prompts: Iterable[Prompt] | Prompt) -> tuple[list[int], list[bool], list[TokenizedPrompt]]:
    """Every accepted answer of every prompt: the prompt's number, whether the answer is its first, and the token ids.

    Raises:
        PromptError: see ``evaluate``.
    """
    prompts = listed(prompts)
    owners = [i for i, prompt in enumerate(prompts) for _ in prompt.answers]
    first = [k == 0 or owners[k - 1] != owner for k, owner in enumerate(owners)]
    pairs = _encoded(model, [(prompt, answer) for prompt in prompts for answer in prompt.answers])
    return owners, first, pairs


def ids(model: Model, prompt: Prompt, answer: str | None = None) -> TokenizedPrompt:
    """Token ids of a prompt and of its answer (the first accepted one by default)."""
    return prompt.encode(model.tokenizer, answer)


def prompt_ids(model: Model, prompts: Iterable[Prompt] | Prompt) -> list[Ids]:
    """Token ids of prompts without answers, within the model's context.

    Raises:
        PromptError: see ``evaluate``.
    """
    return [ids for ids, _ in _encoded(model, [(prompt, None) for prompt in listed(prompts)])]


def all_ids(model: Model, prompts: Iterable[Prompt] | Prompt) -> list[TokenizedPrompt]:
    """Token ids of prompts and their first accepted answers, within the model's context.

    Raises:
        PromptError: see ``evaluate``.
    """
    return _encoded(model, [(prompt, prompt.answers[0]) for prompt in listed(prompts)])


def _encoded(model: Model, queries: Sequence[tuple[Prompt, str | None]]) -> list[TokenizedPrompt]:
    """Token ids of prompts and their answers; all unusable prompts are named in one error."""
    check_dtype(model)
    check_attention(model)
    pairs: list[TokenizedPrompt] = []
    refused: list[tuple[str, PromptError]] = []
    for prompt, answer in queries:
        try:
            alone = answer is None
            pair = TokenizedPrompt(tuple(prompt.token_ids(model.tokenizer))) if alone else ids(model, prompt, answer)
            if not pair[0]:
                raise PromptError("prompts that have tokens", "one without")
            check_length(model, [pair])
            pairs.append(pair)
        except PromptError as error:
            name = brief(prompt.input or prompt.text)
            refused.append((name if answer is None else f"{name} -> {brief(answer)}", error))
    if refused:
        first = refused[0][1]
        count = f"{len(refused)} of {len(queries)} prompts cannot be used: {few(name for name, _ in refused)}"
        raise PromptError(first.expected, first.came, f"{first.do}; {count}" if first.do else count)
    return pairs


def listed(prompts: Iterable[Prompt] | Prompt) -> list[Prompt]:
    """The prompts as a list, from a single one or any iterable.

    Raises:
        PromptError: none, or something that is no Prompt.
    """
    prompts = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    odd = next((prompt for prompt in prompts if not isinstance(prompt, Prompt)), None)
    if odd is not None:
        raise PromptError("prompts", f"{odd!r:.60}", "Prompt(text, answers) makes one by hand, task.prompts(n) many")
    if not prompts:
        raise PromptError("at least one prompt", "none", "task.prompts(n) makes them")
    return prompts
