"""The diagonal of the Fisher information of weights, for elastic weight consolidation (arXiv 1612.00796)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..models import HookedTransformer, at_answers, final_logits, final_residual, padded
from ..progress import ProgressBar
from ..vocabulary import TokenizedPrompt
from .objective import cross_entropy


def diagonal_fisher(
    model: HookedTransformer,
    pairs: Sequence[TokenizedPrompt],
    weights: Mapping[str, Tensor],
    seed: int | None = None,
) -> dict[str, Tensor]:
    """The mean over prompts of ``(d/dw log p(answer | prompt))^2``, of each element of the weights.

    Gradients are squared for each prompt alone: the square of a batch's gradient would be another quantity. The
    log-probability is the sum over the answer's tokens.

    Args:
        model: the model, whose ``weights`` require gradients.
        pairs: prompts with answers.
        weights: the weights by name, of any shapes.
        seed: draw each of the answer's tokens from the model's distribution after the prompt and the tokens before it,
            for the true Fisher information of these predictions; None: the answers themselves, the empirical one, which
            is the true one where the model wrote them.

    Returns:
        The diagonal by the weights' names, in squared nats per squared unit of the weight.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with ProgressBar(total=len(pairs), desc="Fisher information", unit="prompt", leave=False) as bar:
        for pair in pairs:
            rows = padded([pair], model.cfg.device)
            logits = final_logits(model, at_answers(final_residual(model, rows), rows))
            targets = torch.tensor(pair.answer_ids, device=logits.device)
            if generator is not None:
                drawn = torch.multinomial(logits.detach().double().softmax(-1).cpu(), 1, generator=generator)
                targets = drawn[:, 0].to(logits.device)
            loss = cross_entropy(logits, targets).sum()
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for square, gradient in zip(squares.values(), gradients, strict=True):
                if gradient is not None:  # a weight that this prompt does not reach
                    square.addcmul_(gradient, gradient, value=1 / len(pairs))
            bar.update()
    return squares
