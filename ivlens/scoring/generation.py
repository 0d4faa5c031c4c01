"""``generate_answers``: greedy decoding of answers, under whatever edits are active."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ..checks import Count, checked
from ..errors import ArgumentError, PromptError, brief, few, refuse_odd
from ..models import Model, decode_greedily, end_of_text
from ..progress import ProgressBar
from ..tasks import Prompt
from ..vocabulary import Ids
from .tokens import listed, prompt_ids


@checked
@torch.no_grad()
def generate_answers(
    model: Model,
    prompts: Iterable[Prompt] | Prompt,
    *,
    max_tokens: Count = 32,
    stop: str | Sequence[str] = ("\n",),
    batch_size: Count = 32,
) -> tuple[str, ...]:
    """Let the model answer prompts freely: greedy decoding, until a stop text, the end of the text, or ``max_tokens``.

    Active edits run as in Hugging Face's ``generate``: on the whole prompt, then on each new token. ``steer`` and
    ``ablate`` keep to the prompt's own tokens, as they do in ``evaluate``; a hook of your own sees prompts without
    padding, then one token a pass.

    Args:
        model: the model that answers.
        prompts: the prompts.
        max_tokens: generated tokens, at most.
        stop: texts that end an answer and are not part of it, also where one spans several tokens, or is a special
            token.
        batch_size: prompts that run together.

    Returns:
        The text that follows each prompt, without stop text and special tokens.

    Raises:
        ArgumentError: a stop text that is empty.
        PromptError: no prompts, one that cannot be tokenised or leaves no room for ``max_tokens`` within the model's
            context, or one on which logits are not finite.

    Example:
        >>> answers = iv.generate_answers(model, prompts, max_tokens=4)
        >>> len(answers), any("\\n" in answer for answer in answers)
        (4, False)
    """
    prompts, stops = listed(prompts), (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(stops):
        raise ArgumentError("stop to be texts that are not empty", brief(stop))
    asked = prompt_ids(model, prompts)
    check_room(model, prompts, asked, max_tokens)
    tokenizer: Any = model.tokenizer
    special = tokenizer.get_added_vocab()
    ends = end_of_text(model) | {special[each] for each in stops if each in special}

    def ended(reply: Ids) -> bool:
        return reply[-1] in ends or any(each in text_of(model, reply) for each in stops)

    replies = decode(model, prompts, asked, [max_tokens] * len(prompts), ended, batch_size)
    return tuple(before_stop(text_of(model, reply, ends), stops) for reply in replies)


def decode(
    model: Model,
    prompts: Sequence[Prompt],
    asked: Sequence[Ids],
    limits: Sequence[int],
    ended: Callable[[Ids], bool],
    batch_size: int,
) -> list[Ids]:
    """The tokens that follow each prompt, whose own are ``asked``, with a bar.

    Raises:
        PromptError: logits that are not finite.
    """
    with ProgressBar(total=len(asked), desc="generating", unit="answer", leave=False) as bar:
        replies, odd = decode_greedily(model, asked, limits, ended, batch_size, bar.update)
    refuse_odd("logits", [prompt.text for prompt in prompts], odd)
    return replies


def check_room(model: Model, prompts: Sequence[Prompt], asked: Sequence[Ids], max_tokens: int) -> None:
    """Raise PromptError naming the prompts that leave no room for ``max_tokens`` within the model's context."""
    room = model.cfg.n_ctx - max_tokens
    long = [prompt for prompt, ids in zip(prompts, asked, strict=True) if len(ids) > room]
    if long:
        count = f"{len(long)} of {len(prompts)} prompts: {few(brief(each.input or each.text) for each in long)}"
        raise PromptError(
            f"prompts that leave room for {max_tokens} generated tokens in the model's context of {model.cfg.n_ctx}",
            f"one of {max(map(len, asked))} tokens", f"shorten them, or lower max_tokens; {count}",
        )  # fmt: skip


def text_of(model: Model, reply: Ids, ends: Iterable[int] = ()) -> str:
    """Generated tokens as text, up to the first of ``ends``, without special tokens."""
    tokenizer: Any = model.tokenizer
    end = next((at for at, token in enumerate(reply) if token in ends), len(reply))
    return str(tokenizer.decode(list(reply[:end]), skip_special_tokens=True))


def before_stop(text: str, stops: Iterable[str]) -> str:
    """The text before the first of the stop texts that it holds."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
