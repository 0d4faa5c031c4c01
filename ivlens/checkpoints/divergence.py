"""How far a checkpoint's next-token distributions are from its base's, on prompts and on a plain text.

The base's log-probabilities are kept in a file, in float32 or wider, so that one model is in memory at a time.
"""

from collections.abc import Sequence
from importlib.resources import files

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import Model, answer_streams, batches, check_length, final_logits, runs_edited_once
from ..scoring import all_ids
from ..tasks import Prompt
from ..vocabulary import TokenizedPrompt

TEXT = "pride-and-prejudice.txt"  # the opening of Jane Austen's novel of 1813, which is in the public domain
TEXT_POSITIONS = 64  # at most, evenly spaced over the text


@torch.no_grad()
def log_probabilities(model: Model, prompts: Sequence[Prompt], batch_size: int = 32) -> Float[Tensor, "token vocab"]:
    """Log-probabilities of the tokens of the prompts' first accepted answers and all others, prompt by prompt."""
    pairs = all_ids(model, prompts)
    found: dict[int, Tensor] = {}
    once = runs_edited_once(model)
    for numbers, batch in batches(pairs, batch_size, alike=once):
        for number, residual in zip(numbers, answer_streams(model, batch, once=once), strict=True):
            found[number] = final_logits(model, residual).log_softmax(-1).cpu()
    return torch.cat([found[number] for number in range(len(pairs))])


@torch.no_grad()
def text_log_probabilities(model: Model) -> Float[Tensor, "token vocab"]:
    """The same at positions of the bundled text, as much of it as fits into the model's context."""
    text = Prompt(bundled_text(), ("\n",))  # the answer is not used
    ids = tuple(text.token_ids(model.tokenizer))[: model.cfg.n_ctx]
    pair = TokenizedPrompt(ids[:1], ids[1:])
    check_length(model, [pair])
    count = min(TEXT_POSITIONS, len(pair.answer_ids))
    at = torch.linspace(0, len(pair.answer_ids) - 1, count).long()
    (residual,) = answer_streams(model, [pair], once=runs_edited_once(model))
    return final_logits(model, residual[at.to(residual.device)]).log_softmax(-1).cpu()


def bundled_text() -> str:
    """A few hundred words of English prose."""
    return files(__package__).joinpath("data", TEXT).read_text(encoding="utf-8")


def kl_divergence(
    base: Float[Tensor, "token vocab"], own: Float[Tensor, "token other_vocab"]
) -> Float[Tensor, " token"]:
    """KL(base || own) in nats of each position; tokens that only one of the models has are left out of both."""
    shared = min(base.shape[-1], own.shape[-1])
    one, two = (each[:, :shared].double().log_softmax(-1) for each in (base, own))
    return (one.exp() * (one - two)).sum(-1)
