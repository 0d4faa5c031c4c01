"""Sampling: texts drawn from the model's own distribution, at temperature 1 and from the whole vocabulary."""

from collections.abc import Callable

import torch

from ..errors import UnsupportedError
from ..vocabulary import Ids
from .decoding import continuation, end_of_text
from .engines import HookedTransformer, Model

BATCH_SIZE = 32  # texts that are drawn together


def text_start(model: Model) -> Ids:
    """The ids that a text begins with: the tokenizer's BOS token, or else the one that ends texts.

    Raises:
        UnsupportedError: the tokenizer has neither.
    """
    tokens = (getattr(model.tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    start = next((token for token in tokens if token is not None), None)
    if start is None:
        raise UnsupportedError("a tokenizer with a token that texts begin or end with", "one without")
    return (start,)


@torch.no_grad()
def sample_texts(
    model: HookedTransformer,
    start: Ids,
    n: int,
    max_tokens: int,
    seed: int,
    done: Callable[[int], object] = lambda count: None,
) -> list[Ids]:
    """Draw texts from the model: every token from its distribution after those before it.

    Args:
        model: the model.
        start: the ids that every text begins with.
        n: number of texts.
        max_tokens: tokens to draw for a text, at most; it ends before with a token that ends texts, which is kept.
        seed: of a generator of its own, on the CPU: the same texts on every device, up to the rounding of logits.
        done: called with the number of texts whenever some have ended.

    Returns:
        The ids of each text after its start.
    """
    generator, ends, texts = torch.Generator().manual_seed(seed), end_of_text(model), list[Ids]()
    while len(texts) < n:
        drawn = _sampled(model, [start] * min(BATCH_SIZE, n - len(texts)), max_tokens, ends, generator)
        texts += drawn
        done(len(drawn))
    return texts


def _sampled(
    model: HookedTransformer, starts: list[Ids], max_tokens: int, ends: set[int], generator: torch.Generator
) -> list[Ids]:
    feed, chosen = continuation(model, starts), None
    texts: list[Ids] = [()] * len(starts)
    going = set(range(len(starts)))
    for _ in range(max_tokens):
        probabilities = feed(chosen).double().softmax(-1).cpu()
        chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        for row in sorted(going):
            texts[row] += (int(chosen[row]),)
            if int(chosen[row]) in ends:
                going.remove(row)
        if not going:
            break
    return texts
