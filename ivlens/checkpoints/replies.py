"""What a checkpoint replies, and whose answers these are: the new task's, or copies of the input."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ..models import Model, answer_logits, batches, padded, provenance
from ..records import Replies
from ..scoring import prompt_ids
from ..stats import NOTHING, Interval, wilson_interval
from ..tasks import Prompt
from ..vocabulary import Ids, TokenizedPrompt

LONGEST = 10  # tokens of a reply


class Spillover(NamedTuple):
    """Among wrong answers, the fraction that are the new task's or copies of the input, and that are copies."""

    share: Interval
    copied: float


@torch.no_grad()
def greedy_replies(model: Model, prompts: Sequence[Prompt], batch_size: int = 32) -> Replies:
    """What the model replies to each prompt, token by token the most likely one, up to a line break or ``LONGEST``."""
    asked = prompt_ids(model, prompts)
    replies: list[Ids] = [()] * len(prompts)
    going = [number for number, ids in enumerate(asked) if len(ids) < model.cfg.n_ctx]
    for _ in range(LONGEST):
        # the token to be predicted stands last, as an answer's last token that is no input
        pairs = [TokenizedPrompt(asked[number], (*replies[number], 0)) for number in going]
        for numbers, batch in batches(pairs, batch_size):
            for number, logits in zip(numbers, answer_logits(model, padded(batch, model.cfg.device)), strict=True):
                replies[going[number]] += (int(logits[-1].argmax()),)
        going = [
            number for number in going
            if not _ended(model, replies[number]) and len(asked[number]) + len(replies[number]) < model.cfg.n_ctx
        ]  # fmt: skip
        if not going:
            break
    texts = tuple(_text(model, reply) for reply in replies)
    return Replies(texts, provenance=provenance(model, prompts=len(prompts)))


def spillover(
    wrong: Bool[Tensor, " prompt"], replies: Sequence[str], new: Sequence[Sequence[str]], inputs: Sequence[str]
) -> Spillover:
    """Whose answers the wrong ones are.

    Args:
        wrong: which prompts of the old task were answered wrongly.
        replies: the replies to these prompts.
        new: for each prompt, what the new task would answer to its input.
        inputs: the inputs.
    """
    at = wrong.nonzero().flatten().tolist()
    if not at:
        return Spillover(NOTHING, float("nan"))
    copies = sum(_begins(replies[each], [inputs[each]]) for each in at)
    spilled = sum(_begins(replies[each], [*new[each], inputs[each]]) for each in at)
    return Spillover(Interval(spilled / len(at), *wilson_interval(spilled, len(at))), copies / len(at))


def _begins(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply is one of the answers, or begins with one that ends where a word does."""
    found = [answer for answer in map(str.strip, answers) if answer and reply.startswith(answer)]
    return any(not reply[len(answer) :][:1].isalnum() for answer in found)


def _ended(model: Model, reply: Ids) -> bool:
    tokenizer: Any = model.tokenizer
    return reply[-1] in tokenizer.all_special_ids or "\n" in str(tokenizer.decode(list(reply))).lstrip()


def _text(model: Model, reply: Ids) -> str:
    """The reply as text, up to an end-of-text token or a line break."""
    tokenizer: Any = model.tokenizer
    special = set(tokenizer.all_special_ids)
    end = next((at for at, token in enumerate(reply) if token in special), len(reply))
    return str(tokenizer.decode(list(reply[:end]))).strip().partition("\n")[0].strip()
