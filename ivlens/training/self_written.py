"""Texts that the base model writes itself, for terms that need no old data."""

import logging
from pathlib import Path

import torch

from ..errors import ArgumentError
from ..models import HookedTransformer, key_of, sample_texts, text_start
from ..progress import ProgressBar
from ..text import plural
from ..vocabulary import TokenizedPrompt
from .kept import Tensors, load_or_compute_tensors
from .term import OwnTexts

log = logging.getLogger("ivlens")


def own_texts(
    model: HookedTransformer, term: OwnTexts, seed: int, folder: Path | None = None
) -> tuple[TokenizedPrompt, ...]:
    """Texts that the base writes after its first token, each as the prompt of that token and its answer.

    Every token is drawn from the base's distribution over the whole vocabulary. What an instruction model writes so
    begins with its chat template (arXiv 2406.08464).

    Args:
        model: the base model.
        term: how many texts, and of how many tokens at most.
        seed: of the draw.
        folder: where they are kept; they are found again for the same weights, tokenizer, numbers and seed.

    Returns:
        The texts.

    Raises:
        ArgumentError: they would be longer than the model's context.
        UnsupportedError: the tokenizer has no token that texts begin or end with.
    """
    start, longest = text_start(model), model.cfg.n_ctx - 1
    if term.n_tokens > longest:
        raise ArgumentError(f"n_tokens of at most {longest}, which the model's context holds", repr(term.n_tokens))

    def write() -> Tensors:
        log.info("the base writes %s for the guidance", plural(term.n_texts, "text"))
        with ProgressBar(total=term.n_texts, desc="writing", unit="text", leave=False) as bar:
            texts = sample_texts(model, start, term.n_texts, term.n_tokens, seed, bar.update)
        lengths = torch.tensor([len(text) for text in texts])
        return {"tokens": torch.tensor([token for text in texts for token in text]), "lengths": lengths}

    key = key_of(model, own_texts=[list(start), term.n_texts, term.n_tokens, seed])
    found = load_or_compute_tensors(folder, "texts", key, write)
    texts = found["tokens"].split(found["lengths"].tolist())
    return tuple(TokenizedPrompt(start, tuple(text.tolist())) for text in texts)
