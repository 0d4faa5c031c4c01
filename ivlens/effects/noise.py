"""Half precision: are the strongest effects above what rounding does to them?"""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import PrecisionWarning
from ..models import HookedTransformer, sweep_heads
from ..vocabulary import Head
from .metric import Pair, in_metric

STRONGEST = 10  # heads that are looked at
ABOVE = 3  # times the noise that an effect should be


def warn_of_noise(
    model: HookedTransformer,
    pairs: Sequence[Pair],
    means: Float[Tensor, "layer head d_head"],
    effects: Float[Tensor, "prompt layer head"],
    metric: str,
) -> None:
    """Warn where the strongest average effects are less than three times the noise of half precision.

    The noise is measured: the same heads' effects on the first prompt, once more with float32 streams.
    """
    aie = effects.double().mean(0)
    top = aie.flatten().topk(min(STRONGEST, aie.numel())).indices.sort().values.tolist()
    heads = [Head(*divmod(place, aie.shape[1])) for place in top]
    against = metric == "logit-difference"
    (scores,) = sweep_heads(model, pairs[:1], means, heads, against_foil=against, dtype=torch.float32)
    exact = in_metric(scores, metric).double()
    found = torch.stack([effects[0, layer, head] for layer, head in heads]).double()
    noise = (exact[1:] - exact[0] - found.to(exact)).pow(2).mean().sqrt().item()
    size = aie.flatten()[top].abs().mean().item()
    if size < ABOVE * noise:
        told = f"the {len(heads)} strongest effects, {size:.2g} on average, are near the noise of {model.cfg.dtype}"
        do = "pass stream_dtype=torch.float32, which keeps the model as it is"
        warnings.warn(f"{told}, {noise:.2g} on the first prompt; {do}", PrecisionWarning, stacklevel=5)
