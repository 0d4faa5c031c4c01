"""Generated answers under steering, for each layer, scale and vector: what streams, which are teacher forced, lack."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models import Model
from ..progress import ProgressBar
from ..scoring import judge_generated
from ..tasks import Prompt
from ..vocabulary import Site
from ._steer import steer

AT_ONCE = 32  # prompts


def judge_steered(
    model: Model,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    added: Float[Tensor, "scale k d_model"],
    site: Site,
) -> Bool[Tensor, "layer scale k prompt"]:
    """Whether each prompt, judged by its generated answer, is answered rightly with each vector added at each layer."""
    correct = torch.zeros(len(layers), *added.shape[:2], len(prompts), dtype=torch.bool)
    settings = [(i, s, k) for i in range(len(layers)) for s in range(len(added)) for k in range(added.shape[1])]
    for i, s, k in ProgressBar(settings, desc="steered answers", unit="setting", leave=False):
        with steer(model, added[s, k], layers[i], site=site):
            correct[i, s, k] = judge_generated(model, prompts, AT_ONCE).correct
    return correct
