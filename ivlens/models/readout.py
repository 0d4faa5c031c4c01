"""What metrics need of an answer's logits, read off final residual streams block by block of the vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.activation_functions import apply_softcap

from .runs import Ids

LOGITS_AT_ONCE = 1 << 19  # about 2 MB of logits: a block of the vocabulary that stays in cache


@dataclass(frozen=True)
class Readout:
    """What metrics need of an answer's logits, each [stream, answer]: the logit of the answer's token, that of the
    strongest wrong token of the first stream, and the log-sum-exp over the vocabulary."""

    target: Float[Tensor, "stream answer"]
    foil: Float[Tensor, "stream answer"]
    normaliser: Float[Tensor, "stream answer"]

    @classmethod
    def of(
        cls, logits: Float[Tensor, "stream answer vocab"], answer: Ids, foils: Int[Tensor, " answer"]
    ) -> "Readout":
        """The readout of whole logits."""
        logits = _wide(logits)
        at = torch.arange(len(answer), device=logits.device)
        targets = torch.tensor(answer, device=logits.device)
        return cls(logits[:, at, targets], logits[:, at, foils], logits.logsumexp(-1))

    @classmethod
    def cat(cls, parts: Sequence["Readout"]) -> "Readout":
        """The parts' streams, one part after another."""
        fields = ([getattr(part, name) for part in parts] for name in ("target", "foil", "normaliser"))
        return cls(*map(torch.cat, fields))

    def patched(self) -> "Readout":
        """All streams but the first, clean one."""
        return Readout(self.target[1:], self.foil[1:], self.normaliser[1:])


def read_answer(model: HookedTransformer, residual: Float[Tensor, "stream answer d_model"], answer: Ids) -> Readout:
    """Read an answer off final residual streams without ever holding their logits: block by block of the vocabulary."""
    weight, bias = model.unembed.W_U.T, model.unembed.b_U  # weight is a view, contiguous in the layout after loading
    cap = model.cfg.output_logits_soft_cap
    normed = model.ln_final(residual)
    targets = torch.tensor(answer, device=residual.device)
    foils = strongest_wrong(apply_softcap(F.linear(normed[0], weight, bias), cap), targets)

    def logits_of(tokens: Int[Tensor, " answer"]) -> Float[Tensor, "stream answer"]:
        chosen = (_wide(normed) * _wide(weight[tokens])).sum(-1) + _wide(bias[tokens])
        return apply_softcap(chosen, cap)

    size = max(256, LOGITS_AT_ONCE // normed[..., 0].numel())
    biases = bias.split(size) if bias.any() else [None] * len(range(0, len(weight), size))
    blocks = zip(weight.split(size), biases, strict=True)
    sums = [_wide(apply_softcap(F.linear(normed, block, b), cap)).logsumexp(-1) for block, b in blocks]
    return Readout(logits_of(targets), logits_of(foils), torch.stack(sums).logsumexp(0))


def strongest_wrong(logits: Float[Tensor, "answer vocab"], targets: Int[Tensor, " answer"]) -> Int[Tensor, " answer"]:
    """For each of the answer's tokens, the most likely other token: the foil of the logit difference."""
    return logits.scatter(-1, targets[:, None], -torch.inf).argmax(-1)


def _wide(values: Tensor) -> Tensor:
    """In float32 or wider: probabilities of half-precision logits are not worth their name."""
    return values.float() if values.element_size() < 4 else values
