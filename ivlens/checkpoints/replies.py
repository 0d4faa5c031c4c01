"""What a checkpoint replies, and whose answers these are: the new task's, or copies of the input."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from jaxtyping import Bool
from torch import Tensor

from ..models import Model, provenance
from ..records import Replies
from ..scoring import decode, first_line, prompt_ids, text_of
from ..stats import NOTHING, Interval, wilson_interval
from ..tasks import Prompt
from ..vocabulary import Ids

LONGEST = 10  # tokens of a reply


class Spillover(NamedTuple):
    """Among wrong answers, the fraction that are the new task's or copies of the input, and that are copies."""

    share: Interval
    copied: float


def greedy_replies(model: Model, prompts: Sequence[Prompt], batch_size: int = 32) -> Replies:
    """What the model replies to each prompt, token by token the most likely one, up to a line break or ``LONGEST``."""
    tokenizer: Any = model.tokenizer
    special = set(tokenizer.all_special_ids)
    asked = prompt_ids(model, prompts)
    limits = [min(LONGEST, model.cfg.n_ctx - len(ids)) for ids in asked]

    def ended(reply: Ids) -> bool:
        return reply[-1] in special or "\n" in text_of(model, reply).lstrip()

    replies = decode(model, prompts, asked, limits, ended, batch_size)
    texts = tuple(first_line(text_of(model, reply, special)) for reply in replies)
    return Replies(texts, provenance=provenance(model, prompts=len(prompts)))


def texts_to_show(judged: Sequence[str], replies: Sequence[str]) -> tuple[str, ...]:
    """What was answered to each prompt: the text that was judged, else the reply.

    Where answers are judged by their probability only a right one has a text.
    """
    return tuple(text or reply for text, reply in zip_longest(judged, replies, fillvalue=""))


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
