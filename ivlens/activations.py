"""Mean output of every head at the last token of clean prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .errors import at_least
from .models import HookedTransformer, batches, final_residual, hooked, last_token, padded, provenance, z_name
from .records import HeadMeans
from .scoring import all_ids
from .tasks import Prompt


@torch.inference_mode()
def mean_head_activations(
    model: HookedTransformer, prompts: Sequence[Prompt], *, batch_size: int = 32
) -> HeadMeans:
    """Mean over clean prompts of each head's output before W_O at the last token (2310.15213, eq. 3).

    ``.values`` is [layer, head, d_head], in float32 or wider. Batches stream through: of each, only ``hook_z`` at the
    last token is kept, summed in float64.

    Raises:
        PromptError: no prompts, or one that cannot be tokenised or is longer than the model's context.
    """
    at_least("batch_size", batch_size, 1)
    pairs = [(prompt, ()) for prompt, _ in all_ids(model, prompts)]
    cfg = model.cfg
    sums = torch.zeros(cfg.n_layers, cfg.n_heads, cfg.d_head, dtype=torch.float64)

    def add(layer: int, z: Tensor) -> None:
        sums[layer] += z[last_token(z)].double().sum(0).cpu()

    edits = {z_name(layer): lambda z, layer=layer: add(layer, z) for layer in range(cfg.n_layers)}
    with (
        hooked(model, edits),
        tqdm(total=len(pairs), desc="mean activations", unit="prompt", leave=False, disable=None) as bar,
    ):
        for _, batch in batches(pairs, batch_size):
            final_residual(model, padded(batch, cfg.device))
            bar.update(len(batch))
    dtype = torch.float64 if cfg.dtype == torch.float64 else torch.float32
    tasks = sorted({prompt.task for prompt in prompts})
    return HeadMeans(
        (sums / len(pairs)).to(dtype), len(pairs), task=", ".join(tasks), provenance=provenance(model, prompts=len(pairs))
    )
